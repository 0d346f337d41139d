"""Everything that is known of a part, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import pydantic

from patchline.archive.base import Record
from patchline.archive.ledger import GapKind, GapSearch, Judged
from patchline.archive.pictures import PictureRow
from patchline.archive.store import StoreUnavailable
from patchline.console import events, opinions, outlines, part_times, words
from patchline.console.context import Console
from patchline.console.events import Event
from patchline.console.looks import Look
from patchline.console.opinions import Opinion
from patchline.console.part_times import Times
from patchline.console.texts import mark
from patchline.console.visit import Answer, Refused, Reply, Visit
from patchline.inspection import decode, image_header, picture
from patchline.operations.look_result import Lack
from patchline.protocol import image_files, messages, picture_message
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
        look: the closer look, if somebody has asked for it lately.
        lack: why it cannot be judged again, as far as the archive's rows say.
        times: of its way.
        opinions: what each person says now, the latest first, which counts.
        judgements: all of them, the latest first.
        problems: what is missing or contradictory, to be translated.
    """

    job_id: str
    record: Record | None
    verdict: Verdict | None
    pictures: list[str]
    look: Look | None
    lack: Lack | None
    events: list[Event]
    times: Times
    opinions: list[Opinion]
    judgements: list[Judged]
    problems: list[str]

    @property
    def heat_map(self) -> str:
        """The path of its heat map: the archive's, or else that of the closer look; empty if there is none."""
        if picture_message.HEAT_MAP in self.pictures:
            return f"/picture/{self.job_id}/{picture_message.HEAT_MAP}"
        is_there = self.look is not None and self.look.found is not None and self.look.found.heat_map is not None
        return f"/look/{self.job_id}/heat_map" if is_there else ""

    @property
    def trace(self) -> str:
        """The id of its trace (W3C Trace Context); empty if the verdict names none."""
        fields = ((self.verdict and self.verdict.traceparent) or "").split("-")
        return fields[1] if len(fields) == 4 else ""


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
        stages=part_times.STAGES,
        trace_url=console.settings.console.trace_url,
    )


def read(console: Console, job_id: str) -> Part:
    """Return what is known of a job."""
    archive = console.archive
    first, entries = archive.get(job_id), archive.entries(job_id)
    verdicts = ([] if first is None else [first]) + archive.further(job_id)
    judged = [entry for entry in entries if isinstance(entry, Judged)]
    verdict = None if first is None else _verdict(first)
    kinds = console.pictures.kinds([job_id]).get(job_id, [])
    deadline, stages = (None, {}) if verdict is None else (verdict.deadline, verdict.durations_ms)
    search = GapSearch(until=console.now_ms(), job_id=job_id)
    return Part(
        job_id=job_id,
        record=first,
        verdict=verdict,
        pictures=kinds,
        look=console.looks.of(job_id),
        lack=lack_of(first, kinds),
        events=events.events(verdicts, entries),
        times=part_times.times(first, deadline, stages, entries),
        opinions=opinions.standing(judged, console.given.of(job_id)),
        judgements=sorted(judged, key=lambda one: (-one.judged_at, -one.archived_at)),
        problems=[words.GAPS[kind] for kind in GapKind if list(archive.gaps(kind, search))],
    )


def lack_of(record: Record | None, kinds: list[str]) -> Lack | None:
    """Return why a part cannot be judged again, as far as its rows in the archive say; None: perhaps it can."""
    if record is None:
        return Lack.VERDICT
    if record.score is None:
        return Lack.SCORE
    return None if picture_message.IMAGE in kinds else Lack.IMAGE


def show_picture(console: Console, visit: Visit) -> Reply:
    """Show the image of a job, or its heat map, as a browser can show it."""
    row, body = _stored(console, visit.names["job"], visit.names["kind"])
    recipe = console.settings.recipe(row.category)
    depth = decode.AS_STORED if recipe is None else recipe.depth
    # A browser would show 12 bits in a file of 16 as nearly black.
    is_shown = row.content_type in _SHOWN_BY_BROWSERS and (depth.bits is None or row.kind != picture_message.IMAGE)
    if is_shown or row.kind != picture_message.IMAGE:
        return Answer(body, row.content_type if is_shown else messages.NO_CONTENT)
    try:
        rgb = decode.decode(body, row.content_type, console.settings.images, depth)
    except Unusable as error:
        raise Refused(404, mark("This picture cannot be shown."), error.detail) from error
    return Answer(picture.encode_png(rgb), "image/png")


def show_outlines(console: Console, visit: Visit) -> Reply:
    """Show the outlines of the regions of a job, as a picture of the same size as its image."""
    record = console.archive.get(visit.names["job"])
    verdict = None if record is None else _verdict(record)
    if verdict is None or not verdict.regions:
        raise Refused(404, mark("The archive has no such picture."))
    _, body = _stored(console, verdict.job_id, picture_message.IMAGE)
    try:
        header = image_header.read(body, image_files.detect_content_type(body) or "")
    except (Unusable, KeyError) as error:
        raise Refused(404, mark("This picture cannot be shown."), str(error)) from error
    return Answer(outlines.draw(verdict.regions, header.width, header.height), "image/svg+xml")


def _stored(console: Console, job_id: str, kind: str) -> tuple[PictureRow, bytes]:
    found = [row for row in console.pictures.of_job(job_id) if row.kind == kind]
    if not found:
        raise Refused(404, mark("The archive has no such picture."))
    try:
        body = console.store.get(found[0].digest)
    except StoreUnavailable as error:
        raise Refused(503, mark("The store of the pictures does not answer."), str(error)) from error
    if body is None:
        raise Refused(404, mark("The store has lost this picture."))
    return found[0], body


def _verdict(record: Record) -> Verdict | None:
    try:
        return Verdict.model_validate_json(record.document, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError:
        return None
