"""When shifts are, in the time of the plant: each day anew, so that a change of the clocks moves no boundary.

A shift begins and ends at times of the clock on the wall. In the night in which clocks go back an hour, a night shift
is an hour longer, and one after the other they still cover each moment once. A time that does not exist in the night in
which clocks go forward is the moment an hour later; one that exists twice is the first (PEP 495, `fold` 0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from patchline import config
from patchline.protocol.errors import SetupError


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift of a day. Times are epoch milliseconds.

    Attributes:
        day: on which it begins.
        until: the moment after it.
    """

    name: str
    day: date
    since: int
    until: int

    def __str__(self) -> str:
        """As it is asked for: NAME@DAY."""
        return f"{self.name}@{self.day.isoformat()}"


def zone(section: config.Console) -> tzinfo | None:
    """Return the time zone of the plant; None: that of this host. Raises SetupError if the host does not know it."""
    if not section.time_zone:
        return None
    try:
        return ZoneInfo(section.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        advice = "write it as Europe/Berlin; if it is right, install the Debian package tzdata"
        raise SetupError(f"console.time_zone: this host knows no {section.time_zone!r}; {advice}") from error


def moment(day: date, at: time, where: tzinfo | None) -> int:
    """Return a time on the wall in epoch milliseconds. `where` is a time zone, None that of this host."""
    return round(datetime.combine(day, at, where).timestamp() * 1000)


def local(epoch_ms: int, where: tzinfo | None) -> datetime:
    """Return a moment as a time of a zone, None that of this host."""
    at = datetime.fromtimestamp(epoch_ms / 1000, where)
    return at if where is not None else at.astimezone()


def on(section: config.Console, name: str, day: date) -> Shift:
    """Return a shift of a day. Raises SetupError: there is no shift of this name."""
    if name not in section.shifts:
        known = ", ".join(section.shifts) or "none; name them in console.shifts"
        raise SetupError(f"there is no shift {name!r}; known: {known}")
    starts, ends = (time.fromisoformat(part) for part in section.shifts[name].split("-"))
    where, last = zone(section), day if ends > starts else day + timedelta(days=1)
    return Shift(name, day, moment(day, starts, where), moment(last, ends, where))


def ended(section: config.Console, now_ms: int, name: str | None = None) -> Iterator[Shift]:
    """Yield the shifts that have ended, the latest first; only those of a name, if there is one. It never ends."""
    if name is not None or section.shifts:
        day = local(now_ms, zone(section)).date()
        while True:
            names = section.shifts if name is None else [name]
            found = [shift for one in names if (shift := on(section, one, day)).until <= now_ms]
            yield from sorted(found, key=lambda shift: -shift.until)
            day -= timedelta(days=1)


def find(section: config.Console, text: str, now_ms: int) -> Shift:
    """Return a shift by NAME@DAY, such as early@2026-11-28, or the latest that has ended, by NAME.

    Raises:
        SetupError: there is none, the day is none, or it is not over yet.
    """
    name, at, day = text.partition("@")
    if not at:
        return next(ended(section, now_ms, name))
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", day) is None:
            raise ValueError
        shift = on(section, name, date.fromisoformat(day))
    except (ValueError, OverflowError):
        raise SetupError(f"{day!r} is no day; write 2026-11-28") from None
    if shift.since >= now_ms:
        raise SetupError(f"the shift {shift} has not begun yet")
    return shift
