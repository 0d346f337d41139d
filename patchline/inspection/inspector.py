"""The whole inspection of one image, in its order. An inspector belongs to one category."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.devices import backbone
from patchline.inspection import decode, memory_bank, preprocess, score, verdict
from patchline.protocol.messages import Decision, Region, Scores, Thresholds

StageTimer = Callable[[str], AbstractContextManager[None]]


def untimed(_stage: str) -> AbstractContextManager[None]:
    """A `StageTimer` that measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Inspection:
    """What an inspection found out about one image."""

    decision: Decision
    score: float
    scores: Scores
    regions: tuple[Region, ...]
    heat_map: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None = None  # as captured, where there is a heat map to lay over it


@dataclass(frozen=True)
class Inspector:
    """Everything one category needs, loaded once and shared by all lanes."""

    category: config.Category
    limits: config.Images
    backbone: backbone.Backbone
    bank: memory_bank.MemoryBank

    @property
    def thresholds(self) -> Thresholds:
        """On the raw score, as calibrated with the bank."""
        return self.bank.manifest.thresholds

    def inspect(self, image: bytes, content_type: str, stage: StageTimer, with_heat_map: bool = False) -> Inspection:
        """Judge one image.

        Args:
            image: the encoded file, as captured.
            content_type: of `image`.
            stage: is entered around each stage with its name.
            with_heat_map: make the heat map of a good part too.

        Raises:
            Unusable: the image cannot be judged.
            Retry: the device failed.
        """
        with stage("decode"):
            rgb = decode.decode(image, content_type, self.limits)
        with stage("preprocess"):
            prepared = preprocess.prepare(rgb, self.category.resize, self.category.imagesize)
        with stage("extract"):
            patches = self.backbone.extract(prepared[None])[0]
        with stage("search"):
            distances = self.bank.distances(patches)
            largest = distances.largest(score.TOP_PATCHES)
        with stage("score"):
            scores = score.image_scores(largest)
            headline = score.decisive_score(scores, self.category.score)
            decision = verdict.decide(headline, self.thresholds)
        if decision is Decision.PASS and not with_heat_map:
            return Inspection(decision, headline, scores, (), None)
        with stage("heat_map"):
            heat = self._heat_map(distances.all(), (rgb.shape[0], rgb.shape[1]))
            regions = score.regions(heat, self.category.min_region_pixels)
        return Inspection(decision, headline, scores, regions, heat, rgb)

    def _heat_map(self, distances: NDArray[np.float32], captured: tuple[int, int]) -> NDArray[np.float32]:
        seen = preprocess.crop_window(captured, self.category.resize, self.category.imagesize)
        return score.heat_map(distances, self.backbone.grid, captured, seen, self.thresholds.fail)
