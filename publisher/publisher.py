"""Turns each captured image into one confirmed job. The part is announced first, then its image is sent.

A job that the broker does not confirm goes to the spool: the broker may be unreachable, blocked or full, or no queue
may be bound. From then on all jobs go through the spool, in order, until it is empty.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from patchline.broker.base import Broker, BrokerError, Message, Outgoing
from patchline.protocol import messages, topology
from patchline.protocol.messages import Job
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool, SpoolError

_log = structlog.get_logger(__name__)
_RETRY_S = 0.5


class State(StrEnum):
    """State of an accepted job."""

    CONFIRMED = "confirmed"
    SPOOLED = "spooled"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Publisher:
    """Sends the captures of one line. `on_state` is called with every change of a job's state.

    `category` is that of captures without one; None if every capture has one.
    """

    broker: Broker
    line: str
    category: str | None
    spool: Spool
    clock_ms: Callable[[], int]
    on_state: Callable[[Job, State], None]
    stop: threading.Event

    def accept(self, capture: Capture, deadline: int | None) -> Job | None:
        """Send a capture or save it in the spool. Wait and retry while neither is possible.

        Sending the same capture again is harmless: it has the same job id.

        Args:
            capture: the image.
            deadline: epoch milliseconds after which the gate rejects the part; None waits without limit.

        Returns:
            The job, confirmed by the broker or stored on disk. None if the stop event was set first.
        """
        job = self._make_job(capture, deadline)
        while not self.stop.is_set():
            try:
                state = self._send_or_spool(job, capture.image)
                self.on_state(job, state)
                capture.on_accepted()
                return job
            except SpoolError as error:
                _log.warning("image neither confirmed nor spooled, retrying", job_id=job.job_id, reason=str(error))
                self.stop.wait(_RETRY_S)
        return None

    def replay(self) -> bool:
        """Send the spooled jobs, oldest first, until one is not confirmed. Return True if the spool is empty."""
        while not self.stop.is_set():
            entry = self.spool.oldest()
            if entry is None:
                return True
            if self.spool.is_too_old(entry, self.clock_ms()):
                self.on_state(entry.job, State.GIVEN_UP)
            elif self._send(entry.job, entry.image):
                self.on_state(entry.job, State.CONFIRMED)
            else:
                return False
            self.spool.remove(entry)
        return False

    def replay_until_stopped(self) -> None:
        """Replay the spool until the stop event is set, with a pause after each attempt."""
        while not self.stop.is_set():
            try:
                self.replay()
            except SpoolError as error:
                _log.error("spool cannot be replayed, retrying", reason=str(error))
            self.stop.wait(_RETRY_S)

    def _send_or_spool(self, job: Job, image: bytes) -> State:
        """Raises SpoolError if the broker does not confirm the job and the spool does not take it."""
        if self.spool.depth() == 0 and self._send(job, image):
            return State.CONFIRMED
        self.spool.put(job, image, self.clock_ms())
        return State.SPOOLED

    def _make_job(self, capture: Capture, deadline: int | None) -> Job:
        category = capture.category or self.category
        assert category is not None, "the source or the publisher knows the category"
        return Job(
            job_id=messages.job_id_for(self.line, category, capture.part_id, capture.captured_at, capture.image),
            line=self.line,
            category=category,
            part_id=capture.part_id,
            captured_at=capture.captured_at,
            deadline=deadline,
            content_type=capture.content_type,
            traceparent=new_traceparent(),
        )

    def _send(self, job: Job, image: bytes) -> bool:
        """Announce a part and send its image. Return True if the broker confirmed both."""
        announcement = Message(b"", job.job_id, messages.PART_TYPE, None, job.announcement().headers())
        job_message = Message(image, job.job_id, messages.JOB_TYPE, job.content_type, job.headers())
        try:
            # A line may have no gate, so nobody needs to receive the announcement; an unrouted job would be lost.
            part = Outgoing(topology.PARTS, job.line, announcement, mandatory=False)
            self.broker.publish_all([part, Outgoing(topology.JOBS, job.routing_key, job_message)])
        except BrokerError as error:
            _log.warning("job not confirmed", job_id=job.job_id, reason=str(error))
            return False
        return True


def new_traceparent() -> str:
    """Return a new trace (W3C Trace Context, version 00, not sampled). Each job starts its own."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
