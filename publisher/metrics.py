"""Every metric of a publisher, and the port that shows them."""

from __future__ import annotations

from collections.abc import Callable

from patchline.publisher.spool import Spool
from patchline.runtime import metrics
from patchline.runtime.metrics import Counter, Gauge


class Metrics:
    """Counts what happens to captures; the spool's figures are read when they are asked for."""

    def __init__(self, line: str, category: str, spool: Spool, clock_ms: Callable[[], int]) -> None:
        self.registry = metrics.Registry()
        names, values = ("line", "category"), (line, category)
        self._jobs = Counter(
            "patchline_published_jobs", "Jobs by what became of them.", (*names, "state"), registry=self.registry
        )
        self._values = values
        depth = Gauge("patchline_spool_jobs", "Jobs that wait on disk for the broker.", names, registry=self.registry)
        depth.labels(*values).set_function(spool.depth)
        age = Gauge("patchline_spool_oldest_age_seconds", "Of the oldest such job.", names, registry=self.registry)
        age.labels(*values).set_function(lambda: spool.oldest_age_s(clock_ms()))

    def became(self, state: str) -> None:
        """A job has reached a state."""
        self._jobs.labels(*self._values, state).inc()

    def serve(self, host: str, port: int) -> None:
        """Show the metrics at `http://host:port/metrics`."""
        metrics.serve(self.registry, host, port)
