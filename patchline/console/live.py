"""The verdicts as they come: new rows of the archive, read by one thread, however many browsers look."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog

from patchline.archive.base import Record, Search, Unavailable
from patchline.protocol.errors import DamagedError

_log = structlog.get_logger(__name__)
_POLL_S = 0.25
# Rows come in another order than their times: archives take batches, and clocks of workers differ. Most looks go back
# a little, and each eighth goes back as far as clocks may differ.
_OVERLAP_MS, _FAR_MS, _FAR_EVERY = 2_000, 10_000, 8
_FIRST, _PAGE, _KEPT = 60, 500, 2_000
_KEPT_TIMES = 20_000
_IDLE_S = 5.0  # nobody looks
_RATE_MS = 60_000


class Live:
    """Numbers the verdicts in the order in which they were found. Thread-safe.

    Args:
        find: `find` of the archive.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        find: Callable[[Search], Iterable[Record]],
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._now_ms, self._clock = find, now_ms, clock
        self._rows: deque[tuple[int, Record]] = deque(maxlen=_KEPT)
        self._times: deque[tuple[str, int]] = deque(maxlen=_KEPT_TIMES)  # line, and time of the decision
        self._known: dict[str, int] = {}
        self._number = now_ms()  # above those of an earlier start, which browsers may still name
        self._looked_at = self._read_at = -_IDLE_S
        self._read_since = 0  # all later verdicts were read
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._looks = 0
        self._watching = Counter[str]()
        self.failure = ""
        self.ended = False

    def after(self, number: int) -> list[tuple[int, Record]]:
        """Return the verdicts with higher numbers, in order. Asking keeps the thread reading."""
        self.watch()
        with self._lock:
            return [row for row in self._rows if row[0] > number]

    def last(self, number: int) -> int:
        """Return the number that a browser names; 0 if none is so high yet: the clock was ahead at an earlier start."""
        with self._lock:
            return number if number <= self._number else 0

    def watching(self, token: str) -> int:
        """Return how many live pages a log-in has."""
        with self._lock:
            return self._watching[token]

    @contextmanager
    def counted(self, token: str) -> Iterator[None]:
        """Enclose the life of a live page."""
        with self._lock:
            self._watching[token] += 1
        try:
            yield
        finally:
            with self._lock:
                self._watching[token] -= 1
                self._watching = +self._watching

    def watch(self) -> None:
        """Keep the thread reading for some seconds."""
        self._looked_at = self._clock()
        self._wanted.set()

    def rates(self) -> dict[str, int]:
        """Return how many parts of each line are judged in a minute: in the last one, or by what is read of it."""
        now = self._now_ms()
        counts: dict[str, int] = {}
        with self._lock:
            # Verdicts from before the clock was set back are of the future; a worker's clock is a little ahead at most.
            read_since = self._read_since if self._read_since < now else 0
            since = max(now - _RATE_MS, read_since)
            for line, decided_at in self._times:
                counts[line] = counts.get(line, 0) + (since <= decided_at < now + _RATE_MS)
        return {line: round(count * _RATE_MS / (now - since)) for line, count in counts.items()}

    def newest(self) -> int | None:
        """Return when the newest verdict was decided, in epoch milliseconds; None: no verdict was read."""
        with self._lock:
            return max((decided_at for _, decided_at in self._times), default=None)

    def step(self) -> None:
        """Look for new verdicts once. An archive that does not answer is named in `failure`."""
        try:
            found = self._new()
        except (Unavailable, DamagedError) as error:
            if not self.failure:
                _log.warning("the archive does not answer", reason=str(error))
            self.failure = str(error) or "unknown"
            return
        self.failure = ""
        with self._lock:
            for record in reversed(found):
                self._number += 1
                self._rows.append((self._number, record))
                self._times.append((record.line, record.decided_at))

    def run(self, stop: threading.Event) -> None:
        """Look for new verdicts while somebody asks for them, until `stop` is set."""
        while not stop.is_set():
            if self._clock() - self._looked_at < _IDLE_S:
                self.step()
                stop.wait(_POLL_S)
            else:
                self._wanted.clear()
                self._wanted.wait(_POLL_S)
        self.ended = True

    def _new(self) -> list[Record]:
        """Return what was not seen yet, the latest first."""
        now = self._clock()
        again, self._read_at = now - self._read_at < _IDLE_S and bool(self._known), now
        if again:
            self._looks += 1
            # A clock that is ahead must not hide what comes with the right time.
            newest = min(max(self._known.values()), self._now_ms())
            found = self._since(newest - (_OVERLAP_MS if self._looks % _FAR_EVERY else _FAR_MS))
            self._known = {job: at for job, at in self._known.items() if at >= newest - _FAR_MS}
        else:
            found = list(self._find(Search(most=_FIRST)))
            self._read_since = found[-1].decided_at if len(found) == _FIRST else 0
        new = [record for record in found if record.job_id not in self._known]
        self._known |= {record.job_id: record.decided_at for record in new}
        return new

    def _since(self, since: int) -> list[Record]:
        found: list[Record] = []
        place = None
        while True:
            page = list(self._find(Search(since=since, most=_PAGE, before=place)))
            found += page
            if len(page) < _PAGE:
                return found
            place = (page[-1].decided_at, page[-1].job_id)
