"""Lower bounds of the distances between queries and the rows of a memory bank, all of them from one small product.

With P the first k principal components of a bank, a vector x, less the bank's mean, is folded into the k + 1 numbers
(Px, |x - PtPx|): where it lies among the components, and how long the rest of it is. Two rests are no nearer to each
other than their lengths are, so the distance of two folded vectors is never above that of the vectors; the mean and
standard deviation of Hwang, Han and Ahn (2012) are the case of a single component that is given beforehand. It is
little below it where features follow few directions, as those of parts do: of 512 channels some 60 suffice. What is
farther away even by its bound than a row that was measured need not be measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-5  # of |q|^2 + |b|^2: more than float32 loses in these sums
_STEP = 16  # numbers of a folded vector, as many as a register holds
_MOST_SAMPLED, _SAMPLED_PAIRS = 256, 1_000_000
_SCATTERED = 6  # to measure a row by itself costs so many times what it costs in a product of all
_FARTHER = 1.2  # parts with a defect have patches farther away than rows of the bank lie from each other
_WORTH_IT = 0.8  # of the work of looking at everything
_AT_ONCE = 1_000_000  # bounds in one product: 4 MB stay in the cache until they are looked at


@dataclass(frozen=True)
class Folding:
    """From `dim` numbers to k + 1: float32 `mean` [dim] and `components` [dim, k]."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @np.errstate(invalid="ignore")
    def of(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [vectors, k + 3]: the folded vectors, and their squared lengths and 1, which bounds are made with."""
        centred = vectors - self.mean
        folded = np.empty((len(vectors), self.components.shape[1] + 3), np.float32)
        placed, rest, square = folded[:, :-3], folded[:, -3], folded[:, -2]
        _product(centred, self.components, placed)
        np.vecdot(centred, centred, out=square)
        beyond = np.maximum(square - np.vecdot(placed, placed), 0)
        np.sqrt(beyond + np.float32(_ROUNDING) * square, out=rest)
        folded[:, -1] = 1
        return folded


@dataclass(frozen=True)
class LowerBounds:
    """Of one bank: how vectors are folded, and its `rows`, folded: float32 [k + 3, rows]."""

    folding: Folding
    rows: NDArray[np.float32]

    def of(self, queries: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Lower bounds of the squared distances, some queries at a time.

        With q and b folded, the product of (q, |q|^2, 1) with (-2b, 1, |b|^2) is |q - b|^2.

        Args:
            queries: float32 [patches, dim].

        Yields:
            which queries, as a slice of them; and float32 [of them, rows], overwritten by the next.
        """
        folded, at_once = self.folding.of(queries), _AT_ONCE // self.rows.shape[1] + 1
        bounds = np.empty((min(at_once, len(queries)), self.rows.shape[1]), np.float32)
        for begin in range(0, len(queries), at_once):
            some = slice(begin, min(begin + at_once, len(queries)))
            yield some, _product(folded[some], self.rows, bounds[: some.stop - begin])


def prepare(features: NDArray[np.float32]) -> LowerBounds | None:
    """Prepare a bank of float32 [rows, dim]; None where bounds would rule out too little to be worth their product."""
    mean = features.mean(axis=0)
    centred = features.astype(np.float64) - mean
    turn = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]  # the largest component first
    turned = centred @ turn
    count = _least_work(turned)
    if count is None:
        return None
    return LowerBounds(Folding(mean, turn[:, :count].astype(np.float32, order="C")), _rows(turned, count))


@np.errstate(invalid="ignore")  # a query that is not a number has bounds that are none
def _product(one: NDArray[np.float32], other: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.matmul(one, other, out=out)


def _rows(turned: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """float32 [k + 3, rows]: what is multiplied with folded queries.

    What rounding may add is taken off |q|^2 and |b|^2.
    """
    square, beyond = _squares(turned, count)
    rest = np.sqrt(beyond + _ROUNDING * square)
    folded = np.column_stack([turned[:, :count], rest])
    ones = np.full(len(turned), 1 - _ROUNDING)
    return np.column_stack([-2 * folded, ones, square * (1 - _ROUNDING)]).astype(np.float32).T.copy()


def _squares(turned: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared lengths of whole rows, and of what is beyond the first components."""
    within, beyond = ((each**2).sum(axis=1) for each in (turned[:, :count], turned[:, count:]))
    return within + beyond, beyond


def _least_work(turned: NDArray[np.float64]) -> int | None:
    """How many components make the least work, tried on rows of the bank; None where looking at all rows makes less."""
    rows, dim = turned.shape
    sample = np.random.default_rng(0).choice(rows, min(rows, _SAMPLED_PAIRS // rows + 1, _MOST_SAMPLED), replace=False)
    square = (turned**2).sum(axis=1)
    whole = square[sample, None] + square
    distances = whole - 2 * turned[sample] @ turned.T
    distances[np.arange(len(sample)), sample] = np.inf
    nearest = _FARTHER * distances.min(axis=1, keepdims=True)
    least, best = _WORTH_IT * dim * rows, None
    for count in range(_STEP - 3, dim, _STEP):
        rest = np.sqrt(_squares(turned, count)[1])
        folded = np.column_stack([turned[:, :count], rest])
        possible = (whole - 2 * folded[sample] @ folded.T <= nearest).sum() / len(sample)
        work = (dim + rows) * (count + 3) + _SCATTERED * dim * possible
        if work < least:
            least, best = work, count
    return best
