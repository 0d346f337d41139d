"""A folder of good images -> coreset -> memory bank -> thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import coreset
from patchline.banks.recipe import Features, Recipe
from patchline.devices import backbone
from patchline.inspection import memory_bank
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
        _require_several_groups(recipe.groups)
        patches_per_image = _patches_per_image(recipe)
        candidates, image_of_candidate = _sample_candidates(
            recipe.features(progress, "features"), patches_per_image, seed
        )
        coresets = _Coresets.select(candidates, recipe.groups[image_of_candidate], recipe.category, seed, progress)
        distances = _hold_out(recipe.groups, recipe.features(progress, "calibration"), coresets)
        bank = candidates[coresets.rows]
        return recipe.save_bank(bank, recipe.held_out(distances), "leave-one-group-out", seed, len(candidates))


@dataclass(frozen=True)
class _Coresets:
    """The coreset of all candidates, and what takes the place of the rows of each group when it is held out.

    Attributes:
        candidates: float32 [candidates, dim].
        rows: int64 [rows], of the coreset, among the candidates.
        group_of_row: int64 [rows].
        replacements: int64 for each group, rows of other groups among the candidates.
    """

    candidates: Features
    rows: NDArray[np.int64]
    group_of_row: NDArray[np.int64]
    replacements: list[NDArray[np.int64]]

    @classmethod
    def select(
        cls,
        candidates: Features,
        groups: NDArray[np.int64],
        category: config.Category,
        seed: int,
        progress: terminal.Progress,
    ) -> _Coresets:
        points = coreset.project(candidates, seed)
        rows = _select_rows(points, category, seed, progress)
        replacements = coreset.replacements(points, rows, groups)
        tracked = progress.track(replacements, total=int(groups.max()) + 1, description="held-out coresets")
        return cls(candidates, rows, groups[rows], list(tracked))

    def without(self, group: int) -> Features:
        """The bank if a group is held out, float32 [rows, dim]."""
        rows = np.concatenate([self.rows[self.group_of_row != group], self.replacements[group]])
        return np.asarray(self.candidates[rows])


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
    points: Features, category: config.Category, seed: int, progress: terminal.Progress
) -> NDArray[np.int64]:
    count = max(1, math.floor(len(points) * category.coreset_ratio))
    task = progress.add_task("coreset", total=count)
    return np.sort(coreset.select(points, count, seed, lambda selected: progress.update(task, completed=selected)))


def _hold_out(
    groups: NDArray[np.int64], features: Iterable[Features], coresets: _Coresets
) -> Iterator[NDArray[np.float32]]:
    """The distances of the patches of each image to the bank without its group, float32 [patches] each."""
    for group, patches in zip(groups, features, strict=True):
        yield exact_search.brute_force(coresets.without(int(group))).nearest(patches)[0]


def _patches_per_image(recipe: Recipe) -> int:
    images, max_patches = len(recipe.paths), recipe.category.max_patches
    if images > max_patches:
        raise SetupError(
            f"{images} good images give more patches than max_patches {max_patches} allows, even with one each: "
            f"set max_patches of the category to {images} or more; its default is 500000"
        )
    return max_patches // images


def _require_several_groups(groups: NDArray[np.int64]) -> None:
    """Check that a group, if it is held out, leaves another one."""
    if np.unique(groups).size < 2:
        raise SetupError(
            "all good images are one image or group, so none is left to compare it with: add good images, or let "
            "group_by or group_table of the category name several groups"
        )
