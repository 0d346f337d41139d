"""What is known of a part at its trigger, and two that trigger: a rate, and a program that writes lines."""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic
import structlog

from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import EncoderCount, Identifier, PartNumber

_log = structlog.get_logger(__name__)
_CHUNK_BYTES = 65_536
_LOOK_S = 0.02
_FOR_GROUP = 0o660


class Trigger(messages.Frozen):
    """What is known of a part at its trigger. Its number and encoder count are those of the PLC of the line."""

    part_id: Identifier | None = None
    number: PartNumber | None = None
    encoder_count: EncoderCount | None = None


T = TypeVar("T", bound=Trigger)


@dataclass(frozen=True)
class Objection:
    """Why a part must not be photographed: the label of a metric, and the reason for its verdict."""

    cause: str
    reason: str


@dataclass(frozen=True)
class Sighting:
    """A part whose trigger was seen some time after it.

    Attributes:
        trigger: what is known of the part.
        since: when it was triggered at the earliest, on a monotonic clock in seconds.
        objection: why it must not be photographed, if it must not.
    """

    trigger: Trigger
    since: float
    objection: Objection | None = None


PASSED = Objection("late_trigger", "another part was triggered before this one was seen")


def parse(line: str, kind: type[T]) -> T:
    """Return the trigger of a line: an empty one, or a JSON object with fields of `kind`.

    Something passed, even if the line cannot be read: its part is then one of which nothing else is known.
    """
    text = line.strip()
    if not text:
        return kind()
    try:
        return kind.model_validate(json.loads(text))
    except pydantic.ValidationError as error:
        reason = messages.describe(error)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    _log.error("trigger cannot be read, its part has no number", line=text[:200], reason=reason)
    return kind()


class Lines:
    """The lines of a file descriptor, each with the time before which it was not there.

    A line may have waited: in a pipe while this process was frozen, or since before its start. Such a part has moved
    on. The file is looked at again and again, and a line is not older than the last look that found nothing.

    Args:
        file: a file descriptor. A thread that waits in a file object would keep Python from ending.
        clock: a monotonic clock in seconds.
        wait: waits until there is something to read, at most that many seconds; 0 only looks. Returns False if not.
    """

    def __init__(
        self,
        file: int,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[int, float], bool] = lambda file, seconds: bool(select.select([file], [], [], seconds)[0]),
    ) -> None:
        self._file, self._clock, self._wait = file, clock, wait
        self._empty_at = -math.inf  # nothing is known of the age of what waits already
        self._unread, self._unread_since = b"", -math.inf

    def read(self) -> tuple[list[bytes], float] | None:
        """Return the lines that have come, and when the first of them was written at the earliest.

        Returns after a while without lines, too. None is the end of the file.

        Raises:
            OSError: the file cannot be read.
        """
        asked = self._clock()  # before the look: this process may be frozen right after it
        if not self._wait(self._file, 0.0):
            self._empty_at = asked
            self._wait(self._file, _LOOK_S)
            return [], asked
        data = os.read(self._file, _CHUNK_BYTES)
        since = self._unread_since if self._unread else self._empty_at
        if not data and not self._unread:
            return None
        *lines, self._unread = (self._unread + (data or b"\n")).split(b"\n")
        self._unread_since = self._empty_at if lines else since
        return lines, since


def open_pipe(path: Path) -> int:
    """Return a named pipe into which other programs write lines. It is made if it is missing, for its user and group.

    It is open for writing, too: it does not end while nobody writes.

    Raises:
        SetupError: there is something else, another process reads it, or it cannot be made.
    """
    try:
        if not path.exists():
            os.mkfifo(path)
            path.chmod(_FOR_GROUP)  # whatever the umask is
        if not path.is_fifo():
            raise SetupError(f"--triggers pipe:{path}: is no named pipe; remove it, or name another path")
        pipe = os.open(path, os.O_RDWR)
        fcntl.flock(pipe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SetupError(f"--triggers pipe:{path}: another process reads it; give each camera its own") from error
    except OSError as error:
        advice = "name a path in a folder of this user"
        raise SetupError(f"--triggers pipe:{path}: cannot be used ({error.strerror}); {advice}") from error
    return pipe


def read_lines(lines: Lines, put: Callable[[Sighting | None], None]) -> None:
    """Call `put` for each line on a background thread, and with None at the end of the file."""

    def read() -> None:
        try:
            while (found := lines.read()) is not None:
                for sighting in _sightings(*found):
                    put(sighting)
        except OSError as error:
            _log.error("triggers cannot be read any more", reason=str(error))
        put(None)

    threading.Thread(target=read, name="triggers", daemon=True).start()


def _sightings(lines: list[bytes], since: float) -> Iterator[Sighting]:
    """Yield the parts of lines that came together. Only the last one can be before the camera."""
    for number, line in enumerate(lines, 1):
        yield Sighting(parse(line.decode(errors="replace"), Trigger), since, None if number == len(lines) else PASSED)


def at_rate(per_second: float, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> Iterator[Trigger]:
    """Yield triggers evenly in time, until `stop` is set. What was missed is not made up for."""
    started, number = clock(), 0
    while not stop.wait(max(0.0, started + number / per_second - clock())):
        yield Trigger()
        number = max(number + 1, math.ceil((clock() - started) * per_second))
