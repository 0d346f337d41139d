"""A lock that one process holds, on a file. The kernel releases it when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from patchline.protocol.errors import SetupError


def claim(path: Path, in_use: str) -> int:
    """Return the descriptor of a locked file. Closing it releases the lock.

    Args:
        path: the file; created if missing. It has the id of the process that holds the lock.
        in_use: the text of the error if another process holds the lock.

    Raises:
        SetupError: another process holds the lock.
        OSError: the file cannot be used, or its file system has no locks.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process = _read(lock) or "unknown"
        os.close(lock)
        raise SetupError(f"{in_use} (process {process})") from error
    except OSError:
        os.close(lock)
        raise
    with suppress(OSError):  # a full disk takes no id, and the lock holds all the same
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    return lock


def holder_runs(path: Path) -> bool:
    """Return False if the process that has claimed a file has ended, and others hold its lock since. Raises OSError."""
    lock = os.open(path, os.O_RDONLY)
    try:
        process = _read(lock)
    finally:
        os.close(lock)
    if not process.isdecimal():
        return True
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # nothing: its parent has not asked how it ended
    except OSError:
        return False


def _read(lock: int) -> str:
    """Return the process id in a file; empty: it has none."""
    return os.read(lock, 20).decode(errors="replace").strip()
