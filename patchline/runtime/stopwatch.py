"""The durations of the stages of one job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from patchline.protocol.errors import JobError


class Stopwatch:
    """Times the stages of one job, and reports each to `observe(stage, seconds)`."""

    def __init__(self, observe: Callable[[str, float], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self.durations_ms: dict[str, float] = {}
        self._observe = observe
        self._clock = clock

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block, even if it raises. A JobError raised inside gets the name of the stage."""
        started = self._clock()
        try:
            yield
        except JobError as error:
            error.stage = name
            raise
        finally:
            elapsed_s = self._clock() - started
            self.durations_ms[name] = round(elapsed_s * 1000, 3)
            self._observe(name, elapsed_s)
