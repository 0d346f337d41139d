"""Where images come from: files, folders, a watched folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import watchfiles

from inspection import image_files
from inspection.errors import SetupError

_log = structlog.get_logger(__name__)
_SETTLED_MS = 300  # a file that has not changed for so long is complete


@dataclass(frozen=True)
class Capture:
    """One captured image, exactly as it came, and when it was captured (epoch milliseconds)."""

    part_id: str
    content_type: str
    captured_at: int
    image: bytes = field(repr=False)


def read(path: Path) -> Capture:
    """A file as a capture: its name is the part's id, its modification time the time of capture."""
    return Capture(_part_id(path), image_files.content_type(path), int(path.stat().st_mtime * 1000), path.read_bytes())


def at_rate(paths: list[Path], per_second: float | None, stop: threading.Event) -> Iterator[Capture]:
    """Files in order, evenly spaced; as fast as they are taken where `per_second` is None."""
    started = time.monotonic()
    for number, path in enumerate(paths):
        due = started if per_second is None else started + number / per_second
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        yield read(path)


def watched(folder: Path, stop: threading.Event) -> Iterator[Capture]:
    """Every image that appears in `folder` from now on, once it is completely written.

    Raises:
        SetupError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: --watch needs a folder that exists")
    changes = watchfiles.watch(folder, stop_event=stop, debounce=_SETTLED_MS, raise_interrupt=False)
    for batch in changes:
        arrived = sorted({Path(name) for kind, name in batch if kind is not watchfiles.Change.deleted})
        for path in arrived:
            if image_files.is_image(path) and _is_complete(path, stop):
                yield read(path)


def _is_complete(path: Path, stop: threading.Event) -> bool:
    """Wait until the file stops growing; False when it disappears or we shall stop."""
    before = None
    while not stop.is_set():
        try:
            status = path.stat()
        except FileNotFoundError:
            _log.warning("image disappeared before it was read", path=str(path))
            return False
        now = (status.st_size, status.st_mtime_ns)
        if now == before and status.st_size > 0:
            return True
        before = now
        stop.wait(_SETTLED_MS / 1000)
    return False


def _part_id(path: Path) -> str:
    """The file's name without its ending, in the letters that an id may have."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._:-") else "-" for letter in path.stem
    )
    return f"part-{cleaned}"[:128] if not cleaned[:1].isalnum() else cleaned[:128]
