"""Metrics of a publisher."""

from __future__ import annotations

from collections.abc import Callable

from patchline.publisher.job_state import JobState
from patchline.publisher.spool import Spool
from patchline.runtime import health, metrics
from patchline.runtime.metrics import Counter, Gauge, Registry

SEVERAL = "*"  # label of a spool that serves several categories


class Metrics:
    """Counts jobs by state. The gauges of the spool read it on every scrape."""

    def __init__(
        self, line: str, category: str, spool: Spool, clock_ms: Callable[[], int], registry: Registry | None = None
    ) -> None:
        self.registry = registry or Registry()
        names, values = ("line", "category"), (line, category)
        self._jobs = Counter("patchline_published_jobs", "Jobs by state.", (*names, "state"), registry=self.registry)
        self._line = line
        if category != SEVERAL:
            self._start_series(category)
        depth = Gauge("patchline_spool_jobs", "Jobs in the spool.", names, registry=self.registry)
        depth.labels(*values).set_function(spool.depth)
        age = Gauge(
            "patchline_spool_oldest_age_seconds", "Age of the oldest job in the spool.", names, registry=self.registry
        )
        age.labels(*values).set_function(lambda: spool.oldest_age_s(clock_ms()))

    def count(self, category: str, state: JobState) -> None:
        """Count a job that has reached `state`."""
        self._start_series(category)
        self._jobs.labels(self._line, category, state).inc()

    def serve(self, host: str, port: int, probes: health.Health) -> int:
        """Serve the metrics and the health probes over HTTP. Raise SetupError if the port is taken."""
        return health.serve(host, port, metrics.application(self.registry), probes)

    def _start_series(self, category: str) -> None:
        for state in JobState:  # a series that starts at 1 would hide its first image from increase()
            self._jobs.labels(self._line, category, state)
