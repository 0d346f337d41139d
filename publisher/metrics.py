"""Metrics of a publisher."""

from __future__ import annotations

from collections.abc import Callable

from patchline.publisher.spool import Spool
from patchline.runtime import metrics
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
        depth = Gauge("patchline_spool_jobs", "Jobs in the spool.", names, registry=self.registry)
        depth.labels(*values).set_function(spool.depth)
        age = Gauge(
            "patchline_spool_oldest_age_seconds", "Age of the oldest job in the spool.", names, registry=self.registry
        )
        age.labels(*values).set_function(lambda: spool.oldest_age_s(clock_ms()))

    def count(self, category: str, state: str) -> None:
        """Count a job that has reached `state`."""
        self._jobs.labels(self._line, category, state).inc()

    def serve(self, host: str, port: int) -> None:
        """Serve the metrics at `http://host:port/metrics`."""
        metrics.serve(self.registry, host, port)
