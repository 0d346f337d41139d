"""Rejects one by one: good, a defect, or unsure. What was said can be taken back."""

from __future__ import annotations

from urllib.parse import urlencode

from patchline.archive.base import Record, Search
from patchline.archive.ledger import Judged
from patchline.broker.base import BrokerError
from patchline.console import audit, known_categories, opinions, part_page
from patchline.console.context import Console
from patchline.console.search_page import place, place_of, search_of
from patchline.console.texts import mark
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit
from patchline.operations import judging
from patchline.protocol.errors import SetupError
from patchline.protocol.judgement_message import Judgement, Label
from patchline.protocol.messages import Decision

_REJECTS = (Decision.FAIL, Decision.REVIEW)
_PAGE, _MOST_PAGES = 200, 50  # a look at 10,000 rejects at most
_KEPT = ("line", "category", "since")  # of the query, from part to part


def show(console: Console, visit: Visit) -> Reply:
    """Show the latest reject that nobody has judged."""
    return _next(console, visit)


def judge(console: Console, visit: Visit) -> Reply:
    """Publish what the person says, and show the next part. What others have said meanwhile is shown first."""
    said = _judgement(console, visit)
    with console.given.alone(said.job_id):
        found = opinions.of(console, said.job_id)
        is_back = said.judgement == Label.WITHDRAWN
        if not is_back and opinions.unseen(found, said.by, visit.form.get("seen", ())):
            return _met(console, visit, said)
        if opinions.changes(found, said):
            _publish(console, said)
    if visit.one("from") == "part":
        return Redirect(f"/part/{said.job_id}?said={said.judgement}")
    return _next(console, visit, said) if visit.partial else Redirect(f"/review?{_query(visit, last=_taken(said))}")


def _publish(console: Console, said: Judgement) -> None:
    try:
        console.judge(said)
    except (BrokerError, SetupError) as error:
        raise Refused(503, mark("This was not stored. Try again."), str(error)) from error
    console.given.add(said)
    detail = f"{said.job_id}: {said.judgement}" + ("" if said.kind is None else f" ({said.kind})")
    audit.record(console.database, said.by, "part judged", detail)


def _met(console: Console, visit: Visit, said: Judgement) -> Reply:
    """Show the part again to who did not know what others have said of it."""
    if visit.one("from") == "part":
        return Redirect(f"/part/{said.job_id}?met=1")
    return _render(console, visit, said.job_id, visit.one("last"), met=True)


def _judgement(console: Console, visit: Visit) -> Judgement:
    try:
        word, _, chosen = visit.one("judgement").partition(":")
        label, note = Label(word), visit.one("note") or None
        kind = (chosen or visit.one("kind") or None) if label is Label.DEFECT else None
        return judging.make(visit.one("job"), label, kind, visit.person.name, note, console.now_ms())
    except (SetupError, ValueError) as error:
        raise Refused(400, mark("This is no judgement."), str(error)) from error


def _next(console: Console, visit: Visit, said: Judgement | None = None) -> Answer:
    """Render the next part. After something was taken back, it is that part again."""
    last = visit.one("last") if said is None else _taken(said)
    again = said is not None and said.judgement == Label.WITHDRAWN
    record = console.archive.get(said.job_id) if said is not None and again else _waiting(console, visit)
    return _render(console, visit, None if record is None else record.job_id, last)


def _render(console: Console, visit: Visit, job_id: str | None, last: str, met: bool = False) -> Answer:
    """Render a part.

    Args:
        console: the neighbours.
        visit: of the person.
        job_id: of the part; None, or one without a verdict: none is left.
        last: the job whose judgement can be taken back.
        met: the person has judged it without knowing what others have said, which was not stored.
    """
    record = None if job_id is None else console.archive.get(job_id)
    part = None if record is None else part_page.read(console, record.job_id)
    return console.templates.render(
        "review_part.html" if visit.partial else "review.html",
        visit,
        part=part,
        met=met,
        skip=_query(visit, after=place_of(record)) if record is not None else "",
        last=last,
        kept={name: visit.one(name) for name in (*_KEPT, "after") if visit.one(name)},
        kinds=console.settings.console.defect_kinds,
        categories=known_categories.names(console),
    )


def _waiting(console: Console, visit: Visit) -> Record | None:
    """Return the latest reject that nobody has judged, here or in the archive; None if all are."""
    wanted = search_of(visit, console.now_ms(), _PAGE)
    before = place(visit.one("after"))
    for _ in range(_MOST_PAGES):
        search = Search(
            line=wanted.line,
            category=wanted.category,
            since=wanted.since,
            decisions=_REJECTS,
            before=before,
            most=_PAGE,
        )
        page = list(console.archive.find(search))
        judged = console.archive.judgements_of([record.job_id for record in page])
        for record in page:
            if not _is_judged(console, record.job_id, judged.get(record.job_id)):
                return record
        if len(page) < _PAGE:
            return None
        before = (page[-1].decided_at, page[-1].job_id)
    return None


def _is_judged(console: Console, job_id: str, archived: Judged | None) -> bool:
    """Return True if somebody says something of a part, here or in the archive."""
    if console.given.of(job_id):
        return bool(opinions.of(console, job_id))
    return archived is not None and archived.judgement != Label.WITHDRAWN


def _taken(said: Judgement) -> str:
    """Return the job whose judgement can be taken back next."""
    return "" if said.judgement == Label.WITHDRAWN else said.job_id


def _query(visit: Visit, **changes: str) -> str:
    kept = {name: visit.one(name) for name in (*_KEPT, "after")}
    return urlencode({name: value for name, value in (kept | changes).items() if value})
