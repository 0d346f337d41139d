"""Which pictures are deleted when: by their age, and by the bytes of all of them. One that is held is never deleted.

A picture leaves in three steps: its row is marked, its bytes are deleted unless another row needs them, and the row is
deleted. After a crash at any point, marked rows are finished first, so that no bytes stay that no row knows.

A wall clock that jumps ahead, by a mistake or a fault, would make every picture old at once. While it is ahead of the
clock that never jumps, nothing is deleted by its age.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from patchline import config
from patchline.archive.metrics import PictureMetrics
from patchline.archive.pictures import PictureIndex, PictureRow
from patchline.archive.store import Store

_log = structlog.get_logger(__name__)
_AT_ONCE = 50  # pictures of a step
_INTERVAL_S, _RETRY_S = 60.0, 5.0
_EMPTY_INTERVAL_S = 5.0  # while nothing is stored, so that the first pictures are counted soon
_DAY_MS = 86_400_000
_JUMP_MS = 3_600_000  # a wall clock that has jumped further ahead makes no picture old
# Whose pictures go first if all have too many bytes. Of the others, the oldest go first.
_FIRST = "pass"


class Retention:
    """Deletes pictures in small steps.

    Args:
        index: the rows.
        store: the bytes.
        rules: how long pictures are kept, and how many bytes.
        metrics: what is counted.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        index: PictureIndex,
        store: Store,
        rules: config.Pictures,
        metrics: PictureMetrics,
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index, self._store, self._rules, self._metrics = index, store, rules, metrics
        self._now_ms, self._clock = now_ms, clock
        self._next_at = 0.0
        self._zero_ms = self._wall_less_steady_ms()
        self._jumped = False
        self._sums: dict[str, int] | None = None  # bytes by decision; they are counted once in an interval

    @property
    def is_due(self) -> bool:
        """It is time to look for pictures to delete."""
        return self._clock() >= self._next_at

    def step(self) -> int:
        """Delete some pictures, if it is time. Return their number. As long as there are more, it is time.

        Raises:
            Unavailable: the database is away.
            StoreUnavailable: the store is away.
        """
        if not self.is_due:
            return 0
        self._next_at = self._clock() + _RETRY_S  # if it fails
        rows = self._index.leaving(_AT_ONCE) or self._index.begin_removal(self._victims())
        for row in rows:
            if self._sums is not None and row.decision in self._sums:
                self._sums[row.decision] -= row.bytes
            if not self._index.is_needed(row.digest):
                self._store.delete(row.digest)
        self._index.end_removal(rows)
        self._metrics.deleted(rows)
        self._next_at = 0.0
        if not rows:
            interval_s = _INTERVAL_S if self._sums else _EMPTY_INTERVAL_S
            self._next_at, self._sums = self._clock() + interval_s, None
        return len(rows)

    def _victims(self) -> list[PictureRow]:
        if self._sums is None:
            self._sums = self._index.bytes_by_decision()
            self._metrics.oldest({name: self._index.oldest(name, None, 1) for name in self._sums})
        sums = self._sums
        self._metrics.kept(sums)
        decisions = sorted(sums, key=lambda decision: decision != _FIRST)
        for decision in () if self._clock_has_jumped() else decisions:
            days = self._rules.keep_days.get(decision)  # type: ignore[call-overload]  # of a later build: no limit
            if days is not None and (
                old := self._index.oldest(decision, self._now_ms() - int(days * _DAY_MS), _AT_ONCE)
            ):
                return list(old)
        excess = sum(sums.values()) - self._rules.max_bytes
        return [] if excess <= 0 else self._beyond(excess, decisions)

    def _clock_has_jumped(self) -> bool:
        jumped = self._wall_less_steady_ms() - self._zero_ms > _JUMP_MS
        if jumped != self._jumped:
            text = "the clock of this host has jumped ahead, no picture is deleted by its age until a restart"
            _log.error(text) if jumped else _log.info("the clock of this host is right again")
        self._jumped = jumped
        return jumped

    def _wall_less_steady_ms(self) -> float:
        return self._now_ms() - self._clock() * 1000

    def _beyond(self, excess: int, decisions: list[str]) -> list[PictureRow]:
        """Return pictures to delete because all have too many bytes, and no more than needed."""
        rows = self._index.oldest(_FIRST, None, _AT_ONCE)
        if not rows:
            others = [row for name in decisions for row in self._index.oldest(name, None, _AT_ONCE)]
            rows = sorted(others, key=lambda row: row.stored_at)[:_AT_ONCE]
        if not rows:
            _log.warning("pictures have too many bytes, and all of them are held", excess_bytes=excess)
        chosen: list[PictureRow] = []
        while rows and excess > 0:
            chosen.append(rows.pop(0))
            excess -= chosen[-1].bytes
        return chosen
