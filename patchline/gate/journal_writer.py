"""The thread that writes a gate's journal: a disk that hangs delays the first act by 0.2 s, and no other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

PATIENCE_S = 0.2
_MOST = 10_000  # tasks that wait for the disk
_END_TIMEOUT_S = 1.0


class JournalWriter:
    """Runs tasks in order on a thread, and waits for each unless the disk hangs."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = queue.SimpleQueue()
        self._late: threading.Event | None = None  # the last task that was not done in time
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def hangs(self) -> bool:
        """True while the disk has not done what it should have done."""
        return self._late is not None and not self._late.is_set()

    def run(self, task: Callable[[], None]) -> bool:
        """Run a task. Return False if it is not done in time: it is done when the disk goes on, unless many wait."""
        if self._tasks.qsize() >= _MOST:
            return False
        done = threading.Event()
        hangs = self.hangs
        self._tasks.put((task, done))
        if not hangs and done.wait(PATIENCE_S):
            return True
        self._late = done
        return False

    def close(self) -> bool:
        """Finish what waits. Return False if the disk hangs."""
        self._tasks.put(None)
        self._thread.join(_END_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._tasks.get()) is not None:
            task, done = item
            task()
            done.set()
