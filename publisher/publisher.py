"""One image -> one confirmed job. First the part is announced, then its image follows."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

import structlog

from broker import topology
from broker.base import Broker, Message, NotConfirmed
from inspection import message
from inspection.message import Job
from publisher.source import Capture

_log = structlog.get_logger(__name__)
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Publisher:
    """Sends the captures of one line and category."""

    broker: Broker
    line: str
    category: str
    stop: threading.Event

    def publish(self, capture: Capture, deadline: int | None) -> Job | None:
        """Send one capture until the broker has accepted it; None when the stop event came first.

        A job counts as accepted when its announcement and its image are both confirmed. Sending the same capture again
        is harmless: it has the same job id.

        Args:
            capture: the image.
            deadline: epoch milliseconds after which its gate no longer waits.
        """
        job = Job(
            job_id=message.job_id_for(self.line, self.category, capture.part_id, capture.captured_at, capture.image),
            line=self.line,
            category=self.category,
            part_id=capture.part_id,
            captured_at=capture.captured_at,
            deadline=deadline,
            content_type=capture.content_type,
            traceparent=new_traceparent(),
        )
        announcement = Message(b"", job.job_id, message.PART_TYPE, None, job.announcement().headers())
        image = Message(capture.image, job.job_id, message.JOB_TYPE, job.content_type, job.headers())
        # A line without a gate has nobody to announce to; a job that reaches no queue is lost.
        announced = self._until_confirmed(topology.PARTS, self.line, announcement, mandatory=False)
        accepted = announced and self._until_confirmed(topology.JOBS, job.routing_key, image, mandatory=True)
        return job if accepted else None

    def _until_confirmed(self, exchange: str, routing_key: str, outgoing: Message, mandatory: bool) -> bool:
        while not self.stop.is_set():
            try:
                self.broker.publish(exchange, routing_key, outgoing, mandatory=mandatory)
                return True
            except NotConfirmed as error:
                _log.warning("not accepted yet", job_id=outgoing.message_id, why=str(error))
                self.stop.wait(_PAUSE_S)
        return False


def new_traceparent() -> str:
    """A trace of its own for each job (W3C Trace Context, version 00, not sampled)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
