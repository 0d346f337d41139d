"""Covers a new image: which of its patches become rows of a memory bank, and of each bank without a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchline.banks.coreset import squared_distances, squared_norms

_KNOWN = 32  # nearest rows of a patch that are looked at before all of them are
_BATCH_PATCHES = 256


def uncovered(
    points: NDArray[np.float32], rows: NDArray[np.float32], members: NDArray[np.bool_], radius: float
) -> NDArray[np.bool_]:
    """Select the patches that each bank takes, so that no patch is farther from the bank than its covering radius.

    It is the rule of the coreset (`coreset.select`), continued: the farthest patch becomes a row, until the farthest is
    within the radius.

    Args:
        points: float32 [patches, dim], of the new image.
        rows: float32 [rows, dim], of all banks together.
        members: bool [banks, rows], true for the rows of each bank. No bank is empty.
        radius: squared.

    Returns:
        bool [banks, patches].
    """
    nearest = _nearest(points, rows, members)
    open_patches = np.flatnonzero(nearest.max(axis=0) > radius)
    norms = squared_norms(points[open_patches])
    between = squared_distances(points[open_patches], norms, points[open_patches], norms)
    chosen = np.zeros((len(members), len(points)), np.bool_)
    for bank, distances in enumerate(nearest[:, open_patches]):
        chosen[bank, open_patches[_farthest(distances, between, radius)]] = True
    return chosen


def _farthest(nearest: NDArray[np.float32], between: NDArray[np.float32], radius: float) -> list[int]:
    """The numbers of the farthest patches in greedy order, until all are within the radius."""
    nearest, centres = nearest.copy(), list[int]()
    while nearest.size and nearest[number := int(nearest.argmax())] > radius:
        centres.append(number)
        np.minimum(nearest, between[number], out=nearest)
        nearest[number] = -1.0
    return centres


def _nearest(points: NDArray[np.float32], rows: NDArray[np.float32], members: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The squared distance of each patch to the nearest row of each bank, float32 [banks, patches]."""
    result = np.empty((len(members), len(points)), np.float32)
    row_norms, known = squared_norms(rows), min(_KNOWN, len(rows))
    for start in range(0, len(points), _BATCH_PATCHES):
        batch = points[start : start + _BATCH_PATCHES]
        distances = squared_distances(batch, squared_norms(batch), rows, row_norms)
        nearest = np.argpartition(distances, known - 1, axis=1)[:, :known]
        of_nearest = np.take_along_axis(distances, nearest, axis=1)
        for bank, is_member in enumerate(members):
            smallest = np.where(is_member[nearest], of_nearest, np.float32(np.inf)).min(axis=1)
            for number in np.flatnonzero(np.isinf(smallest)):  # none of the known rows is in this bank
                smallest[number] = distances[number, is_member].min()
            result[bank, start : start + len(batch)] = smallest
    return result
