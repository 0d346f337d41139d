"""What the processes of the line say of themselves, each second, and which of them have fallen silent."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from patchline.broker.base import Message
from patchline.protocol import status_message
from patchline.protocol.errors import Unusable
from patchline.protocol.status_message import Status

SILENT = "silent"
_SILENT_S = 3.0  # a status comes every second
_MOST = 1000
_PROCESS_ID = re.compile(r":\d+$")
_DAY_S = 86_400.0
_KEPT_S = 7 * _DAY_S  # a line may stand still for days; of a worker in a container, the next one has another name


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the line, as its last status describes it.

    Attributes:
        state: as it said, or `silent`: it has said nothing for three seconds, and may be gone.
        heard_s: the time since its last status, in seconds.
        said: the state that it said last.
        holds: what it holds, see `Status`.
        banks: the versions that a worker serves, by category.
        arm: of a gate, see `Status`.
        hand_in: of a publisher, likewise.
    """

    role: str
    name: str
    host: str
    line: str | None
    state: str
    heard_s: float
    said: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)
    banks: Mapping[str, str] = field(default_factory=dict)
    arm: str | None = None
    hand_in: bool = False


@dataclass(frozen=True, slots=True)
class _Heard:
    """The last status of a process, with the times of the first and the last one, in seconds of the clock."""

    first: float
    last: float
    status: Status


class States:
    """Keeps the last status of each process, also of one that is gone. Thread-safe.

    A process that was started again has another id in its name: the one before is left out. One that says nothing is
    forgotten after seven days, and a worker after one.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[tuple[str, str, str], _Heard] = {}
        self._lock = threading.Lock()

    def hear(self, message: Message) -> None:
        """Take a status. What is none is ignored: it may be of a later build."""
        try:
            status = status_message.parse_status(message)
        except Unusable:
            return
        self._keep(status, 0.0)

    def _keep(self, status: Status, heard_s: float) -> None:
        key, at = (status.role, status.line or "", status.name), self._clock() - heard_s
        with self._lock:
            before = self._heard.get(key)
            if before is not None:
                self._heard[key] = _Heard(before.first, max(at, before.last), status)
            elif len(self._heard) < _MOST:
                self._heard[key] = _Heard(at, at, status)

    def all(self) -> list[Process]:
        """Return the processes by line, role and name."""
        now = self._clock()
        return [_process(one.status, now - one.last) for one in self._present()]

    def statuses(self) -> list[tuple[Status, float]]:
        """Return the last status of each process, and how many seconds ago it was heard."""
        now = self._clock()
        return [(one.status, now - one.last) for one in self._present()]

    def restore(self, status: Status, heard_s: float) -> None:
        """Take a status that was heard some seconds ago, before the console was started."""
        self._keep(status, heard_s)

    def _present(self) -> list[_Heard]:
        now = self._clock()
        with self._lock:
            for key, one in list(self._heard.items()):
                if now - one.last > (_DAY_S if one.status.role == "worker" else _KEPT_S):
                    del self._heard[key]
            heard = sorted(self._heard.items(), key=lambda item: (item[0][1], item[0][0], item[0][2]))
        started: dict[tuple[str, str, str, str], float] = {}
        for _, one in heard:
            started[_place(one.status)] = max(one.first, started.get(_place(one.status), one.first))
        return [one for _, one in heard if started[_place(one.status)] <= one.last]


def _place(status: Status) -> tuple[str, str, str, str]:
    """Return where a process is, whichever id the system has given it."""
    return status.role, status.line or "", status.host, _PROCESS_ID.sub("", status.name)


def _process(status: Status, heard_s: float) -> Process:
    state = SILENT if heard_s > _SILENT_S else status.state
    return Process(
        status.role,
        status.name,
        status.host,
        status.line,
        state,
        heard_s,
        status.state,
        status.holds,
        status.banks or {},
        status.arm,
        bool(status.hand_in),
    )
