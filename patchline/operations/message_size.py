"""Whether RabbitMQ takes the largest image that the configuration accepts."""

from __future__ import annotations

import secrets

from patchline import config
from patchline.broker.base import BrokerError, Message, NotConfirmed, TooLarge, Unroutable
from patchline.protocol.errors import SetupError
from patchline.runtime import connections

_TIMEOUT_S = 20.0
_REFUSED_AFTER_THE_SIZE = "ACCESS_REFUSED"  # RabbitMQ checks the size of a message before the rights of its user


def refusal(settings: config.Config) -> str | None:
    """Send a message of the size of the largest image to a queue that does not exist.

    RabbitMQ tells its limit only when it refuses a larger message.

    Returns:
        Why RabbitMQ does not take such a message; None if it does.

    Raises:
        BrokerError: that cannot be found out.
        SetupError: the url cannot be used.
    """
    message = Message(bytes(settings.images.max_bytes))
    try:
        with connections.connect(settings, "doctor", _TIMEOUT_S, quiet=True) as broker:
            broker.publish("", f"patchline.doctor.{secrets.token_hex(8)}", message)
    except TooLarge as error:
        return str(error)
    except Unroutable:
        return None
    except NotConfirmed as error:
        if _REFUSED_AFTER_THE_SIZE not in str(error):
            raise
    return None


def describe(settings: config.Config) -> tuple[bool, str]:
    """Return False if RabbitMQ takes smaller images than the workers, and a sentence about it."""
    size = settings.images.max_bytes
    try:
        reason = refusal(settings)
    except (BrokerError, SetupError) as error:
        return True, f"whether it takes images of {size} bytes (images.max_bytes) is not known: {error}"
    if reason is None:
        return True, f"takes images of {size} bytes (images.max_bytes)"
    return False, f"refuses images of images.max_bytes: {reason}, or lower images.max_bytes"
