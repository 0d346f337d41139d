"""Runs a server, and ends it with everything it started once standard input closes.

Standard input is a pipe from the process that wants the server. However that process ends, even by SIGKILL, the pipe
closes. This file runs by its path, with the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans of the server (epmd is one) become children of this process
_GRACE_S = 30.0  # a worker drains


def main() -> int:
    """Start the command in the arguments and wait for it, or for the end of standard input."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_restore_signals)
    threading.Thread(target=_end_when_unwanted, args=(server,), daemon=True).start()
    code = server.wait()
    _end_children()
    return code


def _restore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end_when_unwanted(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _end_children() -> None:
    """Whatever the server left behind is now a child of ours."""
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
