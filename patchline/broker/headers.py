"""Conversion of AMQP headers. Clients may send values that are not valid text, or that pika cannot encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from patchline.broker.base import Message


def decode_headers(headers: Mapping[object, object] | None) -> dict[str, object]:
    """Return the headers with their names as text."""
    return {decode_text(name) or "": value for name, value in (headers or {}).items()}


def deliveries_before(headers: Mapping[str, object], redelivered: bool) -> int:
    """Return how often the queue delivered a message before.

    RabbitMQ 4.3 counts deliveries in two headers, and differs from earlier versions in what `x-delivery-count` counts.
    A redelivery without a count is the second delivery.
    """
    counts = [headers.get(name) for name in ("x-delivery-count", "x-acquired-count")]
    return max([int(redelivered), *(count for count in counts if isinstance(count, int))])


def decode_message(properties: Any, headers: Mapping[str, object], body: bytes) -> Message:
    """Return the message of a delivery, with its AMQP properties and its decoded headers."""
    return Message(
        body=body,
        message_id=decode_text(properties.message_id),
        type=decode_text(properties.type),
        content_type=decode_text(properties.content_type),
        headers=without_broker_headers(headers),
        app_id=decode_text(properties.app_id),
        content_encoding=decode_text(properties.content_encoding),
    )


def without_broker_headers(headers: Mapping[str, object]) -> dict[str, object]:
    """Return the headers that may be published again.

    Names that start with `x-` belong to brokers and their plugins, except for ours (`x-patchline-`): counts, earlier
    dead-lettering, federation, delays. `CC` and `BCC` make RabbitMQ route a message to further keys.
    """
    return {name: value for name, value in headers.items() if not _is_of_broker(name)}


def _is_of_broker(name: str) -> bool:
    lower = name.lower()
    return lower in ("cc", "bcc") or (lower.startswith("x-") and not lower.startswith("x-patchline-"))


def decode_text(value: object) -> str | None:
    """Return a name or property as text. Bytes that are not UTF-8 become U+FFFD; None stays None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return None if value is None else str(value)


def encodable(value: object) -> object:
    """Return a value that pika can encode. Unsupported values become text."""
    if value is None or isinstance(value, str | bytes | bool | datetime):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping):
        return {str(name): encodable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return str(value)


def decode_value(original: Callable[[bytes, int], object], encoded: bytes, offset: int) -> object:
    """Decode a timestamp as its number. pika 1.4 raises on a timestamp after the year 9999 while it reads a frame.

    The exception would end the I/O thread, and one such message would end every worker in turn.

    Args:
        original: pika's decoder.
        encoded: a frame.
        offset: the start of the value.

    Returns:
        The value and the offset after it.
    """
    if encoded[offset : offset + 1] == b"T":
        return int.from_bytes(encoded[offset + 1 : offset + 9], "big"), offset + 9
    return original(encoded, offset)
