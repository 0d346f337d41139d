"""A closer look at a part, on request: its heat map by replay, and the nearest good patch."""

from __future__ import annotations

from patchline.console import part_page
from patchline.console.context import Console
from patchline.console.looks import Look
from patchline.console.texts import mark
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit
from patchline.operations.look_result import CloserLook, Comparison

_UNCHANGED = 204  # htmx leaves the page as it is


def ask(console: Console, visit: Visit) -> Reply:
    """Have a part judged again."""
    job_id = visit.names["job"]
    if part_page.lack_of(console.archive.get(job_id), console.pictures.kinds([job_id]).get(job_id, [])) is not None:
        raise Refused(404, mark("This part cannot be judged again."))
    if not console.looks.ask(job_id):
        raise Refused(503, mark("Other parts wait for it already. Try again in a moment."))
    return show(console, visit) if visit.partial else Redirect(f"/part/{job_id}#look")


def show(console: Console, visit: Visit) -> Reply:
    """Show how far it is, as a part of a page. Nothing, if the browser knows that already."""
    job_id = visit.names["job"]
    if not visit.partial:
        return Redirect(f"/part/{job_id}#look")
    look = console.looks.of(job_id)
    if look is not None and look.ahead is not None and visit.one("ahead") == str(look.ahead):
        return Answer(b"", status=_UNCHANGED)
    return console.templates.render("look_state.html", visit, job_id=job_id, look=look)


def show_picture(console: Console, visit: Visit) -> Reply:
    """Show the heat map, the part's hottest patch, or the good patch."""
    look = console.looks.of(visit.names["job"]) or Look()
    body = None if look.found is None else _picture(look.found, look.found.comparison, visit.names["kind"])
    if body is None:
        raise Refused(404, mark("There is no such picture, or not any more. Load the page again."))
    return Answer(body, "image/png")


def _picture(found: CloserLook, comparison: Comparison | None, kind: str) -> bytes | None:
    if kind == "heat_map":
        return found.heat_map
    patch = {} if comparison is None else {"part": comparison.part, "good": comparison.good}
    chosen = patch.get(kind)
    return None if chosen is None else chosen.shown
