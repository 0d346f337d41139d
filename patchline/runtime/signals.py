"""How a process is asked to end: the first signal drains, the second leaves at once."""

from __future__ import annotations

import os
import queue
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
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=_pass_on, args=(asked, stop), name="signals", daemon=True).start()
    signals = 0

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(SECOND_SIGNAL_EXIT_CODE)
        asked.put(True)

    former = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        asked.put(False)
        for number, handler in former.items():
            signal.signal(number, handler)


def _pass_on(asked: queue.SimpleQueue[bool], stop: threading.Event) -> None:
    """A handler interrupts the main thread, perhaps in `stop.wait` with its lock held: `stop.set` would never end."""
    if asked.get():
        stop.set()
