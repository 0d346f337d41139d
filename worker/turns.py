"""Who judges when. A few lanes judge side by side; a suspect is judged alone: if the process ends then, it was it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """So many together, or one alone, which goes first when it comes."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        lock = threading.Lock()
        self._free = threading.Condition(lock)  # one may begin
        self._quiet = threading.Condition(lock)  # nobody judges
        self._together = 0
        self._alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Beside others, once there is room and nobody is alone or waits to be."""
        with self._free:
            self._free.wait_for(lambda: self._alone == 0 and self._together < self._at_once)
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
            self._quiet.wait_for(lambda: self._together == 0)
        try:
            yield
        finally:
            with self._quiet:
                self._alone -= 1
                self._free.notify_all()
