"""Searches the archive's verdicts, one page at a time."""

from __future__ import annotations

import re

from patchline.archive import times
from patchline.archive.base import Record, Search
from patchline.console import known_categories
from patchline.console.context import Console
from patchline.console.texts import mark
from patchline.console.visit import Refused, Reply, Visit
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision

PAGE = 50
_PLACE = re.compile(r"(\d{1,15}):([A-Za-z0-9._:-]{1,128})")


def show(console: Console, visit: Visit) -> Reply:
    """Show what was found, and the form; for htmx only what was found."""
    problem = ""
    try:
        search = search_of(visit, console.now_ms(), PAGE + 1)
        found = list(console.archive.find(search))
    except Refused as refused:
        found, problem = [], console.templates.explain(visit, refused)
    rows, more = found[:PAGE], found[PAGE:]
    jobs = [row.job_id for row in rows]
    return console.templates.render(
        "results.html" if visit.partial else "search.html",
        visit,
        400 if problem else 200,
        rows=rows,
        next=visit.query_with(before=place_of(rows[-1])) if more else "",
        problem=problem,
        judgements=console.archive.judgements_of(jobs),
        pictures=console.pictures.kinds(jobs),
        categories=known_categories.names(console),
    )


def search_of(visit: Visit, now_ms: int, most: int) -> Search:
    """Return the search that a query asks for. Raises Refused."""
    decisions = tuple(word for word in visit.all("decision") if word)
    if not set(decisions) <= set(Decision):
        raise Refused(400, mark("There is no such result."), ", ".join(sorted(set(decisions) - set(Decision))))
    return Search(
        part=visit.one("part") or None,
        line=visit.one("line") or None,
        category=visit.one("category") or None,
        decisions=decisions,
        since=time_of(visit.one("since"), now_ms),
        until=time_of(visit.one("until"), now_ms),
        min_score=score_of(visit.one("low")),
        max_score=score_of(visit.one("high")),
        before=place(visit.one("before")),
        most=most,
    )


def place_of(record: Record) -> str:
    """Return where a list goes on after a verdict."""
    return f"{record.decided_at}:{record.job_id}"


def place(text: str) -> tuple[int, str] | None:
    """Return where a list goes on. Raises Refused."""
    found = _PLACE.fullmatch(text)
    if text and found is None:
        raise Refused(400, mark("The link is damaged. Search again."))
    return None if found is None else (int(found[1]), found[2])


def time_of(text: str, now_ms: int) -> int | None:
    """Return a time in epoch milliseconds; None of an empty text. Raises Refused."""
    try:
        return times.parse(text, now_ms) if text else None
    except SetupError:
        raise Refused(400, mark("This is no time."), text) from None


def score_of(text: str) -> float | None:
    """Return a score; None of an empty text. Raises Refused."""
    try:
        return float(text) if text else None
    except ValueError:
        raise Refused(400, mark("This is no score."), text) from None
