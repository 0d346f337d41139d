"""What a publisher sends for a part: its announcement, its image, or both, in this order."""

from __future__ import annotations

from collections.abc import Sequence

from patchline.broker.base import Message, Outgoing
from patchline.protocol import messages, topology
from patchline.protocol.messages import Job


def announcement(job: Job, now_ms: int) -> Sequence[Outgoing]:
    """Return the announcement of a part, without its image."""
    message = Message(b"", job.job_id, messages.PART_TYPE, None, job.announcement(now_ms).headers())
    # A line may have no gate, so nobody needs to receive the announcement.
    return [Outgoing(topology.PARTS, job.line, message, mandatory=False)]


def _image(job: Job, image: bytes, exchange: str) -> Outgoing:
    """Return the image of a part, which must reach a queue."""
    message = Message(image, job.job_id, messages.JOB_TYPE, job.content_type, job.headers())
    return Outgoing(exchange, job.routing_key, message)


def is_late(job: Job, now_ms: int) -> bool:
    """Return True if the deadline of the part is over."""
    return job.deadline is not None and job.deadline <= now_ms


def part_and_image(job: Job, image: bytes, now_ms: int, is_announced: bool = False) -> Sequence[Outgoing]:
    """Return the announcement, unless RabbitMQ has it, and the image.

    A late part is not announced: its gate cannot reject it any more. Its image must not delay those of other parts.
    """
    if is_late(job, now_ms):
        return [_image(job, image, topology.BACKLOG)]
    announced = [] if is_announced else announcement(job, now_ms)
    return [*announced, _image(job, image, topology.JOBS)]
