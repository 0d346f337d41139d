"""Headers of strangers: AMQP knows kinds of values and bytes that Python's own types and pika do not take back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


def received(headers: Mapping[object, object] | None) -> dict[str, object]:
    """Headers with names that are text, whatever bytes they came as."""
    return {text(name) or "": value for name, value in (headers or {}).items()}


def text(value: object) -> str | None:
    """A name or property as text; what is not UTF-8 in it shows as U+FFFD. None stays None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return None if value is None else str(value)


def sendable(value: object) -> object:
    """The value as pika can send it: what it cannot, travels as its text."""
    if value is None or isinstance(value, str | bytes | bool | datetime):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping):
        return {str(name): sendable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [sendable(each) for each in value]
    return str(value)
