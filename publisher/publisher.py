"""Turns each captured image into one confirmed job. The part is announced first, then its image is sent.

Images wait for their confirmation in a window, in order, so that many can be on their way. The oldest one is settled
first: it is confirmed, it goes to the spool, or it is refused. Behind a spool that is not empty, images go to the spool
too, in order; their parts are announced at once, so that a gate knows them before their images arrive. They overtake
only entries whose time is over, once the broker takes these: no part waits for their verdicts.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import structlog

from patchline.broker.base import Broker, BrokerError, NotConfirmed, TooLarge
from patchline.protocol import messages
from patchline.protocol.messages import Job
from patchline.publisher.job_state import JobState, OnSettled, OnState
from patchline.publisher.replay import Replay
from patchline.publisher.sending import announcement, part_and_image
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool
from patchline.publisher.spool_file import SpoolError
from patchline.publisher.window import Item, Limits

_log = structlog.get_logger(__name__)
_RETRY_S = 0.5
_TICK_S = 0.1


@dataclass(eq=False)
class Publisher:
    """Sends the captures of one line. `on_state` is called with every change of a job's state.

    `category` is that of captures without one; None if every capture has one.
    """

    broker: Broker
    line: str
    category: str | None
    spool: Spool
    replay: Replay
    on_state: OnState
    stop: threading.Event
    clock_ms: Callable[[], int]
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    _items: deque[Item] = field(default_factory=deque)
    _announced: deque[Future[None]] = field(default_factory=deque)
    _at_trigger: deque[Future[None]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def accept(self, capture: Capture, deadline: int | None, on_settled: OnSettled = lambda *_: None) -> Job | None:
        """Put a capture into the window, and send it. Wait while the window is full.

        The image is safe once it has a state; `capture.on_accepted` is called then. Sending the same capture again is
        harmless: it has the same job id.

        Args:
            capture: the image.
            deadline: epoch milliseconds after which the gate rejects the part; None waits without limit.
            on_settled: called with the first state of the job, or None if it was not accepted. Calls are in order.

        Returns:
            The job. None if the stop event was set first.
        """
        item = Item(self._make_job(capture, deadline), capture, on_settled, self._refusal(capture))
        with self._changed:
            while not self.stop.is_set() and not self._has_room(len(item.capture.image)):
                self._changed.wait(_TICK_S)
            if self.stop.is_set():
                return None
            direct = all(other.on_its_way for other in self._items)
            self._items.append(item)
            if item.refusal is not None or (direct and self._may_send()):
                self._publish(item)
            self._changed.notify_all()
        return item.job

    def announce(self, capture: Capture, deadline: int | None) -> Capture:
        """Announce a part at its trigger, before there is an image. It waits for nothing. Called by one thread.

        Args:
            capture: what is known at the trigger; it has a job id.
            deadline: as for `accept`.

        Returns:
            The same capture, to which the image is added. `accept` announces the part again, unless RabbitMQ has
            confirmed it by then.
        """
        assert capture.job_id is not None, "what is announced at a trigger has a job id"
        capture = replace(capture, traceparent=capture.traceparent or new_traceparent())
        while self._at_trigger and self._at_trigger[0].done():
            self._at_trigger.popleft()
        if len(self._at_trigger) >= self.limits.window:  # an alarm: what waits is of no use later
            return capture
        try:
            announced = self.broker.publish_nowait(announcement(self._make_job(capture, deadline), self.clock_ms()))
        except BrokerError:  # it is closed
            return capture
        self._at_trigger.append(announced)
        return replace(capture, announced=announced)

    def settle(self, timeout_s: float) -> bool:
        """Wait until the oldest image of the window has a state, and report it. Return False if the window is empty."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout_s):
                return False
            item = self._items[0]
        state, reason = self._outcome(item)
        if state is not None:
            self.on_state(item.job, state, reason)
            item.capture.on_accepted()
        item.on_settled(item.job, state, reason)
        with self._changed:
            self._items.popleft()
            self._changed.notify_all()
        return True

    def abandon(self, reason: str) -> None:
        """Report every image of the window as not accepted: the thread that settles it has ended."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
        for item in items:
            item.on_settled(item.job, None, reason)

    def flush(self) -> None:
        """Wait until every accepted image has a state, or the stop event is set."""
        with self._changed:
            while self._items and not self.stop.is_set():
                self._changed.wait(_TICK_S)

    @property
    def in_window(self) -> int:
        """Number of images that are accepted and have no state yet."""
        return len(self._items)

    def _has_room(self, size: int) -> bool:
        used = sum(len(item.capture.image) for item in self._items)
        fits = len(self._items) < self.limits.window and used + size <= self.limits.window_bytes
        return fits or not self._items

    def _refusal(self, capture: Capture) -> str | None:
        size, limit = len(capture.image), self.limits.max_image_bytes
        if size <= limit:
            return None
        return (
            f"the image has {size} bytes, and images.max_bytes is {limit}; send a smaller image, or raise it here and "
            "for the workers, and max_message_size in rabbitmq.conf"
        )

    def _outcome(self, item: Item) -> tuple[JobState | None, str | None]:
        """Wait until the image is confirmed, refused or spooled. Retry while none of it is possible."""
        while True:
            error = self._wait(item)
            if error is None:
                return self._done(item)
            if isinstance(error, TooLarge):
                item.refusal = str(error)
                self._publish(item)
            elif not self._publish_lost(item):
                try:
                    state = self._spool(item, error)
                    return self._done(item) if state is JobState.CONFIRMED else (state, None)
                except SpoolError as spool_error:
                    reason = str(spool_error)
                    _log.warning("image neither confirmed nor spooled, retrying", job_id=item.job.job_id, reason=reason)
                    self.stop.wait(_RETRY_S)
                    if self.stop.is_set():
                        return None, reason
                    self._publish_again(item)

    def _done(self, item: Item) -> tuple[JobState, str | None]:
        """Return the state of an image whose part RabbitMQ knows."""
        return (JobState.CONFIRMED if item.refusal is None else JobState.REFUSED), item.refusal

    def _wait(self, item: Item) -> BrokerError | None:
        """Return the error of a confirmation; None if the image is confirmed."""
        if item.confirmation is None:
            return BrokerError("older images wait in the spool")
        try:
            item.confirmation.result(max(0.0, item.due - self.clock()))
        except TimeoutError:
            return NotConfirmed(f"not confirmed within {self.limits.confirm_timeout_s:g} s")
        except BrokerError as error:
            return error
        return None

    def _publish(self, item: Item) -> None:
        """Send an image; of a refused image only the announcement, so that its gate rejects the part."""
        job, capture, now_ms = item.job, item.capture, self.clock_ms()
        outgoing = (
            part_and_image(job, capture.image, now_ms, capture.is_announced)
            if item.refusal is None
            else announcement(job, now_ms)
        )
        item.due = self.clock() + self.limits.confirm_timeout_s
        item.published = True
        try:
            item.confirmation = self.broker.publish_nowait(outgoing)
        except BrokerError as error:  # the broker is closed
            item.confirmation = Future()
            item.confirmation.set_exception(error)

    def _publish_lost(self, item: Item) -> bool:
        """Send again, in order, what was lost with its channel. Return False if `item` was not lost."""
        with self._changed:
            if not item.lost and (item.confirmation is not None or not self._may_send()):
                return False
            for other in self._items:
                if other.lost or other.confirmation is None:
                    other.retried = other.lost
                    self._publish(other)
        return True

    def _publish_again(self, item: Item) -> None:
        """Send an image that the spool does not take, unless older ones wait there or its first copy may arrive."""
        if self._may_send() and (item.confirmation is None or item.confirmation.done()):
            self._publish(item)

    def _spool(self, item: Item, error: BrokerError) -> JobState:
        """Save an image in the spool. If its first copy may still arrive, the replay waits for that one.

        A refused image is saved without its picture: its part must be announced, and is judged `error`.
        """
        item.leaving = True
        if item.published:  # the broker does not take images any more
            self.replay.may_be_overtaken = False
        pending = item.confirmation
        if pending is not None and pending.cancel():
            pending = item.confirmation = None
        if pending is not None and pending.done():
            if pending.exception() is None:
                return JobState.CONFIRMED
            pending = None
        if pending is not None:
            self.replay.adopt(item.job.job_id, pending)
        try:
            self.spool.put(item.job, item.capture.image if item.refusal is None else b"", self.clock_ms())
        except SpoolError:
            self.replay.disown(item.job.job_id)
            raise
        if item.refusal is not None:
            _log.error("image refused, its part is announced later", job_id=item.job.job_id, reason=item.refusal)
        if item.published:
            _log.warning("job not confirmed", job_id=item.job.job_id, reason=str(error))
        else:
            self._announce(item.job)
        return JobState.SPOOLED

    def _may_send(self) -> bool:
        """Return True if nothing in the spool must be sent first."""
        try:
            return self.replay.may_be_overtaken or self.spool.depth() == 0
        except SpoolError:
            return False

    def _announce(self, job: Job) -> None:
        """Announce a part whose image waits in the spool. If that is not possible now, the replay announces it."""
        while self._announced and self._announced[0].done():
            self._announced.popleft()
        if self.broker.connected and len(self._announced) < self.limits.window:
            self._announced.append(self.broker.publish_nowait(announcement(job, self.clock_ms())))

    def _make_job(self, capture: Capture, deadline: int | None) -> Job:
        category = capture.category or self.category
        assert category is not None, "the source or the publisher knows the category"
        return Job(
            job_id=capture.job_id or self._job_id(category, capture),
            line=self.line,
            category=category,
            part_id=capture.part_id,
            captured_at=capture.captured_at,
            deadline=deadline,
            number=capture.number,
            encoder_count=capture.encoder_count,
            content_type=capture.content_type,
            traceparent=capture.traceparent or new_traceparent(),
            no_image=capture.no_image,
        )

    def _job_id(self, category: str, capture: Capture) -> str:
        sha256 = capture.sha256 or hashlib.sha256(capture.image).digest()
        return messages.job_id_for(self.line, category, capture.part_id, capture.captured_at, sha256)


def new_traceparent() -> str:
    """Return a new trace (W3C Trace Context, version 00, not sampled). Each job starts its own."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
