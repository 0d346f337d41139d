"""Runs a server and stops it, with all its child processes, when standard input closes.

Standard input is a pipe from the process that started the server. The pipe closes when that process ends, even by
SIGKILL. That process can then no longer delete the temporary folder of its servers: the last of their guards does.
This file is run as a script, `guard.py STARTER MARK COMMAND...`, and imports only the standard library. STARTER is the
id of that process, and MARK a file in the temporary folder that all guards lock, or empty.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans of the server, such as epmd, become children of this process
_GRACE_S = 30.0  # time for a worker to drain


def main() -> int:
    """Run the command in the arguments until it ends or standard input closes. Return its exit code."""
    starter, mark, *command = sys.argv[1:]
    lock = _lock(mark) if mark else None
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_restore_signals)
    threading.Thread(target=_stop_when_stdin_closes, args=(server,), daemon=True).start()
    code = server.wait()
    _stop_children()
    if lock is not None and os.getppid() != int(starter):
        _delete_unless_used(Path(mark).parent, lock)
    return code


def _lock(mark: str) -> int:
    lock = os.open(mark, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _delete_unless_used(folder: Path, lock: int) -> None:
    """Delete the folder, unless another guard has its mark locked. It gives up this guard's own lock first."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    shutil.rmtree(folder, ignore_errors=True)


def _restore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _stop_when_stdin_closes(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _stop_children() -> None:
    """Stop the processes that the server left behind; they are children of this process now."""
    deadline = time.monotonic() + _GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        while children := _children():
            for child in children:
                os.kill(child, number)
            _reap()
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:
        return [int(word) for word in listing.read().split()]


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main())
