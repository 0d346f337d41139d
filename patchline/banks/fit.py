"""A folder of good images -> coreset -> memory bank -> thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import cleaning, coreset, review
from patchline.banks.bank_rows import BankRows
from patchline.banks.choices import NO_CHOICES, Choices
from patchline.banks.folds import Folds
from patchline.banks.held_out import HeldOut
from patchline.banks.hottest import Judged
from patchline.banks.recipe import Features, Recipe
from patchline.banks.review import Reviewed
from patchline.devices import backbone
from patchline.inspection import memory_bank
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

_MOST_OUTLIERS = 0.2  # of the images; more are not left out without a person


@dataclass(frozen=True)
class Draft:
    """A memory bank that is not saved, and the good images as it judges them.

    Attributes:
        rows: of the bank, and of the banks without each group.
        radius: the largest squared distance of a candidate to its nearest row, after `coreset.project`.
        candidates: int64 [images], the number of patches of each that the coreset was selected from.
        held_out: the images, each compared with a bank without its group.
        judged: the same, with the hottest patches.
        distances: float32 [patches] for each image, the squared L2 distances of all its patches.
    """

    rows: BankRows
    radius: float
    candidates: NDArray[np.int64]
    held_out: HeldOut
    judged: tuple[Judged, ...]
    distances: list[NDArray[np.float32]]

    @property
    def bank(self) -> Features:
        """float32 [rows, dim]."""
        return self.rows.bank()

    def folds(self, recipe: Recipe) -> Folds:
        """What the bank keeps for images that are added and removed later."""
        return Folds(
            self.rows,
            self.radius,
            patches_per_image(recipe.category, len(recipe.paths)),
            self.held_out.names,
            recipe.groups,
            self.candidates,
            self.judged,
            recipe.good.looks,
        )


def fit(
    settings: config.Config,
    name: str,
    folder: Path,
    seed: int,
    device: backbone.Device = backbone.CPU,
    choices: Choices = NO_CHOICES,
    trial: bool = False,
) -> memory_bank.BankManifest:
    """Fit the memory bank of a category on good images, and save it where workers look for it.

    The features are computed twice: to collect the candidates of the coreset, and to score each image. So `max_patches`
    of the category bounds the memory, not the number of images.

    Args:
        settings: the configuration.
        name: of the category.
        folder: of good images; subfolders are searched too.
        seed: of all random choices. The same seed, images and machine give the same bank.
        device: the device that will serve, because features differ slightly between devices.
        choices: what a person decided about outliers.
        trial: make a bank from 10 images or more that answers `review` at most.

    Raises:
        OutliersError: images stand out, and nobody has accepted them or left them out.
        SetupError: there are too few images, patches or rows, an image cannot be decoded, or the model cannot be used.
    """
    with Recipe.open(settings, name, folder, device, choices, trial) as recipe, terminal.progress() as progress:
        recipe, draft = make_clean_draft(recipe, seed, progress)
        review.require_no_outliers(recipe, draft.held_out, draft.distances)
        return save(recipe, draft, seed)


def save(recipe: Recipe, draft: Draft, seed: int) -> memory_bank.BankManifest:
    """Save the bank of a draft in `paths.memory_banks`, with thresholds. `seed` is that of the draft."""
    candidates = int(draft.candidates.sum())
    return recipe.save_bank(draft.bank, draft.held_out, "leave-one-group-out", seed, candidates, draft.folds(recipe))


def review_images(
    settings: config.Config,
    name: str,
    folder: Path,
    seed: int,
    device: backbone.Device = backbone.CPU,
    choices: Choices = NO_CHOICES,
    trial: bool = False,
) -> tuple[list[Reviewed], Path]:
    """Judge each good image by the others as `fit` does, draw the worst on a contact sheet, and save no memory bank.

    Returns:
        All images, the highest score first, and the file of the sheet.

    Raises:
        SetupError: as for `fit`, except that outliers are no error.
    """
    with Recipe.open(settings, name, folder, device, choices, trial) as recipe, terminal.progress() as progress:
        draft = make_draft(recipe, seed, progress)
        return review.review(recipe, draft.held_out, draft.distances)


def make_clean_draft(recipe: Recipe, seed: int, progress: terminal.Progress) -> tuple[Recipe, Draft]:
    """Make a bank. With `clean_share`, make it again without the outliers until there are none.

    Returns:
        The recipe without the outliers, and the last bank. If more than a fifth of the images would be left out,
        outliers remain, for a person to decide.
    """
    draft, most_left_out = make_draft(recipe, seed, progress), int(_MOST_OUTLIERS * len(recipe.paths))
    while recipe.category.clean_share and (rows := review.unaccepted_outliers(recipe, draft.held_out)):
        most_left_out -= len(rows)
        if most_left_out < 0:
            break
        recipe = recipe.without_outliers(rows)
        draft = make_draft(recipe, seed, progress)
    return recipe, draft


def make_draft(recipe: Recipe, seed: int, progress: terminal.Progress) -> Draft:
    """Make a bank, and judge each image by the others. With `clean_share`, doubtful patches are discarded first."""
    _require_several_groups(recipe.groups)
    candidates = _candidates(recipe, seed, progress)
    groups = recipe.groups[candidates.images]
    rows, radius = _select_banks(candidates, groups, recipe.category, seed, progress)
    images = zip(recipe.groups, recipe.features(progress, "calibration"), strict=True)
    judgements = [Judged.by(patches, *rows.without(int(group))) for group, patches in images]
    distances = [of_image for _, of_image in judgements]
    counts = np.bincount(candidates.images, minlength=len(recipe.paths)).astype(np.int64)
    judged = tuple(image for image, _ in judgements)
    return Draft(rows, radius, counts, recipe.held_out(distances), judged, distances)


def make_bank(recipe: Recipe, seed: int, progress: terminal.Progress) -> Features:
    """Make the same bank as `make_draft`, float32 [rows, dim], and judge no image."""
    candidates = _candidates(recipe, seed, progress)
    rows, _ = _select_rows(coreset.project(candidates.features, seed), recipe.category, seed, progress)
    return np.asarray(candidates.features[rows])


@dataclass(frozen=True)
class _Candidates:
    """Patches for the coreset.

    Attributes:
        features: float32 [candidates, dim].
        images: int64 [candidates], the number of the image of each.
        positions: int64 [candidates], the number of the patch in its image.
    """

    features: Features
    images: NDArray[np.int64]
    positions: NDArray[np.int64]

    def clean(self, share: float, seed: int) -> _Candidates:
        """The candidates without the share that is least like other images at the same position."""
        kept = cleaning.kept_patches(coreset.project(self.features, seed), self.positions, share)
        return _Candidates(self.features[kept], self.images[kept], self.positions[kept])


def _select_banks(
    candidates: _Candidates,
    groups: NDArray[np.int64],
    category: config.Category,
    seed: int,
    progress: terminal.Progress,
) -> tuple[BankRows, float]:
    """The coreset of all candidates and of those without each group, and the covering radius of the former."""
    points = coreset.project(candidates.features, seed)
    rows, radius = _select_rows(points, category, seed, progress)
    count = int(groups.max()) + 1
    replacements = list(
        progress.track(coreset.replacements(points, rows, groups), total=count, description="held-out coresets")
    )
    images, positions = candidates.images.astype(np.int32), candidates.positions.astype(np.int32)
    return BankRows.select(candidates.features, images, positions, rows, replacements), radius


def _candidates(recipe: Recipe, seed: int, progress: terminal.Progress) -> _Candidates:
    """The patches that the coreset is selected from. With `clean_share`, doubtful ones are discarded."""
    count = patches_per_image(recipe.category, len(recipe.paths))
    candidates = _sample_candidates(recipe.features(progress, "features"), count, seed)
    clean_share = recipe.category.clean_share
    return candidates.clean(clean_share, seed) if clean_share else candidates


def _sample_candidates(features: Iterable[Features], patches_per_image: int, seed: int) -> _Candidates:
    rng = np.random.default_rng(seed)
    samples, positions = [], []
    for patches in features:
        rows = coreset.sample(len(patches), patches_per_image, rng)
        samples.append(patches[rows])
        positions.append(rows)
    images = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    return _Candidates(np.concatenate(samples), images, np.concatenate(positions))


def _select_rows(
    points: Features, category: config.Category, seed: int, progress: terminal.Progress
) -> tuple[NDArray[np.int64], float]:
    """The row numbers of the coreset in ascending order, and its covering radius, squared."""
    count = max(1, math.floor(len(points) * category.coreset_ratio))
    task = progress.add_task("coreset", total=count)
    rows, radius = coreset.select_cover(points, count, seed, lambda selected: progress.update(task, completed=selected))
    progress.update(task, completed=count)
    return np.sort(rows), radius


def patches_per_image(category: config.Category, images: int) -> int:
    """The number of patches of each image that are candidates, at most.

    Raises:
        SetupError: there are more images than candidates are allowed.
    """
    max_patches = category.max_patches
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
