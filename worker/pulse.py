"""Whether a worker gets on: by its lanes completing steps, not by its process being alive."""

from __future__ import annotations

import threading


class Pulse:
    """Lanes beat; `taken` says whether all of them have since it was last true."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._beaten: set[int] = set()

    def beat(self) -> None:
        """The calling lane has completed a step, or waits for the broker and knows it."""
        self._beaten.add(threading.get_ident())

    def taken(self) -> bool:
        """Every lane has beaten since this was last true."""
        if len(self._beaten) < self._lanes:
            return False
        self._beaten = set()
        return True
