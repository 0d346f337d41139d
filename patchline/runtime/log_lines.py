"""Lines of a log on their way to standard error: no caller waits for them, and none fails because of them.

The reader of a log may be gone, its disk full or frozen, its terminal stopped. A thread of its own writes. What it
cannot write is lost and counted, and the number is a line of the log as soon as there is one again.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable
from typing import TextIO

_MOST = 10_000  # lines that wait: some megabytes
_RETRY_S = 1.0  # of a reader that does not block its writers


class LogLines:
    """A bounded queue of lines, and the thread that writes them.

    Args:
        stream: where to.
        lost: makes the line that says how many were lost.
        most: number of lines that may wait.
    """

    def __init__(self, stream: TextIO, lost: Callable[[int], str], most: int = _MOST) -> None:
        self._stream, self._lost_text, self._most = stream, lost, most
        # A signal handler may put to it, too.
        self._waiting: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._lost = 0
        self._torn = False  # the last line has no end
        self._unflushed: threading.Event | None = None
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Write a line soon. Neither waits nor raises."""
        if self._waiting.qsize() < self._most:
            self._waiting.put(line)
        else:
            self._lost += 1

    def flush(self, timeout_s: float) -> None:
        """Wait until what was put has been written. After a wait in vain, the next one is over at once."""
        if self._unflushed is not None and not self._unflushed.is_set():
            return
        self._unflushed = threading.Event()
        self._waiting.put(self._unflushed)
        self._unflushed.wait(timeout_s)

    # Everything below runs on the thread.

    def _run(self) -> None:
        while True:
            line = self._waiting.get()
            if isinstance(line, threading.Event):
                line.set()
            elif not self._write(line):
                self._lost += 1
            elif self._lost and self._write(self._lost_text(self._lost)):
                self._lost = 0

    def _write(self, line: str) -> bool:
        try:
            try:
                descriptor = self._stream.fileno()
            except OSError:  # not a file of the system
                print(line, file=self._stream, flush=True)
                return True
            self._write_all(descriptor, ("\n" * self._torn + line + "\n").encode(errors="replace"))
        except (OSError, ValueError):  # ValueError: it is closed
            return False
        return True

    def _write_all(self, descriptor: int, rest: bytes) -> None:
        """Write past the buffer and the lock of the stream, for which the end of the process would wait."""
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                select.select([], [descriptor], [], _RETRY_S)
                continue
            self._torn = bool(rest)


class LineLogger:
    """What structlog logs to."""

    def __init__(self, lines: LogLines) -> None:
        self._lines = lines

    def msg(self, message: str) -> None:
        """Write a line soon."""
        self._lines.put(message)

    log = debug = info = warning = error = critical = exception = msg
