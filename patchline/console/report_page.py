"""Reports on a shift, a batch or a span of time: a page, and the same as a file."""

from __future__ import annotations

import itertools

from patchline.archive import times
from patchline.console import known_categories
from patchline.console.context import Console
from patchline.console.reports import Busy, Dated, file_name
from patchline.console.texts import mark
from patchline.console.visit import HTML, Answer, Refused, Reply, Visit
from patchline.operations import report_request, shift_times
from patchline.operations.line_report import Request, TooMuch
from patchline.protocol.errors import SetupError

_SHIFTS = 21  # to choose from
_ASKED = ("shift", "batch", "since", "until")


def show(console: Console, visit: Visit) -> Reply:
    """Show the form, and the report that it asks for."""
    document, problem, status = None, "", 200
    try:
        if any(map(visit.one, _ASKED)):
            document = console.reports.document(_made(console, visit), visit.person.name, visit.language)
    except Refused as refused:
        problem, status = console.templates.explain(visit, refused), refused.status
    ended = shift_times.ended(console.settings.console, console.now_ms())
    return console.templates.render(
        "report.html",
        visit,
        status,
        document=document,
        problem=problem,
        shifts=list(itertools.islice(ended, _SHIFTS)),
        categories=known_categories.names(console),
        source=lambda image: console.templates.url(f"/picture/{image.job_id}/{image.kind}"),
        link=lambda part: console.templates.url(f"/part/{part.part_id}?job={part.job_id}"),
        query=visit.query_with(),
    )


def save_html(console: Console, visit: Visit) -> Reply:
    """Give a report as a file of HTML."""
    made = _made(console, visit)
    body = console.reports.html(made, visit.person.name, visit.language)
    return Answer(body, HTML, saved_as=file_name(made.report.request, "html"))


def save_pdf(console: Console, visit: Visit) -> Reply:
    """Give a report as PDF."""
    made = _made(console, visit)
    body = console.reports.pdf(made, visit.person.name, visit.language)
    return Answer(body, "application/pdf", saved_as=file_name(made.report.request, "pdf"))


def _made(console: Console, visit: Visit) -> Dated:
    request = _request(console, visit)
    try:
        return console.reports.make(request)
    except TooMuch as error:
        raise Refused(400, mark("There is no such report."), str(error)) from error
    except Busy:
        raise Refused(503, mark("Other reports are being made. Try again in a minute.")) from None


def _request(console: Console, visit: Visit) -> Request:
    section, now = console.settings.console, console.now_ms()
    for name in ("since", "until"):
        try:
            if text := visit.one(name):
                times.parse(text, now)
        except SetupError:
            raise Refused(400, mark("This is no time."), text) from None
    words = {name: visit.one(name) for name in (*_ASKED, "line", "category")}
    try:
        return report_request.make(section, now, **words)
    except SetupError as error:
        raise Refused(400, mark("There is no such report."), str(error)) from error
