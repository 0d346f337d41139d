"""Pictures of parts for a line, sent by a browser: the line judges them as those of its camera."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from patchline.archive.base import Record, Search
from patchline.console import audit, picture_names
from patchline.console.context import Console
from patchline.console.hand_in import HandIn
from patchline.console.states import SILENT
from patchline.console.texts import mark
from patchline.console.told import Told
from patchline.console.uploads import Limits
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit
from patchline.inspection import decode, image_header
from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError, Unusable
from patchline.runtime import disk

_MOST = 20  # at once: a slow worker judges as many before the first is too late
_LATER_MS = 5_000  # after the time of its part is over, a verdict is in the archive within this time
_LONGEST_TIME = 15  # digits
_NOTHING_NEW = Answer(b"", status=204)
_NO_PUBLISHER = mark(
    "Nothing was sent. Look at the page Plant, and send again once a publisher can be heard that takes pictures for "
    "this line."
)
_NO_WORKER = mark("Nothing was sent. Look at the page Plant, and send again once a worker serves this category.")


@dataclass(frozen=True)
class Sent:
    """A part that was sent.

    Attributes:
        record: its verdict; None: there is none yet.
        name: of its file, if the id does not say it: an id has no Chinese, for example.
    """

    part_id: str
    record: Record | None
    name: str = ""


@dataclass(frozen=True)
class Sending:
    """Parts that were sent together.

    Attributes:
        at: when, in epoch milliseconds; 0: nobody knows.
        overdue: their time is over: what has no verdict by now can only be too late.
        key: to what is told of them, see `Notes`.
    """

    parts: list[Sent]
    at: int
    overdue: bool
    key: str

    @property
    def have(self) -> str:
        """What of them a browser knows, for it to ask for more."""
        return f"{self.judged}{'-overdue' if self.overdue else ''}"

    @property
    def judged(self) -> int:
        """How many have a verdict."""
        return sum(one.record is not None for one in self.parts)


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
    sending, have = _sending(console, visit), visit.one("have")
    patience = {"patience_s": console.settings.publisher.deadline_ms / 1000}
    if not (visit.partial and have):
        return _page(console, visit, sending, patience)
    if have == sending.have:
        return _NOTHING_NEW
    return console.templates.render("send_parts.html", visit, sending=sending, **patience)


def limits(console: Console, visit: Visit) -> Limits:
    """Return how much may be sent at once."""
    hand_in, most_bytes = _hand_in(console), console.settings.images.max_bytes
    hand_in.sweep()
    return Limits(hand_in.incoming, _MOST, most_bytes, min(hand_in.room(), _MOST * most_bytes))


def send(console: Console, visit: Visit) -> Reply:
    """Hand the pictures to a line. The page that says what became of them can be loaded again, and come back to."""
    hand_in = _hand_in(console)
    line, category = visit.one("line"), visit.one("category")
    if line not in _lines(console, hand_in):
        raise Refused(409, _NO_PUBLISHER, line[:80])
    if category not in _categories(console):
        raise Refused(409, _NO_WORKER, category[:80])
    if not any(one.name for one in visit.files):
        raise Refused(400, mark("No picture was chosen, so nothing was sent. Go back, and choose one or more."))
    pictures, refused = _look(console, visit, category)
    sent: dict[str, _Picture] = {}
    try:
        for one in pictures:
            sent[hand_in.put(line, category, one.name, one.content_type, one.path)] = one
    except SetupError as error:
        if not sent:
            raise
        refused += [(one.name, str(error)) for one in pictures[len(sent) :]]
    if sent:
        detail = f"{line}, {category}: {', '.join(sent)}"
        audit.record(console.database, visit.person.name, "pictures sent", detail)
    told = Told(tuple(refused), turned=sum(one.turned for one in sent.values()), names=_unsaid(sent))
    about = {"line": line, "category": category, "at": str(console.now_ms()), "told": console.notes.keep(told)}
    return Redirect("/line/send?" + urlencode([*about.items(), *(("part", part_id) for part_id in sent)]))


def _unsaid(sent: Mapping[str, _Picture]) -> dict[str, str]:
    """Return the names of files of which the ids of their parts have not all."""
    return {id_: one.name for id_, one in sent.items() if picture_names.stem(one.name) != Path(one.name).stem}


def _page(console: Console, visit: Visit, sending: Sending, patience: Mapping[str, float]) -> Answer:
    told = console.notes.of(sending.key)
    return console.templates.render(
        "send.html",
        visit,
        lines=_lines(console, _hand_in(console)),
        categories=_categories(console),
        unseen=[name for name in _served(console) if image_files.is_left_out(name)],
        refused=told.refused,
        turned=told.turned,
        most=_MOST,
        most_bytes=console.settings.images.max_bytes,
        sending=sending,
        **patience,
    )


def _sending(console: Console, visit: Visit) -> Sending:
    """Return what became of the parts that the path of a page names."""
    text, key = visit.one("at"), visit.one("told")
    at = int(text) if text.isdecimal() and len(text) < _LONGEST_TIME else 0
    due = at + console.settings.publisher.deadline_ms + _LATER_MS
    sent = _found(console, visit.all("part")[:_MOST], console.notes.of(key).names)
    return Sending(sent, at, at > 0 and console.now_ms() > due and any(one.record is None for one in sent), key)


def _hand_in(console: Console) -> HandIn:
    if console.hand_in is None:
        raise Refused(404)
    return console.hand_in


def _lines(console: Console, hand_in: HandIn) -> list[str]:
    """Return the lines with a folder here that a publisher takes, and can be heard: of others, pictures would wait.

    A line may have another publisher, for its camera.
    """
    heard = {one.line for one in console.states.all() if one.hand_in and one.state != SILENT}
    return [name for name in hand_in.lines() if name in heard]


def _categories(console: Console) -> list[str]:
    """Return the categories that a worker serves: parts of others would wait until they are too late.

    So would those whose name is that of a folder that publishers leave out.
    """
    return [name for name in _served(console) if not image_files.is_left_out(name)]


def _served(console: Console) -> list[str]:
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
        try:
            body = file.path.read_bytes()
        except OSError as error:
            raise disk.unwritable(file.path, error) from error
        content_type = image_files.content_type_of(Path(file.name), body)
        try:
            decode.decode(body, content_type, images, depth)
        except Unusable as error:
            refused.append((file.name, error.detail))
        else:
            is_turned = image_header.orientation(body) != 1
            pictures.append(_Picture(file.name, content_type, file.path, is_turned))
    return pictures, refused


def _found(console: Console, ids: Iterable[str], names: Mapping[str, str]) -> list[Sent]:
    # A search that is not read to its end keeps a connection to the database, and there are fewer than parts.
    found = {part_id: list(console.archive.find(Search(part=part_id, most=1))) for part_id in ids}
    return [Sent(part_id, next(iter(records), None), names.get(part_id, "")) for part_id, records in found.items()]
