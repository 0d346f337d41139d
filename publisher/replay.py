"""Sends what is in the spool, oldest first, with a small window of its own.

A spool that holds hours of images must not fill the queue before the fresh images of other lines: images whose time is
over, for which no gate waits, are sent at a limited rate.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import structlog

from patchline.broker.base import Broker, BrokerError, Outgoing, TooLarge
from patchline.publisher.job_state import JobState, OnState
from patchline.publisher.sending import announcement, is_late, part_and_image
from patchline.publisher.spool import Spool
from patchline.publisher.spool_file import Entry, SpoolError

_log = structlog.get_logger(__name__)
_WINDOW = 4
_RETRY_S = 0.5
_DAMAGED = "the image was damaged in the spool"


@dataclass(eq=False)
class _Flight:
    """An entry on its way. `confirmation` is None if nothing is sent: it is given up, or refused too late."""

    entry: Entry
    confirmation: Future[None] | None
    refusal: str | None = None

    @property
    def failed(self) -> bool:
        """The entry must be sent again."""
        confirmation = self.confirmation
        if confirmation is None or not confirmation.done() or confirmation.cancelled():
            return False
        return confirmation.exception() is not None


@dataclass(eq=False)
class Replay:
    """The replay of one spool. `adopt` may be called by any thread, everything else by one."""

    broker: Broker
    spool: Spool
    on_state: OnState
    stop: threading.Event
    clock_ms: Callable[[], int]
    late_per_s: float = 100.0
    clock: Callable[[], float] = time.monotonic
    may_be_overtaken: bool = False  # the broker takes the entries, and their time is over: fresh images need not wait
    _pending: dict[str, Future[None]] = field(default_factory=dict)  # by job id
    _flights: deque[_Flight] = field(default_factory=deque)
    _next: Entry | None = None
    _late_at: float = 0.0

    def adopt(self, job_id: str, confirmation: Future[None]) -> None:
        """Do not send a job again as long as a copy that was sent before may still arrive."""
        self._pending[job_id] = confirmation

    def disown(self, job_id: str) -> None:
        """Undo `adopt`: the job did not get into the spool."""
        self._pending.pop(job_id, None)

    def run(self) -> None:
        """Replay the spool until the stop event is set."""
        while not self.stop.is_set():
            try:
                progress = self.step(_RETRY_S)
            except SpoolError as error:
                _log.error("spool cannot be replayed, retrying", reason=str(error))
                progress = False
            if not progress:
                self.stop.wait(_RETRY_S)

    def step(self, timeout_s: float) -> bool:
        """Send the next entries, and wait until the oldest one is confirmed.

        Returns:
            False if there is nothing to do at the moment: the spool is empty or the broker does not take it.
        """
        self._fill()
        if not self._flights:
            return self._wait_for_turn(timeout_s)
        first = self._flights[0]
        if first.confirmation is not None:
            wait([first.confirmation], timeout_s)
        while self._flights and self._is_settled(self._flights[0]):
            self._leave(self._flights[0])
        if self._flights and self._flights[0].failed:
            self._rewind(self._flights[0])
            return False
        return True

    def _fill(self) -> None:
        while len(self._flights) < _WINDOW and self.broker.connected and not self.stop.is_set():
            if self._next is None:
                self._next = self.spool.oldest(after=self._flights[-1].entry.number if self._flights else 0)
            entry = self._next
            if entry is None or not self._is_allowed(entry):
                return
            self._next = None
            self._flights.append(self._send(entry))

    def _wait_for_turn(self, timeout_s: float) -> bool:
        """Wait until the next late entry may be sent. Return False if there is none."""
        if self._next is None or not self.broker.connected:
            return False
        return not self.stop.wait(min(timeout_s, max(0.0, self._late_at - self.clock())))

    def _is_allowed(self, entry: Entry) -> bool:
        """Limit the rate of the entries whose time is over."""
        if not is_late(entry.job, self.clock_ms()):
            return True
        now = self.clock()
        if now < self._late_at:
            return False
        self._late_at = max(self._late_at, now - (_WINDOW - 1) / self.late_per_s) + 1 / self.late_per_s
        return True

    def _send(self, entry: Entry) -> _Flight:
        """Send an entry, unless it is on its way already or given up. Of a damaged image, announce the part only."""
        pending = self._pending.pop(entry.job.job_id, None)
        if pending is not None and not (pending.done() and pending.exception() is not None):
            return _Flight(entry, pending)
        if self.spool.is_too_old(entry):
            return _Flight(entry, None)
        now_ms = self.clock_ms()
        if entry.image is not None:
            return _Flight(entry, self._publish(part_and_image(entry.job, entry.image, now_ms)))
        if is_late(entry.job, now_ms):
            return _Flight(entry, None, _DAMAGED)
        return _Flight(entry, self._publish(announcement(entry.job, now_ms)), _DAMAGED)

    def _publish(self, outgoing: Sequence[Outgoing]) -> Future[None]:
        try:
            return self.broker.publish_nowait(outgoing)
        except BrokerError as error:  # the broker is closed
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed

    def _is_settled(self, flight: _Flight) -> bool:
        """Return True if the entry can leave the spool. A refused one leaves when its part is announced."""
        if flight.confirmation is None:
            return True
        if not flight.confirmation.done():
            return self.spool.is_too_old(flight.entry) and flight.confirmation.cancel()
        error = flight.confirmation.exception()
        if isinstance(error, TooLarge) and flight.refusal is None:
            flight.refusal = str(error)
            if is_late(flight.entry.job, self.clock_ms()):
                return True
            flight.confirmation = self.broker.publish_nowait(announcement(flight.entry.job, self.clock_ms()))
            return flight.confirmation.done() and not flight.failed
        return error is None

    def _leave(self, flight: _Flight) -> None:
        state = JobState.CONFIRMED
        if flight.refusal is not None:
            state = JobState.REFUSED
        elif flight.confirmation is None or flight.confirmation.cancelled():
            state = JobState.GIVEN_UP
        if state is JobState.CONFIRMED:
            self.may_be_overtaken = is_late(flight.entry.job, self.clock_ms())
        self.on_state(flight.entry.job, state, flight.refusal)
        self._flights.popleft()
        self.spool.remove(flight.entry)

    def _rewind(self, failed: _Flight) -> None:
        """Start again with the oldest entry. What is confirmed or on its way is not sent again."""
        self.may_be_overtaken = False
        error = failed.confirmation and failed.confirmation.exception()
        _log.warning("job not confirmed", job_id=failed.entry.job.job_id, reason=str(error))
        for flight in self._flights:
            if flight.confirmation is not None and not flight.failed and flight.refusal is None:
                self._pending[flight.entry.job.job_id] = flight.confirmation
        self._flights.clear()
        self._next = None
