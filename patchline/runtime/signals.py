"""Shutdown by signals: the first one stops the process gracefully, the second one immediately."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from patchline.runtime import logs

SECOND_SIGNAL_EXIT_CODE = 70
_LAST_LINES_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set. Main thread only; restores the previous handlers at the end."""
    stop = threading.Event()
    requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=_set_on_request, args=(requests, stop), name="signals", daemon=True).start()
    received = 0

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > 1:
            logs.flush(_LAST_LINES_S)
            os._exit(SECOND_SIGNAL_EXIT_CODE)
        requests.put(True)

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        requests.put(False)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _set_on_request(requests: queue.SimpleQueue[bool], stop: threading.Event) -> None:
    """Set the event outside of the handler, which may interrupt `stop.wait` while the lock of the event is held."""
    if requests.get():
        stop.set()
