"""Captures, and files as their source."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_MAX_ID = 128
_MAX_BYTES = 512 * 2**20  # the upper limit of RabbitMQ's max_message_size


@dataclass(frozen=True)
class Capture:
    """One image, byte for byte as it was read.

    Attributes:
        part_id: the part.
        content_type: the content type of the image.
        captured_at: time of capture in epoch milliseconds.
        image: the encoded image.
        category: the category of the part; None is that of the publisher.
        number: the number by which the PLC of the line knows the part.
        encoder_count: the count of the line's encoder at the trigger.
        deadline: epoch milliseconds by which a verdict is needed; None counts it from sending.
        job_id: made at the trigger; None makes it of the image.
        traceparent: made at the trigger; None makes a new one.
        no_image: why there is no image of an announced part.
        announced: the confirmation of an announcement that was sent at the trigger.
        sha256: of the image, 32 bytes, if the source has it; a job's id is made of it.
        name: that of the file as far as an id may have it, without a hash: the part's number is searched in it.
        on_accepted: called once, when the job is confirmed by the broker, stored on disk, or refused for good. The
            source may then forget the image. It is called by any thread, and must not block.
    """

    part_id: str
    content_type: str
    captured_at: int
    image: bytes = field(repr=False)
    category: str | None = None
    number: int | None = None
    encoder_count: int | None = None
    deadline: int | None = None
    job_id: str | None = None
    traceparent: str | None = None
    no_image: str | None = None
    name: str | None = None
    sha256: bytes | None = field(default=None, repr=False, compare=False)
    announced: Future[None] | None = field(default=None, repr=False, compare=False)
    on_accepted: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def is_announced(self) -> bool:
        """RabbitMQ has confirmed the announcement of the trigger."""
        announced = self.announced
        if announced is None or not announced.done() or announced.cancelled():
            return False
        return announced.exception() is None


def read(path: Path) -> Capture:
    """Read a file. Its name becomes the part id, its modification time the time of capture."""
    image, status = read_file(path)
    return capture_of(path, status, image)


def read_file(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the content of a file, and its status after it was read. A larger file than RabbitMQ can take is cut."""
    with path.open("rb") as file:
        image = file.read(_MAX_BYTES + 1)
        return image, os.fstat(file.fileno())


def capture_of(path: Path, status: os.stat_result, image: bytes) -> Capture:
    """Return the capture of a file that was read."""
    time_ms = captured_at(status.st_mtime_ns, status.st_ctime_ns)
    if time_ms != _milliseconds(status.st_mtime_ns):
        _log.warning("image has an implausible time, using its time of arrival", path=str(path), time_ms=time_ms)
    return Capture(_part_id(path), image_files.content_type_of(path, image), time_ms, image, name=_id_name(path))


def captured_at(mtime_ns: int, ctime_ns: int) -> int:
    """Return the time of capture in epoch milliseconds: the modification time.

    One before 2000 or after 2099 comes from a camera without a clock. The file's change time is used instead.
    """
    time_ms = _milliseconds(mtime_ns)
    return time_ms if messages.EARLIEST_MS <= time_ms <= messages.LATEST_MS else ctime_ns // 1_000_000


def _milliseconds(time_ns: int) -> int:
    """Round like `int(st_mtime * 1000)`, as earlier versions did: job ids depend on it."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return int((seconds + 1e-9 * nanoseconds) * 1000)


def from_files(paths: list[Path], per_second: float | None, stop: threading.Event) -> Iterator[Capture]:
    """Read files in order, evenly spaced in time.

    Args:
        paths: the files.
        per_second: images per second; None reads as fast as the consumer takes them.
        stop: ends the iteration when set.

    Raises:
        SetupError: a file cannot be read.
    """
    started = time.monotonic()
    for number, path in enumerate(paths):
        due = started if per_second is None else started + number / per_second
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        try:
            capture = read(path)
        except OSError as error:
            raise SetupError(f"{path}: cannot be read ({error.strerror}); repair the file or leave it out") from error
        yield capture


def numbered(captures: Iterator[Capture], pattern: str) -> Iterator[Capture]:
    """Give each capture the number that its name contains, or its part id.

    Args:
        captures: the captures.
        pattern: a regular expression with one pair of parentheses around the digits of the number.

    Raises:
        SetupError: the pattern is not valid.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SetupError(f"--number-from {pattern!r} is no regular expression: {error}") from None
    if expression.groups != 1:
        advice = "one pair of parentheses around the digits, such as '([0-9]+)$'"
        raise SetupError(f"--number-from {pattern!r} must have {advice}")
    return (_with_number(capture, expression) for capture in captures)


def _with_number(capture: Capture, expression: re.Pattern[str]) -> Capture:
    match = expression.search(capture.name or capture.part_id)
    text = match[1] if match else ""
    if not (text and text.isascii() and text.isdigit() and int(text) <= messages.MAX_PART_NUMBER):
        _log.error("part without a number, a PLC will reject it", part_id=capture.part_id)
        return capture
    return replace(capture, number=int(text))


def _part_id(path: Path) -> str:
    """Return a name that an id may have. If it is not that of the file, a hash of the file's name keeps both apart."""
    name = _id_name(path)
    if name in (path.stem, f"part-{path.stem}"):
        return name
    digest = hashlib.blake2b(os.fsencode(path.stem), digest_size=4).hexdigest()
    return f"{name[: _MAX_ID - len(digest) - 1]}-{digest}"


def _id_name(path: Path) -> str:
    """Return the file's name without its suffix, with characters that an id must not contain replaced by `-`."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._:-") else "-" for letter in path.stem
    )
    return f"part-{cleaned}"[:_MAX_ID] if not cleaned[:1].isalnum() else cleaned[:_MAX_ID]
