"""Times as people write them, for searches: dates, dates with times, and spans before now."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from patchline.protocol.errors import SetupError

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def parse(text: str, now_ms: int) -> int:
    """Return a time in epoch milliseconds.

    Args:
        text: in ISO 8601, such as 2026-11-28 or 2026-11-28T09:30 (of this machine, unless it has an offset); or a span
            before now, such as 90s, 30m, 8h, 7d or 2w.
        now_ms: the wall clock.

    Raises:
        SetupError: it is neither.
    """
    span = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if span:
        return max(0, now_ms - int(span[1]) * _UNITS_MS[span[2]])
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise SetupError(
            f"{text!r} is no time; write 2026-11-28, 2026-11-28T09:30 or a span before now such as 8h or 7d"
        ) from None


def iso(epoch_ms: int) -> str:
    """Return a time in ISO 8601, UTC, with milliseconds."""
    at = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{epoch_ms % 1000:03}Z"


def local(epoch_ms: int) -> str:
    """Return a time of this machine, with its offset."""
    return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "milliseconds")
