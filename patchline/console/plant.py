"""All lines of a plant: their processes, and the last verdict of each. What is away keeps its last known values."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import structlog

from patchline.archive.base import Record, Search, Unavailable
from patchline.broker.base import Message
from patchline.console.known import Known
from patchline.console.states import Process, States
from patchline.protocol import status_message
from patchline.protocol.errors import DamagedError, SetupError, Unusable

_log = structlog.get_logger(__name__)
_SAVE_S = 10.0
_LOOK_S = 1.0  # however many browsers ask
_STATUS, _VERDICT = "status", "verdict"


@dataclass(frozen=True)
class LastVerdict:
    """The latest verdict on a part of a line. `decided_at` is in epoch milliseconds."""

    part_id: str
    job_id: str
    category: str
    decision: str
    score: float | None
    decided_at: int


@dataclass(frozen=True)
class Line:
    """A line. Its processes are by role and name."""

    name: str
    processes: Sequence[Process]
    verdict: LastVerdict | None


class Plant:
    """What is known of the lines, now and from before a restart of the console. Thread-safe.

    Args:
        find: `find` of the archive.
        states: of the processes.
        known: keeps it all.
        configured: lines that are named in the configuration.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        find: Callable[[Search], Iterable[Record]],
        states: States,
        known: Known,
        configured: Iterable[str],
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._states, self._known = find, states, known
        self._configured = frozenset(configured)
        self._now_ms, self._clock = now_ms, clock
        self._verdicts: dict[str, LastVerdict] = {}
        self._saved: dict[str, int] = {}
        self._looked_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self.failure = ""

    def restore(self) -> None:
        """Take what was known before the console was started. Raises SetupError."""
        for key, (at, value) in self._known.all().items():
            kind, _, name = key.partition("/")
            if kind == _STATUS:
                self._restore_status(value, at)
            elif kind == _VERDICT:
                self._verdicts[name] = LastVerdict(**json.loads(value))
            self._saved[key] = at

    def lines(self, judged: Iterable[str] = ()) -> list[Line]:
        """Return the lines, by name.

        Args:
            judged: further lines, on which parts were judged.
        """
        states = [state for state in self._states.all() if state.line is not None]
        heard = {state.line for state in states if state.line is not None}
        names = sorted({*heard, *self._verdicts, *judged, *self._configured})
        self._look(names)
        return [Line(name, [one for one in states if one.line == name], self._verdicts.get(name)) for name in names]

    def shared(self) -> list[Process]:
        """Return the processes that serve all lines."""
        return [state for state in self._states.all() if state.line is None]

    def save(self) -> None:
        """Store what is new. Raises SetupError."""
        now, values = self._now_ms(), dict[str, tuple[int, str]]()
        for status, heard_s in self._states.statuses():
            key = f"{_STATUS}/{status.role}/{status.line or ''}/{status.name}"
            values[key] = now - int(heard_s * 1000), status.to_json().decode()
        for line, verdict in list(self._verdicts.items()):
            values[f"{_VERDICT}/{line}"] = verdict.decided_at, json.dumps(asdict(verdict))
        new = {key: value for key, value in values.items() if value[0] > self._saved.get(key, 0) + 1}
        if new:
            self._known.save(new)
        self._saved = {key: at for key, (at, _) in values.items()}

    def run(self, stop: threading.Event) -> None:
        """Store what is new every ten seconds, and at the end."""
        failed = False
        while True:
            ended = stop.wait(_SAVE_S)
            try:
                self.save()
                failed = False
            except SetupError as error:
                if not failed:
                    _log.error("what is known of the plant is not stored", reason=str(error))
                failed = True
            if ended:
                return

    def _restore_status(self, value: str, at: int) -> None:
        try:
            status = status_message.parse_status(Message(value.encode()))
        except Unusable:  # of another build
            return
        self._states.restore(status, max(0, self._now_ms() - at) / 1000)

    def _look(self, names: Iterable[str]) -> None:
        """Ask the archive for the last verdict of each line. If it does not answer, the known ones stay."""
        with self._lock:
            now = self._clock()
            due = [name for name in names if now - self._looked_at.get(name, now - _LOOK_S) >= _LOOK_S]
            if not due:
                return
            try:
                for name in due:
                    for row in self._find(Search(line=name, most=1)):
                        self._verdicts[name] = LastVerdict(
                            row.part_id, row.job_id, row.category, row.decision, row.score, row.decided_at
                        )
            except (Unavailable, DamagedError) as error:
                self.failure = str(error) or "unknown"
            else:
                self.failure = ""
            # From the end on: behind an archive that hangs, each page that waits here would ask once more.
            self._looked_at |= dict.fromkeys(due, self._clock())
