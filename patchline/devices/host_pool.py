"""Several hosts on one chip, each with one image in flight: while one computes, another moves its image or features.

What makes one host safe stays: a fault ends that host only, and no result can belong to another image.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from patchline.devices.backbone import Backbone
from patchline.devices.model_manifest import ModelManifest, Precision

MAX_PROCESSES = 32  # that may use a device at the same time in CANN 5.0.4 (docs/ascend.md)


class HostPool:
    """Implements `backbone.Backbone` with several of one kind. Each takes one image at a time.

    Args:
        start: starts one.
        count: how many. If one cannot be started, those before are closed.
    """

    def __init__(self, start: Callable[[], Backbone], count: int) -> None:
        with contextlib.ExitStack() as started:
            self._backbones = []
            for _ in range(count):
                self._backbones.append(started.enter_context(contextlib.closing(start())))
            started.pop_all()
        self._idle: queue.SimpleQueue[Backbone] = queue.SimpleQueue()
        for backbone in self._backbones:
            self._idle.put(backbone)

    @property
    def manifest(self) -> ModelManifest:
        return self._backbones[0].manifest

    @property
    def grid(self) -> tuple[int, int]:
        return self._backbones[0].grid

    @property
    def side(self) -> int:
        return self._backbones[0].side

    @property
    def precision(self) -> Precision:
        return self._backbones[0].precision

    @property
    def model_sha256(self) -> str:
        return self._backbones[0].model_sha256

    @property
    def source_sha256(self) -> str | None:
        return self._backbones[0].source_sha256

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `patchline.devices.backbone.Backbone`."""
        return np.concatenate([self._extract_one(image[None]) for image in images])

    def close(self) -> None:
        """End all hosts."""
        for backbone in self._backbones:
            backbone.close()

    def _extract_one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        backbone = self._idle.get()
        try:
            return backbone.extract(image)
        finally:
            self._idle.put(backbone)
