"""One image -> one confirmed job. First the part is announced, then its image follows.

What the broker does not confirm (it is away, blocked or full, or has no queue for it) goes to the spool, and from then
on everything does, in order, until the spool is empty again.
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
_PAUSE_S = 0.5


class State(StrEnum):
    """Where an accepted job is."""

    CONFIRMED = "confirmed"
    SPOOLED = "spooled"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Publisher:
    """Sends the captures of one line and category; `tell` hears of every change of a job's state."""

    broker: Broker
    line: str
    category: str
    spool: Spool
    clock_ms: Callable[[], int]
    tell: Callable[[Job, State], None]
    stop: threading.Event

    def accept(self, capture: Capture, deadline: int | None) -> Job | None:
        """Take a capture: when this returns a job, the broker or the disk has it. None when the stop event came first.

        Sending the same capture again is harmless: it has the same job id.

        Args:
            capture: the image.
            deadline: epoch milliseconds after which its gate no longer waits.
        """
        job = self._job(capture, deadline)
        while not self.stop.is_set():
            try:
                state = self._sent_or_spooled(job, capture.image)
                self.tell(job, state)
                return job
            except SpoolError as error:
                _log.warning("neither the broker nor the spool takes an image, the source waits", why=str(error))
                self.stop.wait(_PAUSE_S)
        return None

    def replay(self) -> bool:
        """Send what waits in the spool, oldest first, until something is not confirmed; True when nothing waits."""
        while not self.stop.is_set():
            entry = self.spool.oldest()
            if entry is None:
                return True
            if self.spool.is_too_old(entry, self.clock_ms()):
                self.tell(entry.job, State.GIVEN_UP)
            elif self._send(entry.job, entry.image):
                self.tell(entry.job, State.CONFIRMED)
            else:
                return False
            self.spool.remove(entry)
        return False

    def keep_replaying(self) -> None:
        """Replay until the stop event, with a pause after each refusal."""
        while not self.stop.is_set():
            try:
                self.replay()
            except SpoolError as error:
                _log.error("what waits in the spool cannot be sent", why=str(error))
            self.stop.wait(_PAUSE_S)

    def _sent_or_spooled(self, job: Job, image: bytes) -> State:
        """Raises SpoolError when it is neither."""
        if self.spool.depth() == 0 and self._send(job, image):
            return State.CONFIRMED
        self.spool.put(job, image, self.clock_ms())
        return State.SPOOLED

    def _job(self, capture: Capture, deadline: int | None) -> Job:
        return Job(
            job_id=messages.job_id_for(self.line, self.category, capture.part_id, capture.captured_at, capture.image),
            line=self.line,
            category=self.category,
            part_id=capture.part_id,
            captured_at=capture.captured_at,
            deadline=deadline,
            content_type=capture.content_type,
            traceparent=new_traceparent(),
        )

    def _send(self, job: Job, image: bytes) -> bool:
        """Announce a part and send its image; True when the broker has confirmed both."""
        announcement = Message(b"", job.job_id, messages.PART_TYPE, None, job.announcement().headers())
        whole = Message(image, job.job_id, messages.JOB_TYPE, job.content_type, job.headers())
        try:
            # A line without a gate has nobody to announce to; a job that reaches no queue is lost.
            part = Outgoing(topology.PARTS, job.line, announcement, mandatory=False)
            self.broker.publish_all([part, Outgoing(topology.JOBS, job.routing_key, whole)])
        except BrokerError as error:
            _log.warning("not accepted by the broker", job_id=job.job_id, why=str(error))
            return False
        return True


def new_traceparent() -> str:
    """A trace of its own for each job (W3C Trace Context, version 00, not sampled)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
