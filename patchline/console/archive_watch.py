"""Whether the archive's database answers, asked every few seconds by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from patchline.archive.base import Record, Search, Unavailable
from patchline.protocol.errors import DamagedError

_EVERY_S = 5.0
_LATE_S = 15.0  # an answer that takes longer is none: pages would not wait for it either


class ArchiveWatch:
    """Asks for the newest verdict. A database that hangs makes the last answer old, and holds nobody else up.

    Args:
        find: `find` of the archive.
        clock: seconds that never go back.
        wall_clock: epoch seconds.
    """

    def __init__(
        self,
        find: Callable[[Search], Iterable[Record]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._find, self._clock, self._wall_clock = find, clock, wall_clock
        self._answered: tuple[float, float] = (-_LATE_S, 0.0)  # on both clocks

    @property
    def answered_at_s(self) -> float:
        """The time of the last answer, in epoch seconds; 0: there was none."""
        return self._answered[1]

    def answers(self) -> bool:
        """Return True if the archive has answered in the last 15 seconds."""
        return self._clock() - self._answered[0] < _LATE_S

    def step(self) -> None:
        """Ask once."""
        try:
            list(self._find(Search(most=1)))
        except (Unavailable, DamagedError):
            return
        self._answered = (self._clock(), self._wall_clock())

    def run(self, stop: threading.Event) -> None:
        """Ask again and again until `stop` is set."""
        while not stop.is_set():
            self.step()
            stop.wait(_EVERY_S)
