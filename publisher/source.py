"""Sources of images: files, folders and a watched folder."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import watchfiles

from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_SETTLED_MS = 300  # a file that has not changed for this long is complete
_BATCH_TIMEOUT_MS = 500
_NOTICE_DELAY_NS = 1_000_000_000  # upper bound, on a machine that is not overloaded, from a change to its notification


@dataclass(frozen=True)
class Capture:
    """One image, byte for byte as it was read.

    Attributes:
        part_id: the part.
        content_type: the content type of the image.
        captured_at: time of capture in epoch milliseconds.
        image: the encoded image.
        category: the category of the part; None is that of the publisher.
        deadline: epoch milliseconds by which a verdict is needed; None counts it from sending.
        on_accepted: called once, when the job is confirmed by the broker, stored on disk, or refused for good. The
            source may then forget the image. It is called by any thread, and must not block.
    """

    part_id: str
    content_type: str
    captured_at: int
    image: bytes = field(repr=False)
    category: str | None = None
    deadline: int | None = None
    on_accepted: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)


def read(path: Path) -> Capture:
    """Read a file. Its name becomes the part id, its modification time the time of capture.

    A modification time before 2000 or after 2099 comes from a camera without a clock. The file's change time is used
    instead.
    """
    status = path.stat()
    captured_at = int(status.st_mtime * 1000)
    if not messages.EARLIEST_MS <= captured_at <= messages.LATEST_MS:
        _log.warning("image has an implausible time, using its time of arrival", path=str(path), time_ms=captured_at)
        captured_at = status.st_ctime_ns // 1_000_000
    return Capture(_part_id(path), image_files.content_type(path), captured_at, path.read_bytes())


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


def from_watched_folder(folder: Path, bookmark: Path, stop: threading.Event) -> Iterator[Capture]:
    """Read every image that appears in `folder`, also those that appeared while no publisher was running.

    An image is read once it is completely written. An image that was being sent when the process ended is read again
    on the next start and becomes the same job.

    Args:
        folder: the folder to watch, with its subfolders.
        bookmark: a file whose modification time separates files already read from new ones. The first start creates it.
        stop: ends the iteration when set.

    Raises:
        SetupError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: --watch needs an existing folder")
    if not bookmark.exists():
        bookmark.parent.mkdir(parents=True, exist_ok=True)
        bookmark.touch()
    since_ns = bookmark.stat().st_mtime_ns
    for complete_until_ns, arrived in _arrivals(folder, since_ns, stop):
        for path in sorted(arrived, key=lambda path: (_changed_ns(path), path)):
            capture = _read_when_complete(path, stop) if image_files.is_image(path) else None
            if capture is not None:
                yield capture
        if not stop.is_set():  # otherwise files of this batch may not have been read
            since_ns = max(since_ns, complete_until_ns)
            os.utime(bookmark, ns=(since_ns, since_ns))


def bookmark_path(spool_folder: Path, line: str, category: str, watched_folder: Path) -> Path:
    """Return the path in the spool folder of the bookmark for a watched folder."""
    digest = hashlib.sha256(os.fsencode(watched_folder.resolve())).hexdigest()[:12]
    return spool_folder / f"{line}.{category}.{digest}.bookmark"


def _arrivals(folder: Path, since_ns: int, stop: threading.Event) -> Iterator[tuple[int, set[Path]]]:
    """Yield files that were created or changed after `since_ns`, and the time up to which the list is complete.

    Yields at intervals even if no file arrives. The folder is listed after the watch has begun, so no file is missed.
    """
    batches = watchfiles.watch(
        folder,
        stop_event=stop,
        debounce=_SETTLED_MS,
        rust_timeout=_BATCH_TIMEOUT_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for number, batch in enumerate(batches):
        arrived = {Path(name) for kind, name in batch if kind is not watchfiles.Change.deleted}
        if number == 0:
            arrived |= {path for path in folder.rglob("*") if _changed_ns(path) > since_ns}
        yield time.time_ns() - _NOTICE_DELAY_NS, arrived


def _changed_ns(path: Path) -> int:
    """Return the change time (a move updates it too, and no program can set it), or 0 if the file is gone."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def _read_when_complete(path: Path, stop: threading.Event) -> Capture | None:
    """Wait until a file stops growing, then read it. Return None if it is empty or unreadable, or `stop` is set."""
    before = None
    try:
        while not stop.is_set():
            status = path.stat()
            now = (status.st_size, status.st_mtime_ns)
            if now == before:
                return read(path) if status.st_size else None
            before = now
            stop.wait(_SETTLED_MS / 1000)
    except OSError as error:
        _log.error("image skipped", path=str(path), reason=str(error))
    return None


def _part_id(path: Path) -> str:
    """Return the file's name without its suffix, with characters that an id must not contain replaced by `-`."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._:-") else "-" for letter in path.stem
    )
    return f"part-{cleaned}"[:128] if not cleaned[:1].isalnum() else cleaned[:128]
