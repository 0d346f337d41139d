"""Metrics of a watched folder."""

from __future__ import annotations

from collections.abc import Mapping

from patchline.publisher.watched_folder import State
from patchline.runtime.metrics import Counter, Gauge, Registry


class FolderMetrics:
    """Says whether the folder can be read, and counts its images by state and those that are late or refused."""

    def __init__(self, registry: Registry, line: str) -> None:
        names = ("line",)
        self.late = Counter(
            "patchline_late_images", "Images found after their deadline.", names, registry=registry
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
        images = Gauge("patchline_watched_images", "Images by state.", (*names, "state"), registry=registry)
        self._images = {state: images.labels(line, state) for state in State}

    def set_counts(self, counts: Mapping[State, int]) -> None:
        """Set the number of images in each state."""
        for state, count in counts.items():
            self._images[state].set(count)
