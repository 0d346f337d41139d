"""A full disk: which errors mean it, and whether there is room before something is begun."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchline.protocol.errors import DiskFull, SetupError

_ERRORS = (errno.ENOSPC, errno.EDQUOT)
EXIT_CODE = 74  # of sysexits.h: a process that has no room to say so has ended for it
NEW = ".new-"  # begins the name of what is being written
_ADVICE = "the disk is full; make room on it"


def is_full(error: BaseException) -> bool:
    """Return True if an error says that a file system has no room, or its user no more of it."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _ERRORS


def full(path: Path | str) -> DiskFull:
    """Return the error of a path whose disk is full."""
    return DiskFull(f"{path}: {_ADVICE}")


def unwritable(path: Path, error: OSError) -> SetupError:
    """Return the error of a file or folder that cannot be written."""
    if is_full(error):
        return full(path)
    return SetupError(f"{path}: cannot be written ({error.strerror}); let this user write there")


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file in one step: whoever reads it, also after a power failure, finds the old content or the new.

    Raises:
        OSError: it cannot be written. Nothing new is left.
    """
    descriptor, new = tempfile.mkstemp(prefix=NEW, dir=path.parent)
    temporary = Path(new)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Enclose what writes below a folder: an error of a full disk becomes DiskFull, which names the file or folder."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise full(error.filename or folder) from error


def require_room(folder: Path, size: int) -> None:
    """Raise DiskFull if fewer than `size` bytes are free for this user, so that nothing is begun and left half done."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return  # what is done next says what is wrong
    if found.f_bavail * found.f_frsize < size:
        raise full(folder)
