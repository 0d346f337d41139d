"""Everything that is known of a part, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import pydantic

from patchline.archive.base import Record
from patchline.archive.ledger import GapKind, GapSearch, Judged, newest
from patchline.archive.store import StoreUnavailable
from patchline.console import events, words
from patchline.console.context import Console
from patchline.console.events import Event
from patchline.console.texts import mark
from patchline.console.visit import Answer, Refused, Reply, Visit
from patchline.inspection import decode, picture
from patchline.protocol import messages, picture_message
from patchline.protocol.errors import Unusable
from patchline.protocol.messages import Verdict

_MOST_JOBS = 20
_SHOWN_BY_BROWSERS = {"image/png", "image/jpeg", "image/webp", "image/bmp"}


@dataclass(frozen=True)
class Part:
    """What a page shows of a job.

    Attributes:
        record: its first verdict; None: there is none yet.
        verdict: the message of it; None also if it cannot be read.
        pictures: their kinds.
        judgement: the one that counts.
        problems: what is missing or contradictory, to be translated.
    """

    job_id: str
    record: Record | None
    verdict: Verdict | None
    pictures: list[str]
    events: list[Event]
    judgement: Judged | None
    problems: list[str]


def show(console: Console, visit: Visit) -> Reply:
    """Show a part by its id, or a job by its own."""
    name = visit.names["name"]
    jobs = console.archive.jobs_of(name, _MOST_JOBS)
    if not jobs:
        raise Refused(404, mark("The archive knows no part and no job of this name."), name)
    chosen = visit.one("job")
    job_id = chosen if chosen in jobs else jobs[0]
    return console.templates.render(
        "part.html",
        visit,
        name=name,
        jobs=jobs,
        part=read(console, job_id),
        kinds=console.settings.console.defect_kinds,
    )


def read(console: Console, job_id: str) -> Part:
    """Return what is known of a job."""
    archive = console.archive
    first, entries = archive.get(job_id), archive.entries(job_id)
    verdicts = ([] if first is None else [first]) + archive.further(job_id)
    judged = [entry for entry in entries if isinstance(entry, Judged)]
    search = GapSearch(until=console.now_ms(), job_id=job_id)
    return Part(
        job_id=job_id,
        record=first,
        verdict=None if first is None else _verdict(first),
        pictures=console.pictures.kinds([job_id]).get(job_id, []),
        events=events.events(verdicts, entries),
        judgement=newest(judged) if judged else None,
        problems=[words.GAPS[kind] for kind in GapKind if list(archive.gaps(kind, search))],
    )


def show_picture(console: Console, visit: Visit) -> Reply:
    """Show the image of a job, or its heat map, as a browser can show it."""
    found = [row for row in console.pictures.of_job(visit.names["job"]) if row.kind == visit.names["kind"]]
    if not found:
        raise Refused(404, mark("The archive has no such picture."))
    row = found[0]
    try:
        body = console.store.get(row.digest)
    except StoreUnavailable as error:
        raise Refused(503, mark("The store of the pictures does not answer."), str(error)) from error
    if body is None:
        raise Refused(404, mark("The store has lost this picture."))
    if row.content_type in _SHOWN_BY_BROWSERS or row.kind != picture_message.IMAGE:
        kind = row.content_type if row.content_type in _SHOWN_BY_BROWSERS else messages.NO_CONTENT
        return Answer(body, kind)
    return Answer(_as_png(console, body, row.content_type, row.category), "image/png")


def _as_png(console: Console, body: bytes, content_type: str, category: str) -> bytes:
    """Return an image of another format as browsers show it, in the 8 bits that were judged."""
    recipe = console.settings.categories.get(category)
    depth = decode.AS_STORED if recipe is None else recipe.depth
    try:
        return picture.encode_png(decode.decode(body, content_type, console.settings.images, depth))
    except Unusable as error:
        raise Refused(404, mark("This picture cannot be shown."), error.detail) from error


def _verdict(record: Record) -> Verdict | None:
    try:
        return Verdict.model_validate_json(record.document, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError:
        return None
