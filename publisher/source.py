"""Where images come from: files, folders, a watched folder."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import watchfiles

from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_SETTLED_MS = 300  # a file that has not changed for so long is complete
_LOOK_MS = 500
_NOTICED_NS = 1_000_000_000  # what changed so long ago has been noticed, if the disk and we are not too busy


@dataclass(frozen=True)
class Capture:
    """One captured image, exactly as it came, and when it was captured (epoch milliseconds)."""

    part_id: str
    content_type: str
    captured_at: int
    image: bytes = field(repr=False)


def read(path: Path) -> Capture:
    """A file as a capture: its name is the part's id, its modification time the time of capture.

    A modification time before 2000 or after 2099 is some camera's broken clock: when the file came here counts then.
    """
    status = path.stat()
    captured_at = int(status.st_mtime * 1000)
    if not messages.EARLIEST_MS <= captured_at <= messages.LATEST_MS:
        _log.warning("the time of an image cannot be, taken from when it came", path=str(path), time_ms=captured_at)
        captured_at = status.st_ctime_ns // 1_000_000
    return Capture(_part_id(path), image_files.content_type(path), captured_at, path.read_bytes())


def at_rate(paths: list[Path], per_second: float | None, stop: threading.Event) -> Iterator[Capture]:
    """Files in order, evenly spaced; as fast as they are taken where `per_second` is None.

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
            raise SetupError(f"{path}: cannot be read ({error.strerror}); mend it, or leave it out") from error
        yield capture


def watched(folder: Path, bookmark: Path, stop: threading.Event) -> Iterator[Capture]:
    """Every image that appears in `folder`, once it is completely written, those of a publisher's absence included.

    Args:
        folder: is watched with its subfolders.
        bookmark: a file whose time says up to where everything was taken; the first start makes it. What was being
            taken when a process ended comes again, as the same job.
        stop: asks for the end.

    Raises:
        SetupError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: --watch needs a folder that exists")
    if not bookmark.exists():
        bookmark.parent.mkdir(parents=True, exist_ok=True)
        bookmark.touch()
    since_ns = bookmark.stat().st_mtime_ns
    for seen_ns, arrived in _arrivals(folder, since_ns, stop):
        for path in sorted(arrived, key=lambda each: (_changed_ns(each), each)):
            capture = _completed(path, stop) if image_files.is_image(path) else None
            if capture is not None:
                yield capture
        if not stop.is_set():  # or some may not have been taken
            since_ns = max(since_ns, seen_ns)
            os.utime(bookmark, ns=(since_ns, since_ns))


def bookmark_of(kept: Path, line: str, category: str, folder: Path) -> Path:
    """Which file among those that a publisher keeps says up to where it has taken a folder."""
    which = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    return kept / f"{line}.{category}.{which}.bookmark"


def _arrivals(folder: Path, since_ns: int, stop: threading.Event) -> Iterator[tuple[int, set[Path]]]:
    """Files that have come or changed since then, as they do, and up to when none is missing: also while none comes.

    The folder is listed once it is watched, so that there is no gap.
    """
    batches = watchfiles.watch(
        folder,
        stop_event=stop,
        debounce=_SETTLED_MS,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for number, batch in enumerate(batches):
        arrived = {Path(name) for kind, name in batch if kind is not watchfiles.Change.deleted}
        if number == 0:
            arrived |= {path for path in folder.rglob("*") if _changed_ns(path) > since_ns}
        yield time.time_ns() - _NOTICED_NS, arrived


def _changed_ns(path: Path) -> int:
    """When it was written or moved here, by a clock that nobody sets; 0 where it is gone."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def _completed(path: Path, stop: threading.Event) -> Capture | None:
    """A file that has stopped growing; None when it cannot be read, is empty (until it is written) or we shall stop."""
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
        _log.error("image is passed over", path=str(path), why=str(error))
    return None


def _part_id(path: Path) -> str:
    """The file's name without its ending, in the letters that an id may have."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._:-") else "-" for letter in path.stem
    )
    return f"part-{cleaned}"[:128] if not cleaned[:1].isalnum() else cleaned[:128]
