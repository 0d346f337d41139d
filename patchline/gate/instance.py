"""The name of a gate instance: stable over restarts, and used by one process at a time."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from patchline.protocol.errors import SetupError

_MAX_PER_HOST = 9


@dataclass(frozen=True)
class Instance:
    """A claimed name. The lock on its file ends with the process."""

    name: str
    lock: int

    def close(self) -> None:
        """Give the name back."""
        os.close(self.lock)


def default_name() -> str:
    """Return the name of this host as a word of a queue's name."""
    host = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", host).strip("-_") or "gate"


def claim(folder: Path, line: str, name: str | None) -> Instance:
    """Claim a name in the folder of the gates' memories.

    Args:
        folder: the folder.
        line: the line of the gate.
        name: the name; None: the name of this host, with a number from the second gate on.

    Raises:
        SetupError: the name is in use, or the folder cannot be used.
    """
    host = default_name()
    candidates = [name] if name else [host, *(f"{host}-{number}" for number in range(2, _MAX_PER_HOST + 1))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for candidate in candidates:
            lock = os.open(folder / f"{line}.{candidate}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                return Instance(candidate, lock)
    except OSError as error:
        raise SetupError(f"{folder}: cannot be used for a gate's memory ({error.strerror})") from error
    raise SetupError(
        f"a gate {candidates[-1]} of line {line} is already running with {folder}; name another one with --instance"
    )
