"""The dead-letter queue: list, show, replay and purge what could not be judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from patchline.broker.base import Broker, Delivery, Message, Unroutable
from patchline.protocol import image_files, messages, topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Frozen

_log = structlog.get_logger(__name__)
_SHOWN = {"job_id", "category"}
_QUIET_S = 1.0  # the queue is empty when nothing arrives for this time
_IMAGE_BYTES = "x-patchline-image-bytes"  # header of a dead letter whose image RabbitMQ did not take
_ENDINGS = {content_type: ending for ending, content_type in reversed(image_files.CONTENT_TYPES.items())}


class DeadLetter(Frozen):
    """One job that could not be judged."""

    job_id: str
    line: str
    category: str
    part_id: str
    reason: str
    stage: str
    error: str
    attempts: int
    worker: str
    bytes: int


def described(dead: Message) -> DeadLetter:
    """Return the facts that a dead letter carries."""
    identity = messages.salvage(dead)
    headers = dead.headers
    attempts = headers.get("x-patchline-attempts")
    return DeadLetter(
        **identity,
        reason=str(headers.get("x-patchline-reason", messages.UNKNOWN)),
        stage=str(headers.get("x-patchline-stage", messages.UNKNOWN)),
        error=str(headers.get("x-patchline-error", messages.UNKNOWN)),
        attempts=attempts if isinstance(attempts, int) else 0,
        worker=str(headers.get("x-patchline-worker", messages.UNKNOWN)),
        bytes=len(dead.body),
    )


def read(broker: Broker, most: int) -> list[DeadLetter]:
    """Return the oldest dead letters, at most `most`. They stay in the queue."""
    with _taken(broker, most) as letters:
        return [described(delivery.message) for delivery in letters]


def show(broker: Broker, job_id: str, most: int, out: Path) -> tuple[DeadLetter, Path]:
    """Return one dead letter, and write its image into the folder `out`. It stays in the queue.

    Raises:
        SetupError: the job has no dead letter.
    """
    with _taken(broker, most) as letters:
        (delivery,) = _of_job(letters, job_id)[:1]
        letter = described(delivery.message)
        out.mkdir(parents=True, exist_ok=True)
        # The id was checked to have no separators; the content type may be anything.
        path = out / f"{letter.job_id}{_ENDINGS.get(delivery.message.content_type or '', '.bin')}"
        path.write_bytes(delivery.message.body)
        return letter, path


def replay(broker: Broker, job_id: str | None, most: int) -> int:
    """Send dead letters to the line again with their job ids, one job's or all; return how many.

    Those without their image, and those of a category that has no queue, stay in the queue.
    A replayed job is judged again even if its verdict is cached. It has no deadline: its gate gave up long ago.

    Raises:
        SetupError: the job has no dead letter, one without its image, or one of a category that has no queue.
    """
    with _taken(broker, most) as letters:
        chosen = letters if job_id is None else _of_job(letters, job_id)
        chosen = [delivery for delivery in chosen if _IMAGE_BYTES not in delivery.message.headers]
        if job_id is not None and not chosen:
            raise SetupError(f"the image of job {job_id} was too large to keep; it cannot be sent again")
        unroutable = [delivery for delivery in chosen if not _send_again(broker, delivery)]
        if job_id is not None and unroutable:
            category = described(unroutable[0].message).category
            raise SetupError(f"no queue takes the category {category!r} of job {job_id}: is it in the configuration?")
        return len(chosen) - len(unroutable)


def _send_again(broker: Broker, delivery: Delivery) -> bool:
    """Publish a job to the backlog. Return False if there is no queue for its category."""
    dead, letter = delivery.message, described(delivery.message)
    headers = {name: value for name, value in dead.headers.items() if not name.startswith("x-") and name != "deadline"}
    headers[messages.REPLAY_HEADER] = 1
    job = Message(dead.body, dead.message_id, dead.type, dead.content_type, headers)
    try:
        broker.publish(topology.BACKLOG, f"{letter.line}.{letter.category}", job)
    except Unroutable:
        _log.warning("no queue for the category of a dead letter, it stays", **letter.model_dump(include=_SHOWN))
        return False
    delivery.ack()
    return True


def purge(broker: Broker, job_id: str | None, most: int) -> int:
    """Delete dead letters, one job's or all; return how many.

    Raises:
        SetupError: the job has no dead letter.
    """
    with _taken(broker, most) as letters:
        chosen = letters if job_id is None else _of_job(letters, job_id)
        for delivery in chosen:
            delivery.ack()
        return len(chosen)


@contextmanager
def _taken(broker: Broker, most: int) -> Iterator[list[Delivery]]:
    """Take the oldest dead letters; those that the block does not settle return when the broker closes."""
    consumer = broker.consume(topology.DEAD, prefetch=most)
    letters: list[Delivery] = []
    while len(letters) < most and (delivery := consumer.take(_QUIET_S)) is not None:
        letters.append(delivery)
    yield letters


def _of_job(letters: list[Delivery], job_id: str) -> list[Delivery]:
    matching = [delivery for delivery in letters if described(delivery.message).job_id == job_id]
    if not matching:
        raise SetupError(
            f"no dead letter of job {job_id} among the oldest {len(letters)}; see: patchline dead-letters list"
        )
    return matching
