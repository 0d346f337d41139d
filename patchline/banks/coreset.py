"""Greedy k-centre selection: a few patches that represent all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PROJECTED_DIMENSIONS = 128  # as in the reference; for the selection only, the bank keeps all dimensions
_CANDIDATES = 1024
_BATCH_ROWS = 16_384


def project(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Random linear projection to at most 128 dimensions, which preserves distances (Johnson and Lindenstrauss, 1984).

    Args:
        features: float32 [patches, dim].
        seed: of the random matrix.

    Returns:
        float32 [patches, min(dim, 128)]; `features` itself if dim is at most 128.
    """
    dim = features.shape[1]
    if dim <= PROJECTED_DIMENSIONS:
        return features
    matrix = np.random.default_rng(seed).standard_normal((dim, PROJECTED_DIMENSIONS)).astype(np.float32)
    return features @ (matrix / np.float32(np.sqrt(PROJECTED_DIMENSIONS)))


def select(
    points: NDArray[np.float32], count: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.int64]:
    """Select centres, each the farthest point from the earlier ones (Gonzalez, 1985; PatchCore, Roth et al., 2022).

    The result is that of the plain greedy algorithm, computed in rounds of matrix products. The candidates of a round
    are the 1,024 points farthest from their nearest centre. A candidate is the farthest of all points if its distance
    is at least the largest distance of the points that are no candidates. At the end of a round, one product updates
    the distances of all points. Memory is linear in the number of points.

    Args:
        points: float32 [patches, dim].
        count: of centres, at most the number of patches.
        seed: of the first centre.
        progress: called after each round with the number of centres.

    Returns:
        int64 [count], row numbers in the order of selection.
    """
    norms = np.einsum("ij,ij->i", points, points)
    first = int(np.random.default_rng(seed).integers(len(points)))
    centres = [first]
    nearest = np.full(len(points), np.inf, np.float32)
    _update_nearest(nearest, points, norms, centres)
    while len(centres) < count:
        new_centres = _next_centres(nearest, points, norms, count - len(centres))
        _update_nearest(nearest, points, norms, new_centres)
        centres += new_centres
        progress(len(centres))
    return np.array(centres, np.int64)


def _next_centres(
    nearest: NDArray[np.float32], points: NDArray[np.float32], norms: NDArray[np.float32], max_count: int
) -> list[int]:
    """The next centres in greedy order, until the farthest candidate might not be the farthest point.

    Args:
        nearest: float32 [patches], squared distances to the nearest centre.
        points: float32 [patches, dim].
        norms: float32 [patches], squared norms of the points.
        max_count: of centres.
    """
    size = min(_CANDIDATES, len(points))
    candidates = np.sort(np.argpartition(nearest, -size)[-size:])
    candidate_nearest = nearest[candidates]
    upper_bound_of_others = candidate_nearest.min()
    between = _squared_distances(points[candidates], norms[candidates], points[candidates], norms[candidates])
    centres: list[int] = []
    while len(centres) < max_count:
        farthest = int(candidate_nearest.argmax())
        if centres and candidate_nearest[farthest] < upper_bound_of_others:
            break
        centres.append(int(candidates[farthest]))
        np.minimum(candidate_nearest, between[farthest], out=candidate_nearest)
        candidate_nearest[farthest] = -1.0  # a centre is not selected again
    return centres


def _update_nearest(
    nearest: NDArray[np.float32], points: NDArray[np.float32], norms: NDArray[np.float32], centres: list[int]
) -> None:
    for start in range(0, len(points), _BATCH_ROWS):
        rows = slice(start, start + _BATCH_ROWS)
        distances = _squared_distances(points[rows], norms[rows], points[centres], norms[centres])
        np.minimum(nearest[rows], distances.min(axis=1), out=nearest[rows])
    nearest[centres] = -1.0


def _squared_distances(
    a: NDArray[np.float32], a_norms: NDArray[np.float32], b: NDArray[np.float32], b_norms: NDArray[np.float32]
) -> NDArray[np.float32]:
    distances = a @ b.T
    distances *= -2.0
    distances += a_norms[:, None]
    distances += b_norms[None, :]
    return distances
