"""Metrics of a watched folder."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from patchline.publisher.watched_folder import State
from patchline.runtime.metrics import Counter, Gauge, Registry

_log = structlog.get_logger(__name__)
_STUCK_S = 30.0


class FolderMetrics:
    """Says whether the folder can be read, and counts its images by state and those that are late or refused."""

    _looked_at: float | None = None
    _was_looking = True

    def __init__(self, registry: Registry, line: str) -> None:
        names = ("line",)
        self.late = Counter(
            "patchline_late_images", "Images found after their deadline.", names, registry=registry
        ).labels(line)
        self.vanished = Counter(
            "patchline_vanished_images", "Images that were deleted before they were sent.", names, registry=registry
        ).labels(line)
        self.refused = Counter(
            "patchline_refused_images", "Images whose path fits no category.", names, registry=registry
        ).labels(line)
        self.skipped = Gauge(
            "patchline_skipped_files", "Files whose suffix is none of an image.", names, registry=registry
        ).labels(line)
        self.readable = Gauge(
            "patchline_watched_folder_readable", "1 if the watched folder can be read.", names, registry=registry
        ).labels(line)
        self.unreadable = Gauge(
            "patchline_unreadable_paths", "Images and subfolders that cannot be read.", names, registry=registry
        ).labels(line)
        self.unremembered = Gauge(
            "patchline_unremembered_seconds",
            "How long taken images have waited to be remembered on disk.",
            names,
            registry=registry,
        ).labels(line)
        Gauge(
            "patchline_watched_folder_look_seconds",
            "Time since the publisher last looked for images.",
            names,
            registry=registry,
        ).labels(line).set_function(self.since_look_s)
        images = Gauge("patchline_watched_images", "Images by state.", (*names, "state"), registry=registry)
        self._images = {state: images.labels(line, state) for state in State}

    def set_counts(self, counts: Mapping[State, int]) -> None:
        """Set the number of images in each state."""
        for state, count in counts.items():
            self._images[state].set(count)

    def record_look(self) -> None:
        """Record that the thread that looks for images goes on."""
        self._looked_at = time.monotonic()

    def since_look_s(self) -> float:
        """Return the time since images were last looked for, in seconds."""
        return 0.0 if self._looked_at is None else time.monotonic() - self._looked_at

    def is_looking(self) -> bool:
        """Return False if no image was looked for in 30 s. Log each change. Called by other threads."""
        looking = self.since_look_s() < _STUCK_S
        if looking != self._was_looking:
            self._was_looking = looking
            if looking:
                _log.info("images of the watched folder are looked for again")
            else:
                _log.error(
                    "no image of the watched folder was looked for in 30 s: a disk does not answer, or neither "
                    "RabbitMQ nor the spool takes an image"
                )
        return looking
