"""The path of a message into the archive: take, store, acknowledge. In batches, and in this order.

A message is acknowledged after its transaction has been committed. A crash at any point causes a second delivery, and
the archive stores each message once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from patchline.archive import rows
from patchline.archive.base import Record, Saved, Unavailable, Unreadable, Unstorable
from patchline.broker.base import Consumer, Delivery
from patchline.protocol.errors import Unusable

_log = structlog.get_logger(__name__)
_TAKE_TIMEOUT_S = 0.5
_PAUSE_S, _PAUSE_MAX_S = 0.5, 10.0
_CHECK_INTERVAL_S = 5.0  # while nothing is to be stored


_Row = TypeVar("_Row")


class Store(Protocol[_Row]):
    """Where the rows go: a part of `base.Archive`."""

    def save(self, rows: list[_Row], unreadable: list[Unreadable], /) -> Saved: ...
    def check(self) -> None: ...


class Counters(Protocol[_Row]):
    """What is counted: see `metrics.Metrics`."""

    def batch_stored(self, seconds: float) -> None: ...
    def stored(self, rows: list[_Row], /) -> None: ...
    def saved(self, saved: Saved) -> None: ...


def verdict(delivery: Delivery, archived_at: int) -> Record:
    """Return the row of a verdict. See `rows.record`."""
    return rows.record(delivery.message, archived_at)


class Writer(Generic[_Row]):
    """Stores the messages of a queue. One step stores one batch.

    While the database is away it keeps its batch, acknowledges nothing, and tries again. On an idle line it asks the
    database for a sign of life.

    Args:
        queue: the messages.
        read: returns the row of a message at a time in epoch milliseconds, or None if there is nothing to store.
            Raises Unusable.
        archive: where they go.
        metrics: what is counted.
        most: messages in a batch at most.
        wait_s: how long a batch waits for further messages.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        queue: Consumer,
        read: Callable[[Delivery, int], _Row | None],
        archive: Store[_Row],
        metrics: Counters[_Row],
        most: int,
        wait_s: float,
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._read, self._archive, self._metrics = queue, read, archive, metrics
        self._most, self._wait_s = most, wait_s
        self._now_ms, self._clock = now_ms, clock
        self._batch: list[Delivery] = []
        self._pause_s, self._check_at = 0.0, 0.0
        self._failure = ""

    @property
    def pending(self) -> int:
        """The number of messages that were taken and are not stored."""
        return len(self._batch)

    @property
    def is_storing(self) -> bool:
        """Return False if the database did not take the last batch, or gave no sign of life."""
        return not self._failure

    def step(self) -> float:
        """Take a batch and store it, or try again with the last one. Return how long to wait before the next step.

        Raises:
            DamagedError: the database is damaged. Nothing is acknowledged.
        """
        # RabbitMQ delivers a stale delivery again.
        self._batch = [delivery for delivery in self._batch if not delivery.stale] or self._take()
        try:
            if self._batch:
                self._store_and_acknowledge()
            elif self._failure or self._clock() >= self._check_at:
                self._archive.check()
            else:
                return 0.0
        except Unavailable as error:
            return self._wait(error)
        if self._failure:
            _log.info("the database of the archive takes verdicts again")
        self._pause_s, self._failure, self._check_at = 0.0, "", self._clock() + _CHECK_INTERVAL_S
        return 0.0

    def _store_and_acknowledge(self) -> None:
        started = self._clock()
        self._store(self._batch)
        self._metrics.batch_stored(self._clock() - started)
        for delivery in self._batch:
            delivery.ack()
        self._batch = []

    def _take(self) -> list[Delivery]:
        batch: list[Delivery] = []
        until = self._clock() + _TAKE_TIMEOUT_S
        while len(batch) < self._most and (rest_s := until - self._clock()) > 0:
            delivery = self._queue.take(rest_s)
            if delivery is None:
                break
            if not batch:
                until = self._clock() + self._wait_s
            batch.append(delivery)
        return batch

    def _store(self, batch: list[Delivery]) -> None:
        read, unreadable = self._parse(batch)
        try:
            saved = self._archive.save(read, unreadable)
        except Unstorable:
            saved = self._store_one_by_one(batch)
        else:
            self._metrics.stored(read)
        self._metrics.saved(saved)

    def _parse(self, batch: list[Delivery]) -> tuple[list[_Row], list[Unreadable]]:
        now_ms = self._now_ms()
        read: list[_Row] = []
        unreadable: list[Unreadable] = []
        for delivery in batch:
            try:
                row = self._read(delivery, now_ms)
            except Unusable as error:
                unreadable.append(self._set_aside(delivery, error.detail))
            else:
                read += [] if row is None else [row]
        return read, unreadable

    def _store_one_by_one(self, batch: list[Delivery]) -> Saved:
        """Store what can be stored. The database refuses something of the batch, and does not say what."""
        total = Saved()
        for delivery in batch:
            read, unreadable = self._parse([delivery])
            try:
                saved = self._archive.save(read, unreadable)
                self._metrics.stored(read)
            except Unstorable as error:
                saved = self._archive.save([], [self._set_aside(delivery, f"the database refuses it: {error}")])
            total = total + saved
        return total

    def _set_aside(self, delivery: Delivery, reason: str) -> Unreadable:
        _log.error("unreadable message, set aside", message_id=delivery.message.message_id, reason=reason)
        return rows.unreadable(delivery.message, delivery.routing_key, reason, self._now_ms())

    def _wait(self, error: Unavailable) -> float:
        if str(error) != self._failure:
            _log.error("the database of the archive takes nothing, trying again", reason=str(error))
        self._failure = str(error) or "unknown"
        self._pause_s = min(_PAUSE_MAX_S, self._pause_s * 2 or _PAUSE_S)
        return self._pause_s
