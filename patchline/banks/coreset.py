"""Greedy k-centre selection: the few patches that stand for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PROJECTED_DIMENSIONS = 128  # as in the reference: distances for the selection only, never in the bank
_CANDIDATES = 1024
_ROWS_AT_ONCE = 16_384


def project(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Random linear projection to at most 128 dimensions, which keeps distances (Johnson and Lindenstrauss, 1984).

    Args:
        features: float32 [patches, dim].

    Returns:
        float32 [patches, min(dim, 128)]; `features` itself where it has no more dimensions than that.
    """
    dim = features.shape[1]
    if dim <= PROJECTED_DIMENSIONS:
        return features
    matrix = np.random.default_rng(seed).standard_normal((dim, PROJECTED_DIMENSIONS)).astype(np.float32)
    return features @ (matrix / np.float32(np.sqrt(PROJECTED_DIMENSIONS)))


def select(
    points: NDArray[np.float32], count: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.int64]:
    """Choose `count` points, each the farthest from those before it (Gonzalez, 1985; coreset of PatchCore, Roth 2021).

    The choice is the plain greedy one, made in matrix products: the 1,024 farthest points are candidates, and as long
    as the farthest candidate is at least as far as any other point was, it is the farthest of all. Then one product
    brings every point's distance up to date with all centres of the round. Memory is linear in the number of points.

    Args:
        points: float32 [patches, dim].
        count: how many to choose, at most the number of patches.
        seed: of the first centre.
        progress: is told after each round how many are chosen.

    Returns:
        int64 [count], row numbers in the order of choice.
    """
    norms = np.einsum("ij,ij->i", points, points)
    first = int(np.random.default_rng(seed).integers(len(points)))
    chosen = [first]
    nearest = np.full(len(points), np.inf, np.float32)
    _bring_up_to_date(nearest, points, norms, chosen)
    while len(chosen) < count:
        fresh = _farthest(nearest, points, norms, count - len(chosen))
        _bring_up_to_date(nearest, points, norms, fresh)
        chosen += fresh
        progress(len(chosen))
    return np.array(chosen, np.int64)


def _farthest(
    nearest: NDArray[np.float32], points: NDArray[np.float32], norms: NDArray[np.float32], most: int
) -> list[int]:
    """The next centres in greedy order, as many as can be known without looking at every point again."""
    size = min(_CANDIDATES, len(points))
    candidates = np.sort(np.argpartition(nearest, -size)[-size:])
    to_nearest = nearest[candidates]
    others_at_most = to_nearest.min()
    between = _squared_distances(points[candidates], norms[candidates], points[candidates], norms[candidates])
    fresh: list[int] = []
    while len(fresh) < most:
        farthest = int(to_nearest.argmax())
        if fresh and to_nearest[farthest] < others_at_most:
            break
        fresh.append(int(candidates[farthest]))
        np.minimum(to_nearest, between[farthest], out=to_nearest)
        to_nearest[farthest] = -1.0
    return fresh


def _bring_up_to_date(
    nearest: NDArray[np.float32], points: NDArray[np.float32], norms: NDArray[np.float32], centres: list[int]
) -> None:
    for start in range(0, len(points), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        distances = _squared_distances(points[rows], norms[rows], points[centres], norms[centres])
        np.minimum(nearest[rows], distances.min(axis=1), out=nearest[rows])
    nearest[centres] = -1.0


def _squared_distances(
    a: NDArray[np.float32], a_norms: NDArray[np.float32], b: NDArray[np.float32], b_norms: NDArray[np.float32]
) -> NDArray[np.float32]:
    products = a @ b.T
    products *= -2.0
    products += a_norms[:, None]
    products += b_norms[None, :]
    return products
