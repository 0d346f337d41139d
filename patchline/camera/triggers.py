"""What is known of a part at its trigger, and two that trigger: a rate, and a program that writes lines."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pydantic
import structlog

from patchline.protocol import messages
from patchline.protocol.messages import EncoderCount, Identifier, PartNumber

_log = structlog.get_logger(__name__)
_CHUNK_BYTES = 65_536


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


def read_lines(file: int, on_trigger: Callable[[Trigger], None], on_end: Callable[[], None]) -> None:
    """Call `on_trigger` for each line on a background thread, and `on_end` at the end of the file.

    Args:
        file: a file descriptor. A thread that waits in a file object would keep Python from ending.
        on_trigger: see above.
        on_end: see above.
    """

    def read() -> None:
        try:
            for line in _lines(file):
                on_trigger(parse(line.decode(errors="replace"), Trigger))
        except OSError as error:
            _log.error("triggers cannot be read any more", reason=str(error))
        on_end()

    threading.Thread(target=read, name="triggers", daemon=True).start()


def _lines(file: int) -> Iterator[bytes]:
    unread = b""
    while data := os.read(file, _CHUNK_BYTES):
        *lines, unread = (unread + data).split(b"\n")
        yield from lines
    if unread:
        yield unread


def at_rate(per_second: float, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> Iterator[Trigger]:
    """Yield triggers evenly in time, until `stop` is set. What was missed is not made up for."""
    started, number = clock(), 0
    while not stop.wait(max(0.0, started + number / per_second - clock())):
        yield Trigger()
        number = max(number + 1, math.ceil((clock() - started) * per_second))
