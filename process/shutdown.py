"""How a process is asked to end: the first signal drains, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECOND_SIGNAL_EXIT_CODE = 70
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets. Former handlers come back when the block ends. Main thread only."""
    stop = threading.Event()

    def handle(_: int, __: FrameType | None) -> None:
        if stop.is_set():
            os._exit(SECOND_SIGNAL_EXIT_CODE)
        stop.set()

    former = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
