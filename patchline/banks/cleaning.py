"""Discards doubtful patches of good images before the coreset, as SoftPatch does (Jiang et al., NeurIPS 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = 6  # as in SoftPatch
_SMALL = 1e-10  # added to distances, as in scikit-learn: equal points have a finite density


def kept_patches(points: NDArray[np.float32], positions: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Select the patches that have near neighbours among the patches of other images at the same position.

    A patch of a defect differs from what other images show there. Because whole patches are discarded and not images,
    the good part of a defective image stays.

    Args:
        points: float32 [patches, dim].
        positions: int64 [patches], the number of the place of each patch in its image.
        share: of the patches to discard, those with the largest local outlier factors.

    Returns:
        int64 [kept], row numbers in ascending order.
    """
    factors = np.ones(len(points), np.float32)
    order = np.argsort(positions, kind="stable")
    starts = np.flatnonzero(np.diff(positions[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        factors[rows] = local_outlier_factors(points[rows])
    count = len(points) - int(len(points) * share)
    return np.sort(np.argsort(factors, kind="stable")[:count])


def local_outlier_factors(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much sparser the surroundings of each point are than those of its 6 neighbours (Breunig et al., 2000).

    Args:
        points: float32 [points, dim].

    Returns:
        float32 [points], about 1 inside of a cluster, larger outside; 1 if there are fewer than 3 points.
    """
    neighbours = min(_NEIGHBOURS, len(points) - 1)
    if neighbours < 2:
        return np.ones(len(points), np.float32)
    distances = _distances(points)
    nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
    distance_to_nearest = np.take_along_axis(distances, nearest, axis=1)
    reach = distance_to_nearest.max(axis=1)
    density = 1 / (np.maximum(distance_to_nearest, reach[nearest]).mean(axis=1) + _SMALL)
    return np.asarray(density[nearest].mean(axis=1) / density, np.float32)


def _distances(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [points, points], the distance of each pair, infinite from a point to itself."""
    norms = np.einsum("ij,ij->i", points, points)
    squared = norms[:, None] + norms[None, :] - 2 * points @ points.T
    np.fill_diagonal(squared, np.inf)
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)
