"""Greedy k-centre selection: a few patches that represent all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.search import exact_search

PROJECTED_DIMENSIONS = 128  # as in the reference; for the selection only, the bank keeps all dimensions
_CANDIDATES = 1024  # at most
_CANDIDATES_PER_CENTRE = 16
_BATCH_ROWS = 16_384
_KNOWN_CENTRES = 12  # whose distances to a point are kept
_NEIGHBOURS = 6  # of a centre that is held out


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


def sample(count: int, max_count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The numbers of the patches of an image that are candidates, in ascending order: all, or a random sample."""
    if count <= max_count:
        return np.arange(count)
    return np.sort(rng.choice(count, max_count, replace=False))


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
    return select_cover(points, count, seed, progress)[0]


def select_cover(
    points: NDArray[np.float32], count: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[NDArray[np.int64], float]:
    """Select centres as `select` does, and return their covering radius, too.

    Returns:
        int64 [count], and the largest squared distance of a point to its nearest centre: that of the next centre.
    """
    norms = squared_norms(points)
    first = int(np.random.default_rng(seed).integers(len(points)))
    nearest = np.full(len(points), np.inf, np.float32)
    _update_nearest(nearest, points, norms, [first])
    centres = np.array([first, *_extend(nearest, points, norms, count - 1, progress, finish=True)], np.int64)
    return centres, max(0.0, float(nearest.max()))


@dataclass(frozen=True)
class Replacement:
    """How a coreset changes when a group of points is held out.

    Attributes:
        removed: bool [centres], true for those of the group, and for their neighbours.
        added: int64, row numbers of points outside of the group: as many as were removed, if there are enough.
    """

    removed: NDArray[np.bool_]
    added: NDArray[np.int64]


def replacements(
    points: NDArray[np.float32], rows: NDArray[np.int64], groups: NDArray[np.int64]
) -> Iterator[Replacement]:
    """Approximate the coreset without each group of points, from the coreset of all.

    A coreset is a cover whose centres keep their distance from each other. Without the centres of a group it has holes,
    which a coreset of the other groups would not have. So these centres and their nearest neighbours, which kept away
    from them, are removed, and as many points of other groups are selected by the same greedy rule. For all groups
    together this costs a few times as much as `select`, where a new selection for each would cost that for each.

    Args:
        points: float32 [patches, dim].
        rows: int64 [centres], of `select`.
        groups: int64 [patches], the number of the group of each point, from 0 without gaps.

    Yields:
        For each group in order.
    """
    norms = squared_norms(points)
    distances, nearest = exact_search.flat_index(points[rows]).search(points, min(_KNOWN_CENTRES, len(rows)))
    for number in range(int(groups.max()) + 1):
        inside, own = groups == number, groups[rows] == number
        removed = own.copy()
        removed[nearest[rows[own], : _NEIGHBOURS + 1]] = True  # the nearest one is the centre itself
        remaining = _without(removed, distances, nearest, points, norms, rows)
        remaining[rows[~removed]] = -np.inf
        remaining[inside] = -np.inf
        count = min(int(removed.sum()), int((~inside).sum() - (~removed).sum()))
        yield Replacement(removed, np.array(_extend(remaining, points, norms, count), np.int64))


def _without(
    removed: NDArray[np.bool_],
    distances: NDArray[np.float32],
    nearest: NDArray[np.int64],
    points: NDArray[np.float32],
    norms: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The squared distance of each point to the nearest centre that is not removed, float32 [patches]."""
    result = distances[:, 0].copy()
    affected = np.flatnonzero(removed[nearest[:, 0]])
    known = np.where(removed[nearest[affected]], np.float32(np.inf), distances[affected]).min(axis=1)
    unknown = affected[np.isinf(known)]  # all their known centres are removed
    result[affected] = known
    if unknown.size and not removed.all():
        searched = np.full(unknown.size, np.inf, np.float32)
        others = rows[~removed]
        for start in range(0, unknown.size, _BATCH_ROWS):
            batch = unknown[start : start + _BATCH_ROWS]
            to_others = squared_distances(points[batch], norms[batch], points[others], norms[others])
            searched[start : start + _BATCH_ROWS] = to_others.min(axis=1)
        result[unknown] = searched
    return result


def _extend(
    nearest: NDArray[np.float32],
    points: NDArray[np.float32],
    norms: NDArray[np.float32],
    count: int,
    progress: Callable[[int], None] = lambda _: None,
    finish: bool = False,
) -> list[int]:
    """The next `count` centres in greedy order; `nearest` is updated on the way, and at the end with `finish`."""
    centres: list[int] = []
    while len(centres) < count:
        new_centres = _next_centres(nearest, points, norms, count - len(centres))
        centres += new_centres
        if finish or len(centres) < count:
            _update_nearest(nearest, points, norms, new_centres)
        progress(len(centres))
    return centres


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
    size = min(_CANDIDATES, _CANDIDATES_PER_CENTRE * max_count, len(points))
    candidates = np.sort(np.argpartition(nearest, -size)[-size:])
    candidate_nearest = nearest[candidates]
    upper_bound_of_others = candidate_nearest.min()
    between = squared_distances(points[candidates], norms[candidates], points[candidates], norms[candidates])
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
        distances = squared_distances(points[rows], norms[rows], points[centres], norms[centres])
        np.minimum(nearest[rows], distances.min(axis=1), out=nearest[rows])
    nearest[centres] = -1.0


def squared_norms(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [points], of float32 [points, dim]."""
    return np.asarray(np.einsum("ij,ij->i", points, points))


def squared_distances(
    a: NDArray[np.float32], a_norms: NDArray[np.float32], b: NDArray[np.float32], b_norms: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The squared distances of all pairs, float32 [a, b], in a matrix product: not exact where points are near."""
    distances = a @ b.T
    distances *= -2.0
    distances += a_norms[:, None]
    distances += b_norms[None, :]
    return distances
