"""A folder of good images -> coreset -> memory bank -> thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import coreset, recipe
from patchline.banks.recipe import Features
from patchline.devices import backbone
from patchline.inspection import memory_bank, score
from patchline.inspection.search import exact_search
from patchline.runtime import terminal


def fit(
    settings: config.Config, name: str, folder: Path, seed: int, device: backbone.Device = backbone.CPU
) -> memory_bank.BankManifest:
    """Make the memory bank of a category from good images, and keep it where workers look for it.

    Memory is bounded by `max_patches` of the category, not by the number of images: they are read twice, once for
    candidates of the coreset and once to be scored.

    Args:
        settings: the configuration.
        name: of the category.
        folder: of good images, searched with its subfolders.
        seed: the same seed, images and machine give the same bank.
        device: that will serve: features differ a little between devices.

    Raises:
        SetupError: too few images, an image that cannot be decoded, or a model that cannot be used.
    """
    with recipe.of(settings, name, folder, device) as own, terminal.progress() as bars:
        candidates, image_of = _candidates(
            own.features(bars, "features"), own.category.max_patches // len(own.paths), seed
        )
        rows = _coreset(candidates, own.category, seed, bars)
        bank, image_of_row = candidates[rows], image_of[rows]
        held_out = _leave_one_out(own.features(bars, "calibration"), bank, image_of_row, own.category)
        return own.keep(bank, held_out, "leave-one-image-out", seed, len(candidates))


def _candidates(features: Iterable[Features], share: int, seed: int) -> tuple[Features, NDArray[np.int64]]:
    """Patches for the coreset to choose from, at most `share` of each image, and the number of each one's image."""
    rng = np.random.default_rng(seed)
    kept = [_sample(patches, share, rng) for patches in features]
    image_of = np.repeat(np.arange(len(kept)), [len(patches) for patches in kept])
    return np.concatenate(kept), image_of


def _sample(patches: Features, most: int, rng: np.random.Generator) -> Features:
    if len(patches) <= most:
        return patches
    return patches[np.sort(rng.choice(len(patches), most, replace=False))]


def _coreset(candidates: Features, category: config.Category, seed: int, bars: terminal.Progress) -> NDArray[np.int64]:
    count = max(1, math.floor(len(candidates) * category.coreset_ratio))
    bar = bars.add_task("coreset", total=count)
    points = coreset.project(candidates, seed)
    return np.sort(coreset.select(points, count, seed, lambda chosen: bars.update(bar, completed=chosen)))


def _leave_one_out(
    features: Iterable[Features], bank: Features, image_of_row: NDArray[np.int64], category: config.Category
) -> Features:
    """float32 [images]: the score of each image against the bank without the patches that came from itself."""
    held_out = []
    for number, patches in enumerate(features):
        others = bank[image_of_row != number]
        distances, _ = exact_search.brute_force(others).nearest(patches)
        held_out.append(score.decisive_score(score.image_scores(distances), category.score))
    return np.array(held_out, np.float32)
