"""The message of what could not be judged, for the queue of the dead letters."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from patchline.broker.base import Message
from patchline.protocol.errors import JobError

_MAX_DETAIL_LENGTH = 500  # the text of an error may quote its input


def dead_letter(message: Message, error: JobError, attempts: int, process: str) -> Message:
    """Return a message with headers that say why, where and by which process it could not be judged."""
    failure = {
        "x-patchline-reason": str(error.reason),
        "x-patchline-error": error.detail[:_MAX_DETAIL_LENGTH],
        "x-patchline-stage": error.stage,
        "x-patchline-attempts": attempts,
        "x-patchline-worker": process,
    }
    return replace(message, headers={**message.headers, **failure})


def without_image(letter: Message) -> Message:
    """Return a dead letter whose image RabbitMQ does not take. Its headers identify the image."""
    image = letter.body
    identity = {"x-patchline-image-bytes": len(image), "x-patchline-image-sha256": hashlib.sha256(image).hexdigest()}
    return replace(letter, body=b"", headers={**letter.headers, **identity})
