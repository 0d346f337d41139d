"""Conversion of AMQP headers. Clients may send values that are not valid text, or that pika cannot encode."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


def decode_headers(headers: Mapping[object, object] | None) -> dict[str, object]:
    """Return the headers with their names as text."""
    return {decode_text(name) or "": value for name, value in (headers or {}).items()}


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
