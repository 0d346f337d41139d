"""Metrics of the console: its pages, its browsers, and what it hears and reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import StrEnum

from patchline.runtime.metrics import Counter, Gauge, Histogram, Registry

NO_PAGE = "none"  # the label of requests for what is no page: paths of strangers must not become labels
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class LogInRefusal(StrEnum):
    """Why a log-in was refused. A closed set: the label of a metric."""

    WRONG = "wrong"  # name or password
    LIMIT = "limit"  # too many attempts
    DISABLED = "disabled"  # the account is disabled
    PROVIDER = "provider"  # the log-in service of the plant, or what it says of the person, lets nobody in


class Metrics:
    """Counts requests and log-ins, and shows who watches. All methods are thread-safe."""

    def __init__(self) -> None:
        self.registry = Registry()
        text = "Requests, by page and class of the answer's status, such as 2xx."
        self._requests = Counter("patchline_console_requests", text, ["page", "status"], registry=self.registry)
        text = "Time to answer a request, by page. The stream of the live page is not counted."
        name = "patchline_console_request_seconds"
        self._seconds = Histogram(name, text, ["page"], buckets=_SECONDS, registry=self.registry)
        text = "Log-ins that were refused, by reason: wrong (name or password), limit, disabled, provider."
        self._refused = Counter("patchline_console_logins_refused", text, ["reason"], registry=self.registry)
        for reason in LogInRefusal:  # a series that starts at 1 would hide its first increase
            self._refused.labels(reason)
        text = "Browsers that watch the live page."
        self._browsers = Gauge("patchline_console_live_browsers", text, registry=self.registry)
        text = "Statuses of the line's processes that the console has heard."
        self._statuses = Counter("patchline_console_statuses_heard", text, registry=self.registry)

    def answered(self, page: str, status: int, seconds: float | None) -> None:
        """Count a request.

        Args:
            page: the path of the route, with names in braces.
            status: of the answer.
            seconds: from the request to the answer; None: the answer is a stream.
        """
        self._requests.labels(page, f"{status // 100}xx").inc()
        if seconds is not None:
            self._seconds.labels(page).observe(seconds)

    def log_in_refused(self, reason: LogInRefusal) -> None:
        """Count a log-in that was refused."""
        self._refused.labels(reason).inc()

    def status_heard(self) -> None:
        """Count a status."""
        self._statuses.inc()

    async def watched(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the events of a live page, and count its browser until they end."""
        with self._browsers.track_inprogress():
            async for event in events:
                yield event

    def show_newest(self, decided_at_ms: Callable[[], int | None]) -> None:
        """Show when the newest verdict of the live page was decided, in epoch milliseconds; None: there is none."""
        text = "Decision of the newest verdict that the live page has. It reads while somebody watches."
        newest = Gauge("patchline_console_newest_verdict_timestamp_seconds", text, registry=self.registry)
        newest.set_function(lambda: (decided_at_ms() or 0) / 1000)

    def show_archive(self, answered_at_s: Callable[[], float]) -> None:
        """Show when the archive's database has answered last, in epoch seconds."""
        text = "When the archive's database has answered last; it is asked every few seconds."
        answered = Gauge("patchline_console_archive_answered_timestamp_seconds", text, registry=self.registry)
        answered.set_function(answered_at_s)
