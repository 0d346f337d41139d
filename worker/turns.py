"""Who judges when. A few lanes judge side by side; a suspect is judged alone: if the process ends then, it was it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_S = 1.0


class Turns:
    """So many together, or one alone, which goes first when it comes.

    `waiting` is called again and again by each thread that waits: it stands still for no fault of its own.
    """

    def __init__(self, at_once: int, waiting: Callable[[], None] = lambda: None) -> None:
        self._at_once = at_once
        self._waiting = waiting
        lock = threading.Lock()
        self._free = threading.Condition(lock)  # one may begin
        self._quiet = threading.Condition(lock)  # nobody judges
        self._together = 0
        self._alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Beside others, once there is room and nobody is alone or waits to be."""
        with self._free:
            self._wait(self._free, lambda: self._alone == 0 and self._together < self._at_once)
            self._together += 1
        try:
            yield
        finally:
            with self._free:
                self._together -= 1
                self._free.notify()
                self._quiet.notify()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With nobody beside. Only one thread asks for it."""
        with self._quiet:
            self._alone += 1
            self._wait(self._quiet, lambda: self._together == 0)
        try:
            yield
        finally:
            with self._quiet:
                self._alone -= 1
                self._free.notify_all()

    def _wait(self, changed: threading.Condition, may_begin: Callable[[], bool]) -> None:
        while not changed.wait_for(may_begin, _PATIENCE_S):
            self._waiting()
