"""The inspection of one image, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.devices import backbone
from patchline.inspection import decode, memory_bank, preprocess, score, verdict
from patchline.inspection.decode import Captured
from patchline.inspection.score import HeatMap
from patchline.protocol.messages import Decision, Region, Scores, Thresholds

StageTimer = Callable[[str], AbstractContextManager[None]]


def untimed(_stage: str) -> AbstractContextManager[None]:
    """A `StageTimer` that measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Inspection:
    """The result for one image.

    Attributes:
        decision: by the thresholds of the bank.
        score: the score that the category is judged by.
        scores: all scores.
        regions: of the heat map above the fail threshold, hottest first; empty without a heat map.
        heat_map: at the size of the patches; None for a pass, unless it was requested.
        image: uint8 [height, width] of a grey image, or [height, width, 3], RGB; None without a heat map. A large JPEG
            is smaller here than it was captured, see `decode.for_backbone`.
        p_value: of the score among the held-out scores of the bank; None if it has none.
        patches: float32 [patches, dim], the features, for another bank of the same recipe.
    """

    decision: Decision
    score: float
    scores: Scores
    regions: tuple[Region, ...]
    heat_map: HeatMap | None
    image: NDArray[np.uint8] | None = None
    p_value: float | None = None
    patches: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Inspector:
    """The inspector of one category, shared by all lanes."""

    category: config.Category
    limits: config.Images
    backbone: backbone.Backbone
    bank: memory_bank.MemoryBank

    @property
    def thresholds(self) -> Thresholds:
        """The calibrated thresholds of the bank."""
        return self.bank.manifest.thresholds

    def decode(self, image: bytes, content_type: str) -> NDArray[np.uint8]:
        """Return the pixels of an image to show it, uint8 [height, width, 3], RGB. Raise Unusable, as `inspect`."""
        return decode.decode(image, content_type, self.limits, self.category.depth)

    def features(self, image: bytes, content_type: str) -> NDArray[np.float32]:
        """Return the features of an image, float32 [patches, dim]. Raise Unusable or Retry, as `inspect`."""
        pixels = self._captured(image, content_type).pixels
        prepared = preprocess.prepare(pixels, self.category.resize, self.category.imagesize)
        return np.asarray(self.backbone.extract(prepared[None])[0])

    def inspect(self, image: bytes, content_type: str, stage: StageTimer, with_heat_map: bool = False) -> Inspection:
        """Inspect one image.

        Args:
            image: the encoded file, as captured.
            content_type: of the image.
            stage: called with the name of each stage; its context manager encloses the stage.
            with_heat_map: make a heat map for a pass too.

        Raises:
            Unusable: the image cannot be inspected.
            Retry: the device failed.
        """
        with stage("decode"):
            captured = self._captured(image, content_type)
        with stage("preprocess"):
            prepared = preprocess.prepare(captured.pixels, self.category.resize, self.category.imagesize)
        with stage("extract"):
            patches = self.backbone.extract(prepared[None])[0]
        with stage("search"):
            distances = self.bank.distances(patches)
            largest = distances.largest(score.TOP_PATCHES)
        with stage("score"):
            scores = score.image_scores(largest)
            decisive_score = score.decisive_score(scores, self.category.score)
            decision = verdict.decide(decisive_score, scores.max, self.thresholds)
            p_value = self.bank.p_value(decisive_score)
        if decision is Decision.PASS and not with_heat_map:
            return Inspection(decision, decisive_score, scores, (), None, p_value=p_value, patches=patches)
        with stage("heat_map"):
            heat_map = self._heat_map(distances.all(), captured.shape)
            regions = score.regions(heat_map, self.category.min_region_pixels)
        return Inspection(decision, decisive_score, scores, regions, heat_map, captured.pixels, p_value, patches)

    def judge(self, patches: NDArray[np.float32]) -> tuple[Decision, float]:
        """Return the decision and the score of an image by its features, float32 [patches, dim]."""
        scores = score.image_scores(self.bank.distances(patches).largest(score.TOP_PATCHES))
        decisive_score = score.decisive_score(scores, self.category.score)
        return verdict.decide(decisive_score, scores.max, self.thresholds), decisive_score

    def _captured(self, image: bytes, content_type: str) -> Captured:
        resize = self.category.resize if self.bank.manifest.reduced_jpeg else None
        return decode.for_backbone(image, content_type, self.limits, self.category.depth, resize)

    def _heat_map(self, distances: NDArray[np.float32], image_shape: tuple[int, int]) -> HeatMap:
        window = preprocess.crop_window(image_shape, self.category.resize, self.category.imagesize)
        return score.heat_map(distances, self.backbone.grid, image_shape, window, self.thresholds.fail)
