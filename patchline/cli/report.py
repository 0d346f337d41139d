"""The subcommand that writes the report on a shift, a batch or a span of time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.archive import times
from patchline.cli import archive_pictures
from patchline.cli.console import needs_the_extra
from patchline.cli.options import CONFIG, Settings, names
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal, this_user
from patchline.runtime.connections import now_ms

if TYPE_CHECKING:
    from patchline.console.database import ConsoleDatabase
    from patchline.console.reports import Reports
    from patchline.operations.line_report import Report


class Language(StrEnum):
    """The languages of a report."""

    EN = "en"
    DE = "de"
    ZH = "zh"


File = Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there, in place of what is there.")]


def report(
    shift: Annotated[
        str, typer.Option(metavar="NAME[@DAY]", help="A shift of console.shifts: the last one, or that of a day.")
    ] = "",
    batch: Annotated[str, typer.Option(metavar="TEXT", help="Parts whose ids begin so, of the last 30 days.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="Then or later: 2026-11-28T06:00, 8h.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Before that time; by default now.")] = "",
    line: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="Only this line.")] = None,
    category: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="Only this category.")] = None,
    html: File = None,
    pdf: File = None,
    language: Annotated[Language | None, typer.Option(help="By default that of the console.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    config_file: Settings = CONFIG,
) -> None:
    """Write the report on a shift, a batch or a span of time: as HTML with everything inside, as PDF, or in short here.

    Times are those of the plant: console.time_zone. A cron job of the host makes one after each shift.

    Example:  patchline report --shift early --line press-3 --pdf early.pdf --html early.html
    """
    from patchline.operations import report_request

    settings = config.load(config_file)
    request = report_request.make(settings.console, now_ms(), shift, batch, since, until, line or "", category or "")
    with _reports(settings) as reports:
        made = reports.make(request)
        words = made, f"command line ({this_user.person()})", (language or settings.console.language)
        for file, render in ((html, reports.html), (pdf, reports.pdf)):
            if file is not None:
                _write(file, render(*words))
    if as_json:
        print(made.report.model_dump_json())
    elif html is None and pdf is None:
        _print(made.report)


@contextmanager
def _reports(settings: config.Config) -> Iterator[Reports]:
    with needs_the_extra():
        from patchline.console.reports import Reports
        from patchline.console.templates import Templates
    from patchline.archive import opening
    from patchline.archive.database import Access
    from patchline.archive.period_table import PeriodTable
    from patchline.archive.picture_table import PictureTable
    from patchline.banks import opening as bank_opening

    with ExitStack() as stack:
        archive = stack.enter_context(archive_pictures.opened(settings, Access.READ))
        banks = None if settings.banks.store is None else bank_opening.versions(settings)
        periods, pictures, store = PeriodTable(archive), PictureTable(archive), opening.open_store(settings)
        audit, templates = _audit(settings, stack), Templates("")
        yield Reports(settings, archive, periods, pictures, store, banks, audit, templates, now_ms)


def _audit(settings: config.Config, stack: ExitStack) -> ConsoleDatabase | None:
    """Return the file of the console, if it is there and this user may use it."""
    from patchline.console.database import ConsoleDatabase

    file = settings.console.database
    if not os.access(file, os.R_OK | os.W_OK):
        return None
    return stack.enter_context(closing(ConsoleDatabase(file, now_ms)))


def _write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable as the umask says."""
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".patchline-report-") as folder:
            fresh = Path(folder) / file.name
            fresh.write_bytes(content)
            fresh.replace(file)
    except OSError as error:
        raise SetupError(f"{file}: cannot be written ({error.strerror})") from error
    print(f"{file}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


def _print(report: Report) -> None:
    span = f"{times.local(report.request.since)} to {times.local(report.until)}"
    title = terminal.printable(f"{report.request.kind} {report.request.name}: {span}")
    rows = [
        (one.decision, one.parts, *(f"{value * 100:.2f}" for value in (one.share.value, one.share.low, one.share.high)))
        for one in report.decisions
        if one.share.low is not None and one.share.high is not None
    ]
    terminal.table(title, ("result", "parts", "%", "from", "to"), rows)
    gaps = ", ".join(f"{kind} {jobs}" for kind, jobs in report.gaps.items() if jobs) or "none"
    print(f"parts: {report.parts}, announced: {report.announcements.parts}, gaps: {gaps}")
    print("write it with --html FILE or --pdf FILE")
