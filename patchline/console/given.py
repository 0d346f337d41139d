"""The judgements that were given here in the last minute: the archive has them a moment later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from patchline.protocol.judgement_message import Judgement

_KEPT_S = 60.0
_LOCKS = 64


class Given:
    """Remembers judgements for a minute. Thread-safe.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._given: list[tuple[float, Judgement]] = []
        self._lock = threading.Lock()
        self._jobs = tuple(threading.Lock() for _ in range(_LOCKS))

    def alone(self, job_id: str) -> threading.Lock:
        """Return what a person holds who judges a job. Who judges it at the same time waits, and knows of it then.

        Some other jobs have the same lock.
        """
        return self._jobs[hash(job_id) % _LOCKS]

    def add(self, judgement: Judgement) -> None:
        """Remember a judgement."""
        with self._lock:
            self._given = [*self._fresh(), (self._clock(), judgement)]

    def of(self, job_id: str) -> list[Judgement]:
        """Return the judgements of a job, in the order in which they were given."""
        with self._lock:
            return [said for _, said in self._fresh() if said.job_id == job_id]

    def _fresh(self) -> list[tuple[float, Judgement]]:
        now = self._clock()
        return [one for one in self._given if now - one[0] < _KEPT_S]
