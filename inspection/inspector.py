"""The whole inspection of one image, in its order. An inspector belongs to one category."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspection import backbone, config, decode, memory_bank, preprocess, score, verdict
from inspection.errors import SetupError
from inspection.message import Decision, Region, Scores, Thresholds

Stage = Callable[[str], AbstractContextManager[None]]  # times what happens inside: the clock is the caller's


@dataclass(frozen=True)
class Inspection:
    """What an inspection found out about one image."""

    decision: Decision
    score: float
    scores: Scores
    regions: tuple[Region, ...]
    heat_map: NDArray[np.float32] | None


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

    def inspect(self, image: bytes, content_type: str, stage: Stage, look: bool = False) -> Inspection:
        """Judge one image.

        Args:
            image: the encoded file, as captured.
            content_type: of `image`.
            stage: is entered around each stage with its name.
            look: make the heat map of a good part too.

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
            distances = self.bank.search(patches)
        with stage("score"):
            scores = score.image_scores(distances)
            headline = scores.topk10 if self.category.score == "topk10" else scores.max
            decision = verdict.decide(headline, self.thresholds)
        if decision is Decision.PASS and not look:
            return Inspection(decision, headline, scores, (), None)
        with stage("heat_map"):
            heat = self._heat_map(distances, (rgb.shape[0], rgb.shape[1]))
            regions = score.regions(heat, self.category.min_region_pixels)
        return Inspection(decision, headline, scores, regions, heat)

    def _heat_map(self, distances: NDArray[np.float32], captured: tuple[int, int]) -> NDArray[np.float32]:
        seen = preprocess.window(captured, self.category.resize, self.category.imagesize)
        return score.heat_map(distances, self.backbone.grid, captured, seen, self.thresholds.fail)


def check_match(name: str, category: config.Category, model: backbone.Manifest, bank: memory_bank.Manifest) -> None:
    """Refuse a bank that was fitted with another recipe or another network than the one that would serve it.

    Raises:
        SetupError: with every difference.
    """
    expected = {
        "category": name,
        "backbone": category.backbone,
        "backbone_sha256": model.sha256,
        "layer": category.layer,
        "precision": model.precision,
        "resize": category.resize,
        "imagesize": category.imagesize,
        "dim": model.dim,
        "score": category.score,
    }
    if model.layer != category.layer:
        raise SetupError(f"category {name}: layer is {category.layer}, but backbone {model.name} gives {model.layer}")
    faults = [
        f"{key} was {getattr(bank, key)} and is {value}"
        for key, value in expected.items()
        if getattr(bank, key) != value
    ]
    if faults:
        again = f"fit it again with: patchline fit --category {name} FOLDER"
        raise SetupError(f"memory bank of {name}: {'; '.join(faults)}; {again}")


def load(settings: config.Config, names: list[str], device: backbone.Device, streams: int) -> dict[str, Inspector]:
    """An inspector for each named category; categories with the same backbone and size share one.

    Raises:
        SetupError: a model or bank is missing, damaged or does not match.
    """
    loaded: dict[tuple[str, int], backbone.Backbone] = {}
    inspectors = {}
    for name in names:
        category = settings.category(name)
        bank = memory_bank.load(settings.paths.memory_banks / name)
        key = (category.backbone, category.imagesize)
        if key not in loaded:
            loaded[key] = backbone.load(settings.paths.models, *key, device, streams)
        check_match(name, category, loaded[key].manifest, bank.manifest)
        inspectors[name] = Inspector(category, settings.images, loaded[key], bank)
    return inspectors
