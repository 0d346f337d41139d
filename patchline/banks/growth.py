"""Adds an image to the folds of a memory bank, and removes images: what a fit with the same folds and rows would give.

The same folds: an image that is added is a group of its own, or joins that of its near-duplicates or of its part. The
bank without a new group is the bank as it was before the image. The same rows: rows of other images stay as they are,
in the memory bank and in the bank without each group. Each of these banks takes the patches of the new image that it
does not cover, and loses those of an image that is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from patchline.banks import coreset, cover
from patchline.banks.folds import Folds
from patchline.banks.hottest import Judged
from patchline.banks.looks import Look
from patchline.protocol.errors import SetupError

Features = NDArray[np.float32]


@dataclass(frozen=True)
class NewImage:
    """A good image to add.

    Attributes:
        name: in the bank.
        look: what it looks like.
        group: the number of the group that it joins; None for a group of its own.
    """

    name: str
    look: Look
    group: int | None


def add(folds: Folds, image: NewImage, patches: Features, seed: int) -> tuple[Folds, NDArray[np.float32]]:
    """Add an image.

    Args:
        folds: of the bank.
        image: the last one of the result.
        patches: float32 [patches, dim], of the image.
        seed: of the fit.

    Returns:
        The new folds, in which images may have to be judged again, see `unsure`; and float32 [patches], the squared
        distances of the patches of the image to the bank without its group.
    """
    number = len(folds.names)
    rows = folds.rows if image.group is not None else folds.rows.with_group()
    own = len(rows.members) - 2 if image.group is None else image.group
    judged, distances = Judged.by(patches, *rows.without(own))
    candidates = _candidates(image, len(patches), folds.patches_per_image, seed)
    chosen = np.zeros((len(rows.members), len(patches)), np.bool_)
    points, of_rows = (coreset.project(features, seed) for features in (patches[candidates], rows.features))
    chosen[:, candidates] = cover.uncovered(points, of_rows, rows.members, folds.radius)
    chosen[1 + own] = False
    others = [
        _with_rows(other, patches[chosen[1 + group]], number)
        for other, group in zip(folds.judged, folds.groups, strict=True)
    ]
    grown = Folds(
        rows.with_patches(number, patches, chosen),
        folds.radius,
        folds.patches_per_image,
        (*folds.names, image.name),
        np.append(folds.groups, own),
        np.append(folds.candidates, candidates.size),
        (*others, judged),
        (*folds.looks, image.look),
    )
    return grown, distances


def remove(folds: Folds, numbers: Collection[int]) -> tuple[Folds, list[int]]:
    """Remove images with their rows.

    Args:
        folds: of the bank.
        numbers: of the images.

    Returns:
        The new folds, and the new numbers of the images that must be judged again, because the nearest row of some
        patch of theirs is gone.

    Raises:
        SetupError: too little would be left.
    """
    kept = np.setdiff1d(np.arange(len(folds.names)), list(numbers))
    groups, group_numbers = np.unique(folds.groups[kept], return_inverse=True)
    if groups.size < 2:
        raise SetupError("fewer than two images, or groups of them, would be left, so none could be held out")
    rows = folds.rows.keep_images(kept, groups.tolist())
    if not rows.members.any(axis=1).all():
        raise SetupError("no row would be left in the memory bank, or none to compare an image with")
    gone = [bool(np.isin(folds.judged[number].leans_on, list(numbers)).any()) for number in kept]
    shrunk = Folds(
        rows,
        folds.radius,
        folds.patches_per_image,
        tuple(folds.names[number] for number in kept),
        group_numbers.astype(np.int64),
        folds.candidates[kept],
        tuple(_renumbered(folds.judged[number], kept) for number in kept),
        tuple(folds.looks[number] for number in kept),
    )
    return shrunk, np.flatnonzero(gone).tolist()


def unsure(folds: Folds) -> list[int]:
    """The numbers of the images whose largest distances may be those of patches that are not kept."""
    return [number for number, judged in enumerate(folds.judged) if not judged.is_exact]


def judge_again(folds: Folds, numbers: Iterable[int], patches_of: Callable[[int], Features]) -> Folds:
    """Compare images with the banks without their groups again.

    Args:
        folds: of the bank.
        numbers: of the images.
        patches_of: returns float32 [patches, dim], of an image by its number.
    """
    judged = list(folds.judged)
    for number in numbers:
        judged[number] = Judged.by(patches_of(number), *folds.rows.without(int(folds.groups[number])))[0]
    return replace(folds, judged=tuple(judged))


def _candidates(image: NewImage, patches: int, patches_per_image: int, seed: int) -> NDArray[np.int64]:
    """The numbers of the patches that may become rows: all, or a sample that depends on the pixels and the seed."""
    return coreset.sample(patches, patches_per_image, np.random.default_rng([seed, *image.look.sha256]))


def _with_rows(judged: Judged, rows: Features, image: int) -> Judged:
    """A judged image after its bank took rows of an image, float32 [rows, dim]. Any patch may lean on them now."""
    if not len(rows):
        return judged
    return replace(judged.with_rows(rows), leans_on=np.append(judged.leans_on, image))


def _renumbered(judged: Judged, kept: NDArray[np.int64]) -> Judged:
    leans_on = judged.leans_on[np.isin(judged.leans_on, kept)]
    return replace(judged, leans_on=np.searchsorted(kept, leans_on))
