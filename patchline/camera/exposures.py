"""Triggers become announced parts, and the frames of a camera their images. One trigger is outstanding at a time.

A part is announced at its trigger. From then on it gets a job, whatever the camera does: with its image, or with the
cause why there is none. Uses no camera, no thread and no connection; times are monotonic, in seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from patchline.camera.base import CameraError, Frame
from patchline.camera.metrics import Metrics
from patchline.camera.triggers import Objection, Trigger
from patchline.protocol import messages
from patchline.protocol.messages import Job
from patchline.publisher.source import Capture

_log = structlog.get_logger(__name__)
_MARGIN_S = 0.1  # the camera has its own time limit; this one is for a camera that does not return
ENDED = "the process of the camera ended before the image was sent"


class Shutter(Protocol):
    """What takes the pictures: see `CameraThread`."""

    def press(self, job_id: str, timeout_s: float, trigger_by: float) -> str | None:
        """Take a picture. Return None; or why that is not possible now."""
        ...


class Parts(Protocol):
    """What remembers the parts that are not answered for: see `OpenParts`."""

    @property
    def left(self) -> tuple[Job, ...]:
        """The parts that an earlier process has left open."""
        ...

    def add(self, job: Job) -> None:
        """Remember a part, before it is announced."""
        ...


@dataclass(frozen=True)
class Series:
    """The triggers of one process.

    Attributes:
        line: the line of the camera.
        category: the category of the parts.
        started_at: when the process began to count its triggers, in epoch milliseconds.
        deadline_ms: time for a verdict, from the trigger.
        frame_timeout_s: time for the frame, from the trigger.
        late_s: a part whose trigger was seen later than this has no image.
    """

    line: str
    category: str
    started_at: int
    deadline_ms: int
    frame_timeout_s: float
    late_s: float


@dataclass(frozen=True)
class _Outstanding:
    capture: Capture
    pressed_at: float
    due_at: float


class Exposures:
    """The parts of one series.

    Args:
        series: see the class.
        announce: announces a part, and returns its capture with the announcement.
        send: sends the image of a part: its capture, and its frame or None if there is none.
        parts: remembers the parts until their jobs are safe.
        shutter: takes the pictures.
        metrics: of the camera.
        now_ms: the wall clock.
        clock: the monotonic clock.
    """

    def __init__(
        self,
        series: Series,
        announce: Callable[[Capture, int | None], Capture],
        send: Callable[[Capture, Frame | None], None],
        parts: Parts,
        shutter: Shutter,
        metrics: Metrics,
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._series = series
        self._announce, self._send = announce, send
        self._parts, self._shutter = parts, shutter
        self._metrics, self._now_ms, self._clock = metrics, now_ms, clock
        self._triggers = 0
        self._outstanding: _Outstanding | None = None

    @property
    def outstanding(self) -> bool:
        """A part waits for its frame."""
        return self._outstanding is not None

    def answer_left(self) -> None:
        """Say that there is no image of the parts that an earlier process has left open."""
        for job in self._parts.left:
            self._metrics.no_image("ended")
            self._send(replace(_capture_of(job), no_image=ENDED), None)
        if self._parts.left:
            _log.error("parts of the process before have no image", parts=len(self._parts.left))

    def on_trigger(
        self, trigger: Trigger, now: float, since: float | None = None, objection: Objection | None = None
    ) -> None:
        """Announce a part, and take its picture; if that is not possible now, it has no image.

        Args:
            trigger: what is known of the part.
            now: the time.
            since: when it was triggered at the earliest, if its trigger was seen later.
            objection: why it must not be photographed.
        """
        self._triggers += 1
        self._metrics.triggered()
        capture = self._capture(trigger)
        self._parts.add(self._job(capture))
        capture = self._announce(capture, capture.deadline)
        objection = objection or self._too_late(since) or self._press(capture, now, since)
        if objection is not None:
            self._give_up(capture, objection.cause, objection.reason)

    def on_result(self, job_id: str, result: Frame | CameraError, now: float) -> None:
        """Take what the camera gave for a part. What comes too late belongs to no part any more."""
        outstanding = self._outstanding
        if outstanding is None or outstanding.capture.job_id != job_id:
            self._metrics.late()
            _log.warning("the camera answered too late", job_id=job_id)
            return
        self._outstanding = None
        if isinstance(result, Frame):
            self._metrics.got_frame(now - outstanding.pressed_at)
            self._send(outstanding.capture, result)
        else:
            self._give_up(outstanding.capture, result.cause, str(result))

    def on_time(self, now: float) -> None:
        """Give up a part whose camera has not returned."""
        outstanding = self._outstanding
        if outstanding is not None and now >= outstanding.due_at:
            self._outstanding = None
            timeout_ms = self._series.frame_timeout_s * 1000
            self._give_up(outstanding.capture, "not_ready", f"the camera has not answered within {timeout_ms:.0f} ms")

    def _too_late(self, since: float | None) -> Objection | None:
        """Return an objection if a part may have moved on. Asked at last: the announcement may take time, too."""
        late_s = 0.0 if since is None else self._clock() - since
        if late_s <= self._series.late_s:
            return None
        age = "at an unknown time" if math.isinf(late_s) else f"up to {late_s * 1000:.0f} ms ago"
        limit_ms = self._series.late_s * 1000
        return Objection("late_trigger", f"triggered {age}, and camera.trigger_late_ms is {limit_ms:.0f}")

    def _press(self, capture: Capture, now: float, since: float | None) -> Objection | None:
        """Take the picture of a part; return why that is not possible now."""
        if self._outstanding is not None:
            return Objection("busy", "the trigger before still waited for its frame")
        timeout_s = self._series.frame_timeout_s
        trigger_by = math.inf if since is None else since + self._series.late_s
        refusal = self._shutter.press(str(capture.job_id), timeout_s, trigger_by)
        if refusal is not None:
            return Objection("not_ready", refusal)
        self._outstanding = _Outstanding(capture, now, now + timeout_s + _MARGIN_S)
        return None

    def _give_up(self, capture: Capture, cause: str, reason: str) -> None:
        self._metrics.no_image(cause)
        _log.error("part without an image", part_id=capture.part_id, job_id=capture.job_id, reason=reason)
        self._send(replace(capture, no_image=reason[:500]), None)

    def _capture(self, trigger: Trigger) -> Capture:
        series, number, now_ms = self._series, self._triggers, self._now_ms()
        return Capture(
            trigger.part_id or f"{series.started_at}-{number}",
            messages.NO_CONTENT,
            now_ms,
            b"",
            number=trigger.number,
            encoder_count=trigger.encoder_count,
            deadline=now_ms + series.deadline_ms,
            job_id=messages.job_id_at_trigger(series.line, series.category, series.started_at, number),
        )

    def _job(self, capture: Capture) -> Job:
        """Return what is remembered of a part."""
        return Job(
            job_id=str(capture.job_id),
            line=self._series.line,
            category=self._series.category,
            part_id=capture.part_id,
            captured_at=capture.captured_at,
            deadline=capture.deadline,
            number=capture.number,
            encoder_count=capture.encoder_count,
            content_type=messages.NO_CONTENT,
        )


def _capture_of(job: Job) -> Capture:
    return Capture(
        job.part_id,
        messages.NO_CONTENT,
        job.captured_at,
        b"",
        number=job.number,
        encoder_count=job.encoder_count,
        deadline=job.deadline,
        job_id=job.job_id,
    )
