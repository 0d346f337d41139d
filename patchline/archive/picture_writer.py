"""The path of a picture into the archive: take, store the bytes, add the row, acknowledge. In this order.

A crash at any point causes a second delivery, and the archive stores each picture once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from patchline.archive.base import Unavailable, Unstorable
from patchline.archive.metrics import PictureMetrics
from patchline.archive.pictures import PictureIndex, PictureRow
from patchline.archive.retention import Retention
from patchline.archive.store import Store, StoreUnavailable
from patchline.broker.base import Delivery, QueueConsumer
from patchline.protocol import picture_message
from patchline.protocol.errors import Unusable

_log = structlog.get_logger(__name__)
_TAKE_TIMEOUT_S, _FURTHER_S = 0.5, 0.05
_PAUSE_S, _PAUSE_MAX_S = 0.5, 10.0
_CHECK_INTERVAL_S = 5.0  # while nothing is to be stored


class PictureWriter:
    """Stores the pictures of a queue, and deletes old ones. One step stores one batch.

    While the store or the database is away it keeps its batch, acknowledges nothing, and tries again.

    Args:
        pictures: the queue.
        index: the rows.
        store: the bytes.
        retention: what deletes old pictures, while the queue is this archive's.
        metrics: what is counted.
        most: pictures in a batch at most.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        pictures: QueueConsumer,
        index: PictureIndex,
        store: Store,
        retention: Retention,
        metrics: PictureMetrics,
        most: int,
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pictures, self._index, self._store = pictures, index, store
        self._retention, self._metrics = retention, metrics
        self._most, self._now_ms, self._clock = most, now_ms, clock
        self._batch: list[Delivery] = []
        self._pause_s, self._check_at = 0.0, 0.0
        self._failure = self._undeleted = ""

    @property
    def pending(self) -> int:
        """The number of pictures that were taken and are not stored."""
        return len(self._batch)

    @property
    def is_storing(self) -> bool:
        """Return False if the last batch was not stored, old pictures not deleted, or there is no sign of life."""
        return not self._failure and not self._undeleted

    def step(self) -> float:
        """Take a batch and store it, or try again with the last one. Return how long to wait before the next step.

        Old pictures are deleted even if none can be stored: that may be what makes place.
        """
        pause_s = self._store_batch()
        self._delete_old()
        return pause_s

    def _store_batch(self) -> float:
        # RabbitMQ delivers a stale delivery again.
        self._batch = [delivery for delivery in self._batch if not delivery.stale] or self._take()
        try:
            if self._batch:
                self._store_and_acknowledge()
            elif self._failure or self._clock() >= self._check_at:
                self._store.check()
                self._index.known([])
        except (StoreUnavailable, Unavailable) as error:
            return self._wait(error)
        if self._failure:
            _log.info("pictures are stored again")
        self._pause_s, self._failure, self._check_at = 0.0, "", self._clock() + _CHECK_INTERVAL_S
        return 0.0

    def _delete_old(self) -> None:
        if not self._pictures.subscribed or not self._retention.is_due:
            return
        try:
            self._retention.step()
            self._undeleted = ""
        except (StoreUnavailable, Unavailable) as error:
            if str(error) != self._undeleted:
                _log.error("old pictures cannot be deleted, trying again", reason=str(error))
            self._undeleted = str(error)

    def _take(self) -> list[Delivery]:
        batch: list[Delivery] = []
        timeout_s = _TAKE_TIMEOUT_S
        while len(batch) < self._most and (delivery := self._pictures.take(timeout_s)) is not None:
            batch.append(delivery)
            timeout_s = _FURTHER_S
        return batch

    def _store_and_acknowledge(self) -> None:
        started = self._clock()
        rows = [self._row(delivery) for delivery in self._batch]
        known = self._index.known([row.job_id for row in rows if row is not None])
        new: dict[tuple[str, str], PictureRow] = {}
        for delivery, row in zip(self._batch, rows, strict=True):
            if row is not None and row.key not in known and row.key not in new:
                self._store.put(row.digest, delivery.message.body)
                new[row.key] = row
        stored = self._add(list(new.values()))
        self._metrics.batch_stored(self._clock() - started, stored, sum(row is not None for row in rows) - len(new))
        for delivery in self._batch:
            delivery.ack()
        self._batch = []

    def _row(self, delivery: Delivery) -> PictureRow | None:
        """Return the row of a picture. None if the message is no picture."""
        body = delivery.message.body
        try:
            picture = picture_message.parse(delivery.message)
        except Unusable as error:
            self._refuse(delivery.message.message_id, error.detail)
            return None
        return PictureRow(
            job_id=picture.job_id,
            kind=picture.kind,
            digest=picture.sha256,
            content_type=picture.content_type,
            bytes=len(body),
            stored_at=self._now_ms(),
            decision=picture.decision,
            line=picture.line,
            category=picture.category,
        )

    def _add(self, rows: list[PictureRow]) -> int:
        """Add rows. What the database refuses alone is refused, and its bytes are deleted."""
        try:
            return self._index.add(rows)
        except Unstorable:
            pass
        added = 0
        for row in rows:
            try:
                added += self._index.add([row])
            except Unstorable as error:
                self._refuse(row.job_id, f"the database refuses it: {error}")
                if not self._index.is_needed(row.digest):
                    self._store.delete(row.digest)
        return added

    def _refuse(self, message_id: str | None, reason: str) -> None:
        _log.error("no picture, dropped", message_id=message_id, reason=reason)
        self._metrics.refused()

    def _wait(self, error: Exception) -> float:
        if str(error) != self._failure:
            _log.error("pictures cannot be stored, trying again", reason=str(error))
        self._failure = str(error) or "unknown"
        self._pause_s = min(_PAUSE_MAX_S, self._pause_s * 2 or _PAUSE_S)
        return self._pause_s
