"""Whether a worker makes progress: all its lanes must complete steps. A live process alone proves nothing."""

from __future__ import annotations

import threading


class Heartbeats:
    """Collects one heartbeat from each lane, round after round."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._received: set[int] = set()

    def beat(self) -> None:
        """Record that the calling lane has completed a step, or is waiting for the broker or its turn."""
        self._received.add(threading.get_ident())

    def all_received(self) -> bool:
        """Return True, and start a new round, once every lane has beaten in this round."""
        if len(self._received) < self._lanes:
            return False
        self._received = set()
        return True
