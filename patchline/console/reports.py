"""Makes reports, one at a time, and keeps the last ones for a while: a page and its files say the same."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

import structlog

from patchline import config
from patchline.archive.ledger import Ledger
from patchline.archive.period import PeriodIndex
from patchline.archive.pictures import PictureIndex
from patchline.archive.store import Store, StoreUnavailable
from patchline.banks.versions import Versions
from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.report_document import Document, Image
from patchline.console.report_text import Made, ReportText
from patchline.console.templates import Templates
from patchline.inspection import decode, picture
from patchline.operations import line_report, report_changes, shift_times
from patchline.operations.line_report import NamedPart, Report, Request
from patchline.operations.report_changes import Change
from patchline.protocol.errors import SetupError, Unusable

_log = structlog.get_logger(__name__)
_KEPT, _KEPT_MS = 6, 120_000
_SIDE = 400  # of a picture, in pixels
_PATIENCE_S = 60.0
_MOST_CHANGES = 200
_ANY_FORMAT = "image/png"  # the bytes decide
# What a report tells of the audit log. The acts on banks are in the log of their store, with the reasons; of accounts
# and log-ins a report says nothing, and judgements are counted.
_TOLD = ("thresholds set",)
Pictures = Mapping[tuple[str, str], bytes]


class Busy(SetupError):
    """Other reports are being made."""


@dataclass(frozen=True)
class Dated:
    """A report, and when it was made, in epoch milliseconds."""

    report: Report
    made_at: int


class Reports:
    """Makes reports and their files. Thread-safe.

    Args:
        settings: the configuration.
        archive: is only read.
        periods: counts in the same archive.
        pictures: of the same archive.
        store: has the bytes of the pictures.
        banks: the versions of the memory banks; None: there is no store of them.
        database: has the audit log of the console; None: it is not read.
        templates: of the pages.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        settings: config.Config,
        archive: Ledger,
        periods: PeriodIndex,
        pictures: PictureIndex,
        store: Store,
        banks: Versions | None,
        database: ConsoleDatabase | None,
        templates: Templates,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings, self._archive, self._periods, self._pictures = settings, archive, periods, pictures
        self._store, self._banks, self._database = store, banks, database
        self._templates, self._now_ms = templates, now_ms
        self._made: dict[Request, Dated] = {}
        self._lock = threading.Lock()

    def make(self, request: Request) -> Dated:
        """Return the report, or the one of the last two minutes.

        Raises:
            Busy: others take too long.
            Unavailable: the archive does not answer.
            SetupError: it cannot be made.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            raise Busy("other reports are being made; try again in a minute")
        try:
            now = self._now_ms()
            self._made = {key: one for key, one in self._made.items() if 0 <= now - one.made_at < _KEPT_MS}
            if request not in self._made:
                self._made[request] = Dated(self._count(request, now), now)
                self._made = dict(list(self._made.items())[-_KEPT:])
            return self._made[request]
        finally:
            self._lock.release()

    def _count(self, request: Request, now: int) -> Report:
        span = request.since, min(request.until, now)
        changes = report_changes.read(self._banks, *span, request.category, self._audited(*span))
        return line_report.make(request, self._archive, self._periods, self._pictures, changes, now)

    def document(self, dated: Dated, by: str, language: str) -> Document:
        """Return a report in a language. `by` is who wants it."""
        made = Made(by, dated.made_at, metadata.version("patchline"))
        return ReportText(dated.report, made, language, shift_times.zone(self._settings.console)).document()

    def html(self, dated: Dated, by: str, language: str) -> bytes:
        """Return a report as one file of HTML, with its pictures inside."""
        pictures = self.pictures(dated.report)

        def source(image: Image) -> str:
            body = pictures.get((image.job_id, image.kind))
            return "" if body is None else f"data:image/jpeg;base64,{base64.b64encode(body).decode()}"

        document = self.document(dated, by, language)
        styles = self._templates.style("report.css")
        name = "standalone/report.html"
        return self._templates.file(name, language, document=document, source=source, styles=styles).encode()

    def pdf(self, dated: Dated, by: str, language: str) -> bytes:
        """Return a report as PDF. Raises SetupError if the library for it is missing."""
        try:
            from patchline.console import report_pdf
        except ImportError as error:
            raise SetupError(
                f"{error.name} is not installed; reports need: pip install 'patchline[console]'"
            ) from error
        return report_pdf.render(self.document(dated, by, language), self.pictures(dated.report))

    def pictures(self, report: Report) -> Pictures:
        """Return the pictures of a report as small JPEG files, by job and kind. What cannot be read is left out."""
        found: dict[tuple[str, str], bytes] = {}
        for part in (*report.worst, *report.missed):
            for kind, digest in part.pictures.items():
                try:
                    body = self._store.get(digest)
                    if body is not None:
                        found[part.job_id, kind] = self._small(part, body)
                except (StoreUnavailable, Unusable) as error:
                    _log.warning("a picture is not in the report", job_id=part.job_id, kind=kind, reason=str(error))
        return found

    def _small(self, part: NamedPart, body: bytes) -> bytes:
        recipe = self._settings.recipe(part.category)
        depth = decode.AS_STORED if recipe is None else recipe.depth
        pixels = decode.decode(body, _ANY_FORMAT, self._settings.images, depth)
        return picture.encode_jpeg(picture.shrink(pixels, _SIDE))

    def _audited(self, since: int, until: int) -> tuple[Change, ...]:
        if self._database is None:
            return ()
        entries = audit.between(self._database, since, until, _TOLD, _MOST_CHANGES)
        return tuple(Change(at=one.at, who=one.who, what=one.what, detail=one.detail) for one in entries)


def file_name(request: Request, ending: str) -> str:
    """Return a name for the file of a report."""
    name = request.name or f"{shift_times.local(request.since, None):%Y-%m-%d-%H%M}"
    words = "-".join(filter(None, ("patchline", request.kind, name, request.line, request.category)))
    return f"{words.replace('@', '-').replace(':', '-')}.{ending}"
