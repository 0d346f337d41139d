"""A camera on a thread of its own, opened anew with growing pauses. Nobody waits for it.

A call to a dead camera may block for seconds, or for good. Parts pass meanwhile, and are answered for by others.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from patchline.camera.base import (
    Camera,
    CameraError,
    CameraLostError,
    Frame,
    LateFrameError,
    LateTriggerError,
    NoFrameError,
)

_log = structlog.get_logger(__name__)
_FIRST_PAUSE_S = 0.25
_SILENT_S = 2.0
_MAX_MISSES = 3  # a camera that has lost and found its power may take triggers and give no frames
OnResult = Callable[[str, Frame | CameraError], None]


@dataclass(frozen=True)
class Shot:
    """A picture to take: of which part, until when the camera must have its trigger, and until when the frame counts.

    Times are monotonic, in seconds.
    """

    job_id: str
    trigger_by: float
    frame_by: float


class CameraThread:
    """Opens a camera, and takes one picture at a time.

    Args:
        make: makes the camera.
        reopen_max_s: the longest pause between two attempts to open it.
        on_result: called by the thread with the job id of a shot, and its frame or error.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        make: Callable[[], Camera],
        reopen_max_s: float,
        on_result: OnResult,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._reopen_max_s = reopen_max_s
        self._on_result = on_result
        self._clock = clock
        self._lock = threading.Lock()
        self._not_ready: str | None = "the camera is not open yet"  # None: it waits for a trigger
        self._shots: queue.SimpleQueue[Shot | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._call_since: float | None = None
        self._open = False
        self._patience_s = 0.0  # for which the current call may wait for a frame
        self.opened = 0  # times
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """The camera waits for a trigger."""
        return self._not_ready is None

    @property
    def is_open(self) -> bool:
        """The camera is open, and its current call has not taken suspiciously long."""
        return self._open and self.in_call_s < _SILENT_S + self._patience_s

    @property
    def in_call_s(self) -> float:
        """How long the current call to the camera has taken; 0 if there is none."""
        since = self._call_since
        return 0.0 if since is None else self._clock() - since

    def press(self, job_id: str, timeout_s: float, trigger_by: float = math.inf) -> str | None:
        """Take a picture. Return None; or why that is not possible now, and then nothing happens.

        Args:
            job_id: of the part.
            timeout_s: for the frame. One that comes later shows perhaps what is behind the part.
            trigger_by: when the part may have moved on, by the monotonic clock. Then its frame does not count.
        """
        with self._lock:
            if self._not_ready is not None:
                return self._not_ready
            self._not_ready = "the camera was still busy with the trigger before"
        self._shots.put(Shot(job_id, trigger_by, self._clock() + timeout_s))
        return None

    def end(self) -> None:
        """End the thread as soon as the current call returns. What it still gives is thrown away."""
        self._ended.set()
        self._shots.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait until the camera is closed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._ended.is_set():
            opened, camera = self.opened, self._make()
            try:
                self._live(camera)
            except CameraError as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the camera is opened anew
                _log.exception("camera failed")
                self._lose(f"{type(error).__name__}: {error}")
            finally:
                self._close(camera)
            pause_s = _FIRST_PAUSE_S if self.opened > opened else min(2 * pause_s, self._reopen_max_s)
            self._ended.wait(pause_s)

    def _live(self, camera: Camera) -> None:
        """Open the camera and take pictures until it is lost or the thread is to end."""
        with self._call():
            camera.open()
            camera.arm()
        self.opened += 1
        self._open = True
        _log.info("camera open", times=self.opened)
        self._set_ready()
        misses = 0
        while (shot := self._shots.get()) is not None and not self._ended.is_set():
            result = self._shoot(camera, shot)
            misses = misses + 1 if isinstance(result, NoFrameError) else 0
            if misses == _MAX_MISSES:
                raise CameraLostError(f"{misses} triggers in a row gave no frame")
            with self._call():
                camera.arm()
            self._set_ready()

    def _shoot(self, camera: Camera, shot: Shot) -> Frame | CameraError:
        """Take a picture, and report it."""
        result: Frame | CameraError
        job_id = shot.job_id
        try:
            with self._call(max(0.0, shot.frame_by - self._clock())):
                result = self._expose(camera, shot)
        except CameraLostError as error:
            self._lose(str(error))
            self._report(job_id, error)
            raise
        except CameraError as error:
            result = error
        except Exception as error:
            self._report(job_id, CameraLostError(f"{type(error).__name__}: {error}"))
            raise
        self._report(job_id, result)
        return result

    def _expose(self, camera: Camera, shot: Shot) -> Frame:
        """Return the frame of a trigger. The process of the camera, or this one, may have stood meanwhile."""
        camera.trigger()
        late_s = self._clock() - shot.trigger_by  # the camera has its trigger now at the latest
        frame = camera.grab(max(0.0, shot.frame_by - self._clock()))
        if late_s > 0:
            reason = f"the camera had its trigger {late_s * 1000:.0f} ms too late"
            raise LateTriggerError(f"{reason} (camera.trigger_late_ms)")
        over_s = self._clock() - shot.frame_by
        if over_s > 0:
            raise LateFrameError(f"its frame came {over_s * 1000:.0f} ms too late (camera.frame_timeout_ms)")
        return frame

    def _report(self, job_id: str, result: Frame | CameraError) -> None:
        if not self._ended.is_set():
            self._on_result(job_id, result)

    def _set_ready(self) -> None:
        with self._lock:
            self._not_ready = None

    def _lose(self, reason: str) -> None:
        self._open = False
        with self._lock:
            known, self._not_ready = self._not_ready, f"the camera is lost: {reason}"
        if known != self._not_ready:  # log a camera that stays away once
            _log.error("camera lost, opening it anew", reason=reason)

    def _close(self, camera: Camera) -> None:
        try:
            with self._call():
                camera.close()
        except Exception:  # noqa: BLE001 - it is lost already
            _log.exception("camera cannot be closed")

    @contextmanager
    def _call(self, patience_s: float = 0.0) -> Iterator[None]:
        self._call_since, self._patience_s = self._clock(), patience_s
        try:
            yield
        finally:
            self._call_since = None
