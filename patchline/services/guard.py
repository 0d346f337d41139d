"""Runs a server and stops it, with all its child processes, when standard input closes.

Standard input is a pipe from the process that started the server. The pipe closes when that process ends, even by
SIGKILL. This file is run as a script and imports only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans of the server, such as epmd, become children of this process
_GRACE_S = 30.0  # time for a worker to drain


def main() -> int:
    """Run the command in the arguments until it ends or standard input closes. Return its exit code."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_restore_signals)
    threading.Thread(target=_stop_when_stdin_closes, args=(server,), daemon=True).start()
    code = server.wait()
    _stop_children()
    return code


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
