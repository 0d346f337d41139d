"""The file of a gate's journal: lines that are appended whole or not at all, and a second file when it is large.

Whatever fails is counted and logged once, and raises nothing: the gate acts without its journal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
_NOT_WRITTEN = "gate journal cannot be written"
_NOT_RENAMED = "gate journal cannot be renamed, it grows"
_NOT_DELETED = "old gate journal cannot be deleted"
_RETRY_AFTER = 10  # a rotation that failed is tried again after a tenth of the size


class JournalFile:
    """The open file.

    Args:
        path: the file; created if missing.
        max_bytes: the size from which it is large.
        on_failure: called after each line that was not written, and after each rotation that failed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int, on_failure: Callable[[], None] = lambda: None) -> None:
        self.path, self.old = path, path.with_name(path.name + ".old")
        self._new = path.with_name(path.name + ".new")
        self._max_bytes, self._rotate_at, self._on_failure = max_bytes, max_bytes, on_failure
        self._failing: set[str] = set()  # events that were logged, until it works again
        self._torn = False  # a part of a line could not be removed
        self._descriptor = _open(path, os.O_APPEND)
        self._size = os.fstat(self._descriptor).st_size

    @property
    def is_large(self) -> bool:
        """True if the file should be rotated."""
        return self._size >= self._rotate_at

    def append(self, line: bytes) -> None:
        """Append a line. A part of it that was written, as on a full disk, is removed."""
        data = b"\n" + line if self._torn else line
        reason: str | None = "no space for a whole line"
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            written, reason = 0, error.strerror
        if written == len(data):
            self._size += written
            self._torn = False
            self._failing.discard(_NOT_WRITTEN)
            return
        if written:
            self._remove_torn(written)
        self._fail(_NOT_WRITTEN, self.path, reason)

    def hangs(self) -> None:
        """Take note that the disk takes nothing. For any thread."""
        self._fail(_NOT_WRITTEN, self.path, "the disk hangs")

    def rotate(self, first_lines: Iterable[bytes]) -> bool:
        """Rename the file to `NAME.old`, and start a new one. Return False if that failed: the file is used on.

        Args:
            first_lines: what the new file begins with.
        """
        try:
            fresh, size = self._begin(b"".join(first_lines))
        except OSError as error:
            self._rotate_at = self._size + self._max_bytes // _RETRY_AFTER
            self._fail(_NOT_RENAMED, self.path, error.strerror)
            return False
        former, self._descriptor = self._descriptor, fresh
        self._size, self._rotate_at, self._torn = size, self._max_bytes, False
        self._failing.discard(_NOT_RENAMED)
        with contextlib.suppress(OSError):
            os.close(former)
        return True

    def delete_old(self) -> None:
        """Delete the file from before the rotation. One that stays is replaced by the next."""
        try:
            self.old.unlink(missing_ok=True)
        except OSError as error:
            self._fail(_NOT_DELETED, self.old, error.strerror)
        else:
            self._failing.discard(_NOT_DELETED)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _begin(self, content: bytes) -> tuple[int, int]:
        """Return the descriptor of a new file in the place of this one, and its size. If it fails, nothing changes."""
        fresh = _open(self._new, os.O_APPEND | os.O_TRUNC)
        try:
            if os.write(fresh, content) < len(content):
                raise OSError(0, "no space for the new file")
            if self.path.exists():
                self.path.replace(self.old)
            self._new.replace(self.path)
        except OSError:
            os.close(fresh)
            raise
        return fresh, len(content)

    def _remove_torn(self, length: int) -> None:
        """Remove the part of a line that was written. If that fails, the next line begins a new one."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._size += length
            self._torn = True

    def _fail(self, event: str, path: Path, reason: str | None) -> None:
        if event not in self._failing:  # log the first failure only, not one per part
            _log.error(event, path=str(path), reason=reason)
        self._failing.add(event)
        self._on_failure()


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
