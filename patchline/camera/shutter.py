"""The camera of a process, by its current thread: one that is stuck in a call is replaced."""

from __future__ import annotations

import queue
from collections.abc import Callable

import structlog

from patchline import config
from patchline.camera.base import Camera
from patchline.camera.camera_thread import CameraThread
from patchline.camera.order import Event

_log = structlog.get_logger(__name__)
_END_S = 5.0


class Shutter:
    """The current thread of the camera. One that is stuck in a call is replaced, and left behind.

    Args:
        start: starts a thread that opens the camera.
        stuck_s: a call to the camera that takes longer is stuck.
    """

    def __init__(self, start: Callable[[], CameraThread], stuck_s: float) -> None:
        self._start, self._stuck_s = start, stuck_s
        self._thread = start()
        self._opened_before = 0

    @property
    def is_ready(self) -> bool:
        """The camera waits for a trigger."""
        return self._thread.is_ready

    @property
    def is_open(self) -> bool:
        """The camera is open, and answers."""
        return self._thread.is_open

    @property
    def opened(self) -> int:
        """How often the camera was opened."""
        return self._opened_before + self._thread.opened

    def press(self, job_id: str, timeout_s: float, trigger_by: float) -> str | None:
        """See `CameraThread.press`."""
        return self._thread.press(job_id, timeout_s, trigger_by)

    def check(self) -> None:
        """Replace a thread that is stuck."""
        stuck_s = self._thread.in_call_s
        if stuck_s > self._stuck_s:
            _log.error("a call to the camera does not return, opening it anew", seconds=round(stuck_s, 1))
            self._thread.end()
            self._opened_before += self._thread.opened
            self._thread = self._start()

    def close(self) -> None:
        """Close the camera, unless it is stuck."""
        self._thread.end()
        self._thread.join(_END_S)


def shutter_of(rules: config.CameraRules, make: Callable[[], Camera], events: queue.SimpleQueue[Event]) -> Shutter:
    """Return the thread of a camera, whose results become events."""
    return Shutter(
        lambda: CameraThread(make, rules.reopen_max_s, lambda job_id, result: events.put((job_id, result))),
        rules.stuck_limit_s,
    )
