"""Metrics of a camera."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

from patchline.runtime.metrics import Counter, Gauge, Histogram, Registry

CAUSES = (
    *("no_frame", "broken", "lost", "not_ready", "busy", "late_trigger", "other_product"),
    *("unfit", "no_code", "too_large", "no_room", "ended", "other"),
)
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counts triggers, frames, and parts without an image."""

    def __init__(self, line: str, category: str, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        names, self._values = ("line", "category"), (line, category)
        self._names, self._registry, self._clock = names, registry, clock
        self._triggers = Counter("patchline_camera_triggers", "Triggers of the camera.", names, registry=registry)
        self._frames = Counter("patchline_camera_frames", "Frames that came in time.", names, registry=registry)
        self._late = Counter("patchline_camera_late", "Frames and errors that came too late.", names, registry=registry)
        self._missing = Counter(
            "patchline_camera_no_image", "Announced parts without an image.", (*names, "cause"), registry=registry
        )
        self._seconds = Histogram(
            "patchline_camera_frame_seconds", "From trigger to frame.", names, buckets=_SECONDS, registry=registry
        )
        self._last = Gauge(
            "patchline_camera_last_frame_timestamp_seconds", "Time of the last frame.", names, registry=registry
        )
        for counter in (self._triggers, self._frames, self._late):
            counter.labels(*self._values)
        for cause in CAUSES:  # a series that starts at 1 would hide its first part from increase()
            self._missing.labels(*self._values, cause)

    def show(
        self,
        is_ready: Callable[[], bool],
        opened: Callable[[], int],
        open_parts: Callable[[], int],
        frame_timeout_s: float,
    ) -> None:
        """Show the state of the camera, the number of announced parts whose jobs are not safe, and a limit."""
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("patchline_camera_ready", "1 if the camera is open, 0 if it is lost.", lambda: float(is_ready())),
            ("patchline_camera_opened", "How often the camera was opened.", lambda: float(opened())),
            ("patchline_camera_open_parts", "Announced parts without a job.", lambda: float(open_parts())),
            ("patchline_camera_frame_timeout_seconds", "Limit of the time to frame.", lambda: frame_timeout_s),
        )
        for name, text, value in gauges:
            Gauge(name, text, self._names, registry=self._registry).labels(*self._values).set_function(value)

    def triggered(self) -> None:
        """Count a trigger."""
        self._triggers.labels(*self._values).inc()

    def got_frame(self, seconds: float) -> None:
        """Count a frame, and the time since its trigger."""
        self._frames.labels(*self._values).inc()
        self._seconds.labels(*self._values).observe(seconds)
        self._last.labels(*self._values).set(self._clock())

    def late(self) -> None:
        """Count what came too late for its part."""
        self._late.labels(*self._values).inc()

    def no_image(self, cause: str) -> None:
        """Count a part without an image."""
        self._missing.labels(*self._values, cause if cause in CAUSES else "other").inc()


class ExposureMetrics:
    """Shows how bright the images are, and how bright those of the memory bank are."""

    def __init__(self, line: str, category: str, at_fit: float | None, registry: Registry) -> None:
        names = ("line", "category")
        self._brightness = Gauge(
            "patchline_camera_brightness", "Mean brightness of an image, 0 to 1.", names, registry=registry
        )
        self._white = Gauge(
            "patchline_camera_white_share", "Share of pixels with the greatest value.", names, registry=registry
        )
        self._labels = (line, category)
        if at_fit is not None:
            Gauge(
                "patchline_camera_fit_brightness", "That of the bank's golden images.", names, registry=registry
            ).labels(*self._labels).set(at_fit)

    def show(self, brightness: float, white: float) -> None:
        """Show what the last image that was looked at says. Before the first one there is no value."""
        self._brightness.labels(*self._labels).set(brightness)
        self._white.labels(*self._labels).set(white)


class CodeMetrics:
    """Counts what became of the codes in the images of a line."""

    def __init__(self, line: str, categories: Iterable[str], outcomes: tuple[str, ...], registry: Registry) -> None:
        names = ("line", "category", "outcome")
        counter = Counter("patchline_camera_codes", "Images by what their codes say.", names, registry=registry)
        self._counters = {key: counter.labels(line, *key) for key in itertools.product(categories, outcomes)}

    def count(self, category: str, outcome: str) -> None:
        """Count an image."""
        self._counters[category, outcome].inc()


class PlcMetrics:
    """Says whether the PLC that triggers a camera is read, and which triggers were not."""

    def __init__(self, line: str, category: str, registry: Registry) -> None:
        names = ("line", "category")
        self._silent = Gauge(
            "patchline_camera_plc_silent", "1 if the PLC gives no triggers.", names, registry=registry
        ).labels(line, category)
        self._lost = Counter(
            "patchline_camera_plc_lost", "Triggers overwritten before they were read.", names, registry=registry
        ).labels(line, category)
        self._restarts = Counter(
            "patchline_camera_plc_restarts", "How often the PLC counted its triggers anew.", names, registry=registry
        ).labels(line, category)

    def silent(self, is_silent: bool) -> None:
        """Show whether the PLC gives triggers."""
        self._silent.set(is_silent)

    def unread(self, lost: int, restarted: bool) -> None:
        """Count triggers that were overwritten, and a PLC that counts anew."""
        self._lost.inc(lost)
        self._restarts.inc(restarted)
