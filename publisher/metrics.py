"""Metrics of a publisher."""

from __future__ import annotations

from typing import Protocol

from patchline.publisher.job_state import JobState
from patchline.runtime.metrics import Counter, Gauge, Registry

SEVERAL = "*"  # label of a spool that serves several categories


class Spools(Protocol):
    """One spool (`spool.Spool`), or those of several categories (`pipelines.Pipelines`)."""

    def depth(self) -> int: ...
    def oldest_age_s(self) -> float: ...


class Metrics:
    """Counts jobs by state. The gauges of the spool read it on every scrape."""

    def __init__(self, line: str, category: str, registry: Registry | None = None) -> None:
        self.registry = registry or Registry()
        self._line, self._category = line, category
        names = ("line", "category", "state")
        self._jobs = Counter("patchline_published_jobs", "Jobs by state.", names, registry=self.registry)
        if category != SEVERAL:
            self._start_series(category)

    def show(self, spool: Spools) -> None:
        """Show the depth and the age of what is spooled."""
        names, values = ("line", "category"), (self._line, self._category)
        depth = Gauge("patchline_spool_jobs", "Jobs in the spool.", names, registry=self.registry)
        depth.labels(*values).set_function(spool.depth)
        age = Gauge(
            "patchline_spool_oldest_age_seconds", "Age of the oldest job in the spool.", names, registry=self.registry
        )
        age.labels(*values).set_function(spool.oldest_age_s)

    def count(self, category: str, state: JobState) -> None:
        """Count a job that has reached `state`."""
        self._start_series(category)
        self._jobs.labels(self._line, category, state).inc()

    def _start_series(self, category: str) -> None:
        for state in JobState:  # a series that starts at 1 would hide its first image from increase()
            self._jobs.labels(self._line, category, state)
