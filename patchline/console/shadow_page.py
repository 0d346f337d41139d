"""What a shadow would have said, in pairs with the verdicts on the same images."""

from __future__ import annotations

from dataclasses import replace

from patchline.archive.shadows import ShadowSearch
from patchline.console import bank_view
from patchline.console.context import Console
from patchline.console.search_page import search_of
from patchline.console.visit import Reply, Visit
from patchline.operations import shadow_report
from patchline.protocol.errors import SetupError

_MOST = 50  # parts by name
_MOST_COUNTED = 100_000  # parts; a quarter of a second in SQLite


def show(console: Console, visit: Visit) -> Reply:
    """Show who would have rejected what, McNemar's test, and the parts with two decisions."""
    category = visit.names["category"]
    state = bank_view.read(console, category)
    wanted = search_of(visit, console.now_ms(), _MOST)
    chosen, report, cut, jobs = None, None, None, list[str]()
    try:
        digits = visit.one("version") or shadow_report.last_shadow(state, category)
    except SetupError:  # no version was a shadow
        digits = ""
    if digits:
        chosen = bank_view.version(console, category, state, digits)
        search = ShadowSearch(category, chosen.digest, wanted.line, wanted.since, wanted.until)
        cut = console.archive.shadow_time(search, _MOST_COUNTED)
        search = search if cut is None else replace(search, since=cut)
        report = shadow_report.make(console.archive, search, console.settings.gate, _MOST)
        jobs = [row.job_id for row in report.different]
    return console.templates.render(
        "bank_report.html",
        visit,
        category=category,
        version=chosen,
        report=report,
        cut=cut,
        most=_MOST_COUNTED,
        pictures=console.pictures.kinds(jobs),
        judgements=console.archive.judgements_of(jobs),
        is_shadow=chosen is not None and state.shadow is not None and state.shadow.version == chosen.digest,
    )
