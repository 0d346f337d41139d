"""Pictures of parts for a line, sent by a browser: the line judges them as those of its camera."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from patchline.archive.base import Record, Search
from patchline.console import audit
from patchline.console.context import Console
from patchline.console.hand_in import HandIn
from patchline.console.states import SILENT
from patchline.console.texts import mark
from patchline.console.uploads import Limits
from patchline.console.visit import Answer, Refused, Reply, Visit
from patchline.inspection import decode, image_header
from patchline.protocol import image_files, messages
from patchline.protocol.errors import Unusable

_MOST = 20  # at once: a slow worker judges as many before the first is too late
_NOTHING_NEW = Answer(b"", status=204)


@dataclass(frozen=True)
class Sent:
    """A part that was sent. `record`: its verdict; None: there is none yet."""

    part_id: str
    record: Record | None


@dataclass(frozen=True)
class _Picture:
    """An uploaded file that the line can judge. `turned`: its EXIF orientation is not upright."""

    name: str
    content_type: str
    path: Path
    turned: bool


def show(console: Console, visit: Visit) -> Reply:
    """Show the form; or for htmx, what became of the parts of which a browser has some verdicts."""
    _hand_in(console)
    sent, have = _sent(console, visit.all("part")[:_MOST]), visit.one("have")
    if not (visit.partial and have):
        return _page(console, visit, sent)
    is_new = have != str(_judged(sent))
    return console.templates.render("send_parts.html", visit, **_shown(sent)) if is_new else _NOTHING_NEW


def limits(console: Console, visit: Visit) -> Limits:
    """Return how much may be sent at once."""
    hand_in, most_bytes = _hand_in(console), console.settings.images.max_bytes
    return Limits(hand_in.incoming, _MOST, most_bytes, min(hand_in.room(), _MOST * most_bytes))


def send(console: Console, visit: Visit) -> Reply:
    """Hand the pictures to a line, and say which were refused."""
    hand_in = _hand_in(console)
    line, category = visit.one("line"), visit.one("category")
    if line not in _lines(console, hand_in):
        raise Refused(409, mark("No publisher of this line can be heard. Nothing was sent."), line[:80])
    if category not in _categories(console):
        raise Refused(409, mark("No worker serves this category. Nothing was sent."), category[:80])
    hand_in.sweep()
    pictures, refused = _look(console, visit, category)
    ids: list[str] = []
    try:
        for one in pictures:
            ids.append(hand_in.put(line, category, one.name, one.content_type, one.path))
    finally:
        if ids:
            detail = f"{line}, {category}: {', '.join(ids)}"
            audit.record(console.database, visit.person.name, "pictures sent", detail)
    sent = [Sent(part_id, None) for part_id in ids]
    return _page(console, visit, sent, refused, sum(one.turned for one in pictures))


def _page(
    console: Console,
    visit: Visit,
    sent: list[Sent],
    refused: Iterable[tuple[str, str]] = (),
    turned: int = 0,
) -> Answer:
    return console.templates.render(
        "send.html",
        visit,
        lines=_lines(console, _hand_in(console)),
        categories=_categories(console),
        refused=list(refused),
        turned=turned,
        most=_MOST,
        most_bytes=console.settings.images.max_bytes,
        **_shown(sent),
    )


def _shown(sent: list[Sent]) -> dict[str, object]:
    return {"sent": sent, "have": _judged(sent)}


def _judged(sent: list[Sent]) -> int:
    return sum(one.record is not None for one in sent)


def _hand_in(console: Console) -> HandIn:
    if console.hand_in is None:
        raise Refused(404)
    return console.hand_in


def _lines(console: Console, hand_in: HandIn) -> list[str]:
    """Return the lines with a folder here whose publisher can be heard: nobody takes the pictures of others."""
    heard = {one.line for one in console.states.all() if one.role == "publisher" and one.state != SILENT}
    return [name for name in hand_in.lines() if name in heard]


def _categories(console: Console) -> list[str]:
    """Return the categories that a worker serves: parts of others would wait until they are too late."""
    workers = [one for one in console.states.all() if one.role == "worker" and one.state != SILENT]
    served = {name for one in workers for name in one.banks}
    return sorted(name for name in served if re.fullmatch(messages.NAME_PATTERN, name))


def _look(console: Console, visit: Visit, category: str) -> tuple[list[_Picture], list[tuple[str, str]]]:
    """Return the pictures that the line can judge; and each refused file with the reason."""
    pictures, refused = [], []
    images, depth = console.settings.images, console.settings.category(category).depth
    for file in visit.files:
        if file.path is None:
            if file.problem:
                refused.append((file.name, console.templates.say(visit, file.problem)))
            continue
        body = file.path.read_bytes()
        content_type = image_files.content_type_of(Path(file.name), body)
        try:
            decode.decode(body, content_type, images, depth)
        except Unusable as error:
            refused.append((file.name, error.detail))
        else:
            is_turned = image_header.orientation(body) != 1
            pictures.append(_Picture(file.name, content_type, file.path, is_turned))
    return pictures, refused


def _sent(console: Console, names: Iterable[str]) -> list[Sent]:
    found = {name: console.archive.find(Search(part=name, most=1)) for name in names}
    return [Sent(name, next(iter(records), None)) for name, records in found.items()]
