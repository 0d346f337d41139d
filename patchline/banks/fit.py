"""A folder of good images -> coreset -> memory bank -> thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import coreset
from patchline.banks.recipe import Features, Recipe
from patchline.devices import backbone
from patchline.inspection import memory_bank, score
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal


def fit(
    settings: config.Config, name: str, folder: Path, seed: int, device: backbone.Device = backbone.CPU
) -> memory_bank.BankManifest:
    """Fit the memory bank of a category on good images, and save it where workers look for it.

    The images are read twice: once to collect the candidates of the coreset, once to score each image. So `max_patches`
    of the category bounds the memory, not the number of images.

    Args:
        settings: the configuration.
        name: of the category.
        folder: of good images; subfolders are searched too.
        seed: of all random choices. The same seed, images and machine give the same bank.
        device: the device that will serve, because features differ slightly between devices.

    Raises:
        SetupError: there are too few images, patches or rows, an image cannot be decoded, or the model cannot be used.
    """
    with Recipe.open(settings, name, folder, device) as recipe, terminal.progress() as progress:
        patches_per_image = _patches_per_image(recipe)
        candidates, image_of_candidate = _sample_candidates(
            recipe.features(progress, "features"), patches_per_image, seed
        )
        rows = _select_rows(candidates, recipe.category, seed, progress)
        bank, group_of_row = candidates[rows], recipe.groups[image_of_candidate[rows]]
        _require_several_groups(group_of_row)
        held_out = _leave_one_out(recipe, recipe.features(progress, "calibration"), bank, group_of_row)
        return recipe.save_bank(bank, held_out, "leave-one-image-out", seed, len(candidates))


def _sample_candidates(
    features: Iterable[Features], patches_per_image: int, seed: int
) -> tuple[Features, NDArray[np.int64]]:
    """Candidates for the coreset, float32 [candidates, dim], and the number of the image of each."""
    rng = np.random.default_rng(seed)
    samples = [_sample(patches, patches_per_image, rng) for patches in features]
    image_of_candidate = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    return np.concatenate(samples), image_of_candidate


def _sample(patches: Features, max_count: int, rng: np.random.Generator) -> Features:
    if len(patches) <= max_count:
        return patches
    return patches[np.sort(rng.choice(len(patches), max_count, replace=False))]


def _select_rows(
    candidates: Features, category: config.Category, seed: int, progress: terminal.Progress
) -> NDArray[np.int64]:
    count = max(1, math.floor(len(candidates) * category.coreset_ratio))
    task = progress.add_task("coreset", total=count)
    points = coreset.project(candidates, seed)
    return np.sort(coreset.select(points, count, seed, lambda selected: progress.update(task, completed=selected)))


def _leave_one_out(
    recipe: Recipe, features: Iterable[Features], bank: Features, group_of_row: NDArray[np.int64]
) -> Features:
    """float32 [images]: the score of each image against the rows that come from other groups."""
    held_out = []
    for group, patches in zip(recipe.groups, features, strict=True):
        other_rows = bank[group_of_row != group]
        distances, _ = exact_search.brute_force(other_rows).nearest(patches)
        held_out.append(score.decisive_score(score.image_scores(distances), recipe.category.score))
    return np.array(held_out, np.float32)


def _patches_per_image(recipe: Recipe) -> int:
    images, max_patches = len(recipe.paths), recipe.category.max_patches
    if images > max_patches:
        raise SetupError(
            f"{images} good images give more patches than max_patches {max_patches} allows, even with one each: "
            f"set max_patches of the category to {images} or more; its default is 500000"
        )
    return max_patches // images


def _require_several_groups(group_of_row: NDArray[np.int64]) -> None:
    """Check that each group, if it is held out, leaves a row of another one."""
    if np.unique(group_of_row).size < 2:
        raise SetupError(
            f"the memory bank has {group_of_row.size} patches, all from one image or group, so it has none when that "
            "one is held out: raise coreset_ratio of the category, or add good images"
        )
