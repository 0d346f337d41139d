"""Lower bounds of the distances between queries and the rows of a memory bank, from one small matrix product.

Let P hold the first k principal components of a bank, and let x be a vector minus the mean of the bank. x is reduced to
k + 1 numbers, (Px, |x - P'Px|): its principal components and its residual norm. Two residuals are at least as far apart
as their norms differ, so the distance between two reduced vectors is a lower bound of the distance between the vectors.
The bounds by mean and standard deviation of Hwang, Han and Ahn (2012) are the special case of one fixed component.

The bounds are tight if the features vary in few directions, as the features of parts do: about 60 of 512 components
suffice. A row whose lower bound exceeds the distance to another row is not the nearest neighbour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-5  # relative to |q|^2 + |b|^2: more than float32 loses in these sums
_FLOATS_PER_REGISTER = 16
_MAX_SAMPLED_ROWS, _MAX_SAMPLED_PAIRS = 256, 1_000_000
_COST_OF_ONE_ROW = 6  # the cost of one distance on its own, relative to one distance in a matrix product
_QUERY_DISTANCE = 1.2  # patches with a defect are farther from the bank than its rows are from each other
_MAX_WORK = 0.8  # relative to brute force; above it, bounds are not worth their product
_BOUNDS_PER_BLOCK = 500_000  # 2 MB, which stay in the cache until they are used


@dataclass(frozen=True)
class Projection:
    """A projection onto principal components.

    Attributes:
        mean: float32 [dim], of the bank.
        components: float32 [dim, k], one principal component per column.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @np.errstate(invalid="ignore")
    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce vectors to their principal components and their residual norm.

        Args:
            vectors: float32 [n, dim].

        Returns:
            float32 [n, k + 3]: k principal components, the residual norm, the squared norm, and 1.
        """
        centred = vectors - self.mean
        reduced = np.empty((len(vectors), self.components.shape[1] + 3), np.float32)
        components, residual_norm, squared_norm = reduced[:, :-3], reduced[:, -3], reduced[:, -2]
        _multiply(centred, self.components, components)
        np.vecdot(centred, centred, out=squared_norm)
        squared_residual = np.maximum(squared_norm - np.vecdot(components, components), 0)
        np.sqrt(squared_residual + np.float32(_ROUNDING) * squared_norm, out=residual_norm)
        reduced[:, -1] = 1
        return reduced


@dataclass(frozen=True)
class LowerBounds:
    """Lower bounds of the squared distances to the rows of one bank.

    Attributes:
        projection: reduces queries.
        rows: float32 [k + 3, rows], the reduced rows, ready to be multiplied with reduced queries.
    """

    projection: Projection
    rows: NDArray[np.float32]

    @classmethod
    def build(cls, features: NDArray[np.float32]) -> LowerBounds | None:
        """Build the bounds of a bank of float32 [rows, dim]; None if they would rule out too few rows."""
        mean = features.mean(axis=0)
        centred = features.astype(np.float64) - mean
        components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]  # the largest variance first
        rotated = centred @ components
        count = _choose_component_count(rotated)
        if count is None:
            return None
        projection = Projection(mean, components[:, :count].astype(np.float32, order="C"))
        return cls(projection, _reduce_rows(rotated, count))

    def blocks(self, queries: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Compute the bounds to one block of rows after the other. A BLAS arranges each row for its kernel once then.

        With q and b reduced, the product of (q, |q|^2, 1) and (-2b, 1, |b|^2) is |q - b|^2.

        Args:
            queries: float32 [patches, dim].

        Yields:
            The block as a slice of the rows, and float32 [patches, block]. The next block overwrites the array.
        """
        reduced, count = self.projection.project(queries), self.rows.shape[1]
        block_size = min(count, _BOUNDS_PER_BLOCK // max(1, len(queries)) + 1)
        bounds = np.empty(len(queries) * block_size, np.float32)
        for begin in range(0, count, block_size):
            block = slice(begin, min(begin + block_size, count))
            shape = len(queries), block.stop - begin
            yield block, _multiply(reduced, self.rows[:, block], bounds[: shape[0] * shape[1]].reshape(shape))


@np.errstate(invalid="ignore")  # a query with NaN has bounds that are NaN
def _multiply(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.matmul(a, b, out=out)


def _reduce_rows(rotated: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """The right factor of the product, float32 [k + 3, rows]; |q|^2 and |b|^2 are lowered by the rounding error."""
    squared_norm, squared_residual = _squared_norms(rotated, count)
    residual_norm = np.sqrt(squared_residual + _ROUNDING * squared_norm)
    reduced = np.column_stack([rotated[:, :count], residual_norm])
    ones = np.full(len(rotated), 1 - _ROUNDING)
    return np.column_stack([-2 * reduced, ones, squared_norm * (1 - _ROUNDING)]).astype(np.float32).T.copy()


def _squared_norms(rotated: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared norms of the rows, and of their residuals beyond the first components."""
    squared_projection, squared_residual = (
        (columns**2).sum(axis=1) for columns in (rotated[:, :count], rotated[:, count:])
    )
    return squared_projection + squared_residual, squared_residual


def _choose_component_count(rotated: NDArray[np.float64]) -> int | None:
    """The number of components with the least work, estimated on sampled rows; None if brute force is less work."""
    rows, dim = rotated.shape
    sample_size = min(rows, _MAX_SAMPLED_PAIRS // rows + 1, _MAX_SAMPLED_ROWS)
    sample = np.random.default_rng(0).choice(rows, sample_size, replace=False)
    squared_norm = (rotated**2).sum(axis=1)
    norm_sums = squared_norm[sample, None] + squared_norm
    distances = norm_sums - 2 * rotated[sample] @ rotated.T
    distances[np.arange(len(sample)), sample] = np.inf
    nearest = _QUERY_DISTANCE * distances.min(axis=1, keepdims=True)
    smallest_work, best_count = _MAX_WORK * dim * rows, None
    counts = range(_FLOATS_PER_REGISTER - 3, dim, _FLOATS_PER_REGISTER)
    products = np.zeros_like(norm_sums)  # of the first components; each count adds its own to those before
    blocks = itertools.pairwise((0, *counts))
    for (begin, count), residual_norm in zip(blocks, _residual_norms(rotated, counts), strict=True):
        products += rotated[sample, begin:count] @ rotated[:, begin:count].T
        bounds = norm_sums - 2 * (products + np.outer(residual_norm[sample], residual_norm))
        remaining = (bounds <= nearest).sum() / len(sample)
        work = (dim + rows) * (count + 3) + _COST_OF_ONE_ROW * dim * remaining
        if work < smallest_work:
            smallest_work, best_count = work, count
    return best_count


def _residual_norms(rotated: NDArray[np.float64], counts: range) -> NDArray[np.float64]:
    """The norms of the rows beyond the first components, float64 [counts, rows], for several counts of these."""
    beyond = np.add.reduceat(rotated**2, counts, axis=1)  # from each count to the next one
    norms: NDArray[np.float64] = np.sqrt(np.cumsum(beyond[:, ::-1], axis=1)[:, ::-1].T)
    return norms
