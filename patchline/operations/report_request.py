"""What a report is to be about, as people ask for it."""

from __future__ import annotations

import re
from datetime import datetime, tzinfo
from typing import Literal

from patchline import config
from patchline.archive import times
from patchline.operations import shift_times
from patchline.operations.line_report import BATCH_DAYS, Request
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

MOST_DAYS = 31
_DAY_MS = 86_400_000


def make(
    section: config.Console,
    now_ms: int,
    shift: str = "",
    batch: str = "",
    since: str = "",
    until: str = "",
    line: str = "",
    category: str = "",
) -> Request:
    """Return the request for a shift, a batch or a span of time. Empty texts are not said.

    Args:
        section: has the shifts and the time zone.
        now_ms: the wall clock.
        shift: as NAME, the latest that has ended, or as NAME@DAY.
        batch: the beginning of the ids of its parts.
        since: see `times.parse`; without an offset of the plant.
        until: likewise; now, if it is missing.
        line: only this line.
        category: only this category.

    Raises:
        SetupError: it is no name or no time, says a shift and something else, or is longer than a report may be.
    """
    _require_names(line, category, batch)
    if shift and (batch or since or until):
        raise SetupError("name a shift, or a batch, or a time; a shift has its own time")
    kind: Literal["shift", "batch", "span"] = "shift" if shift else "batch" if batch else "span"
    if shift:
        found = shift_times.find(section, shift, now_ms)
        name, starts, ends = str(found), found.since, found.until
    elif batch or since:
        name, zone = batch, shift_times.zone(section)
        starts = parse(since, now_ms, zone) if since else now_ms - BATCH_DAYS * _DAY_MS
        ends = parse(until, now_ms, zone) if until else now_ms
    else:
        raise SetupError("name a shift, a batch, or the time from which the report is to be")
    if starts >= min(ends, now_ms):
        raise SetupError("the time of the report begins after its end, or in the future")
    if ends - starts > MOST_DAYS * _DAY_MS:
        raise SetupError(f"a report is about {MOST_DAYS} days at most")
    return Request(kind=kind, name=name, since=starts, until=ends, line=line or None, category=category or None)


def _require_names(line: str, category: str, batch: str) -> None:
    for name, value, pattern in (
        ("line", line, messages.NAME_PATTERN),
        ("category", category, messages.NAME_PATTERN),
        ("batch", batch, messages.IDENTIFIER_PATTERN),
    ):
        if value and re.fullmatch(pattern, value) is None:
            raise SetupError(f"{value!r} is no name of a {name}")


def parse(text: str, now_ms: int, zone: tzinfo | None) -> int:
    """Return a time in epoch milliseconds. Without an offset, it is one of the plant. Raises SetupError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return times.parse(text, now_ms)
    if at.tzinfo is not None or zone is None:
        return times.parse(text, now_ms)
    return round(at.replace(tzinfo=zone).timestamp() * 1000)
