"""Closer looks at parts, one at a time: few may wait, and what was computed is kept for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from patchline.operations.look_result import CloserLook
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_MOST_WAITING = 5
_KEPT, _KEPT_S = 32, 900.0  # of some 0.5 MB each


@dataclass(frozen=True)
class Look:
    """A closer look that was asked for.

    Attributes:
        ahead: how many are computed before it; None: it is done.
        found: what it shows; None: it is not done, or has failed.
        failure: why there is nothing to show, in words.
    """

    ahead: int | None = None
    found: CloserLook | None = None
    failure: str = ""


class Looks:
    """Computes closer looks on one thread. Thread-safe.

    Args:
        compute: takes a closer look at a job. Raises SetupError.
        clock: seconds that never go back.
    """

    def __init__(self, compute: Callable[[str], CloserLook], clock: Callable[[], float] = time.monotonic) -> None:
        self._compute, self._clock = compute, clock
        self._waiting: deque[str] = deque()  # the first one is being computed
        self._done: OrderedDict[str, tuple[float, Look]] = OrderedDict()
        self._lock = threading.Lock()
        self._asked = threading.Event()

    def ask(self, job_id: str) -> bool:
        """Ask for a closer look, unless it is there or will be. Return False if too many wait already."""
        look = self.of(job_id)
        if look is not None and not look.failure:
            return True
        with self._lock:
            if job_id in self._waiting:
                return True
            if len(self._waiting) >= _MOST_WAITING:
                return False
            self._done.pop(job_id, None)
            self._waiting.append(job_id)
        self._asked.set()
        return True

    def of(self, job_id: str) -> Look | None:
        """Return the closer look at a job; None if nobody has asked for it lately."""
        with self._lock:
            if job_id in self._waiting:
                return Look(ahead=self._waiting.index(job_id))
            at, look = self._done.get(job_id, (0.0, None))
        return look if look is not None and self._clock() - at < _KEPT_S else None

    def step(self) -> bool:
        """Compute the look that waits longest. Return False if none waits."""
        with self._lock:
            if not self._waiting:
                self._asked.clear()
                return False
            job_id = self._waiting[0]
        try:
            look = Look(found=self._compute(job_id))
        except SetupError as error:
            _log.warning("no closer look at a part", job_id=job_id, reason=str(error))
            look = Look(failure=str(error))
        with self._lock:
            self._waiting.popleft()
            self._done[job_id] = (self._clock(), look)
            while len(self._done) > _KEPT:
                self._done.popitem(last=False)
        return True

    def run(self, stop: threading.Event) -> None:
        """Compute what is asked for until `stop` is set."""
        while not stop.is_set():
            if not self.step():
                self._asked.wait(0.5)
