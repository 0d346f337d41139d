"""What the processes of the line say of themselves, each second, and which of them have fallen silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from patchline.broker.base import Message
from patchline.protocol import status_message
from patchline.protocol.errors import Unusable
from patchline.protocol.status_message import Status

SILENT = "silent"
_SILENT_S = 3.0  # a status comes every second
_MOST = 1000


@dataclass(frozen=True, slots=True)
class State:
    """A process.

    Attributes:
        state: as it said, or `silent`: it has said nothing for three seconds, and may be gone.
        heard_s: the time since its last status, in seconds.
    """

    role: str
    name: str
    host: str
    line: str | None
    state: str
    heard_s: float


class States:
    """Keeps the last status of each process, also of one that is gone. Thread-safe.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[tuple[str, str, str], tuple[float, Status]] = {}
        self._lock = threading.Lock()

    def hear(self, message: Message) -> None:
        """Take a status. What is none is ignored: it may be of a later build."""
        try:
            status = status_message.parse_status(message)
        except Unusable:
            return
        with self._lock:
            key = (status.role, status.line or "", status.name)
            if key in self._heard or len(self._heard) < _MOST:
                self._heard[key] = (self._clock(), status)

    def all(self) -> list[State]:
        """Return the processes by line, role and name."""
        with self._lock:
            heard = sorted(self._heard.items(), key=lambda item: (item[0][1], item[0][0], item[0][2]))
        now = self._clock()
        return [_state(status, now - at) for _, (at, status) in heard]


def _state(status: Status, heard_s: float) -> State:
    state = SILENT if heard_s > _SILENT_S else status.state
    return State(status.role, status.name, status.host, status.line, state, heard_s)
