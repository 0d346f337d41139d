"""The lock on a trial's folder. The guards of its children hold it, too: after a SIGKILL, until the last has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from patchline.protocol.errors import SetupError
from patchline.runtime import locks

_ENDING_S = 100.0  # a guard gives its command 30 s, and what that has left behind twice as long
_STEP_S = 0.2


def claim(
    path: Path, in_use: str, stop: threading.Event, say: Callable[[str], None], patience_s: float = _ENDING_S
) -> int | None:
    """Return the descriptor of the locked file; None: `stop` was set.

    A trial that was killed has no process of its own any more, but RabbitMQ takes seconds to end. Two of its nodes
    must not use one folder, so its end is waited for.

    Args:
        path: the file.
        in_use: the text of the error if another trial runs.
        stop: ends the wait.
        say: is told once that there is a wait.
        patience_s: the longest wait.

    Raises:
        SetupError: another trial runs, or what is left of one does not end.
        OSError: the file cannot be used.
    """
    deadline, told = time.monotonic() + patience_s, False
    while not stop.is_set():
        try:
            return locks.claim(path, in_use)
        except SetupError as error:
            if locks.holder_runs(path):
                raise
            if time.monotonic() > deadline:
                text = f"{path}: processes of a patchline up that was killed do not end"
                raise SetupError(f"{text}; find them with: fuser -v {path}") from error
        if not told:
            told = True
            say("an earlier one was killed; what it has started ends first")
        stop.wait(_STEP_S)
    return None
