"""Lower bounds of the distances between queries and the rows of a memory bank, all of them from one small product.

With P the first k principal components of a bank, a vector x, less the bank's mean, is folded into the k + 1 numbers
(Px, |x - PtPx|): where it lies among the components, and how long the rest of it is. Two rests are no nearer to each
other than their lengths are, so the distance of two folded vectors is never above that of the vectors; the mean and
standard deviation of Hwang, Han and Ahn (2012) are the case of a single component that is given beforehand. It is
little below it where features follow few directions, as those of parts do: of 512 channels some 60 suffice. What is
farther away even by its bound than a row that was measured need not be measured.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

_ROUNDING = 1e-5  # of |q|^2 + |b|^2: more than float32 loses in these sums
_STEP = 16  # numbers of a folded vector, as many as a register holds
_ROUGH = _STEP - 3  # components: with fewer, to write the bounds down would take longer than to compute them
_MOST_SAMPLED, _SAMPLED_PAIRS = 256, 1_000_000
_SCATTERED = 6  # to measure a row by itself costs so many times what it costs in a product of all
_FARTHER = 1.2  # parts with a defect have patches farther away than rows of the bank lie from each other
_WORTH_IT = 0.8  # of the work of looking at everything
_AT_ONCE = 2_000_000  # bounds in one product: 8 MB stay in the cache

GROUPS = 4  # of rows: the count of bounds is a multiple of it


@dataclass
class LowerBounds:
    """Of one bank; every calling thread has an inference request of its own."""

    compiled: openvino.CompiledModel
    rows: int
    components: int
    _of_thread: threading.local = field(default_factory=threading.local)

    def of(self, queries: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Lower bounds of the squared distances, some queries at a time.

        Args:
            queries: float32 [patches, dim].

        Yields:
            which queries, as a slice of them; and float32 [of them, rows and up to `GROUPS` - 1 more that are
            infinitely far away], overwritten by the next.
        """
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        at_once = len(queries) // (len(queries) * self.rows // _AT_ONCE + 1) + 1
        for begin in range(0, len(queries), at_once):
            some = slice(begin, min(begin + at_once, len(queries)))
            yield some, self._of_thread.request.infer([queries[some]], share_inputs=True, share_outputs=True)[0]


@dataclass(frozen=True)
class Prepared:
    """Rough bounds cost little, and are enough to guess neighbours; fine ones leave few rows to be measured."""

    rough: LowerBounds
    fine: LowerBounds


def prepare(features: NDArray[np.float32], streams: int) -> Prepared | None:
    """Prepare a bank.

    Args:
        features: float32 [rows, dim], of the bank.
        streams: how many threads will ask at once.

    Returns:
        None where bounds would rule out too little to be worth their product.
    """
    mean = features.mean(axis=0, keepdims=True)
    centred = features.astype(np.float64) - mean
    turn = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]  # the largest component first
    turned = centred @ turn
    count = _least_work(turned)
    if count is None:
        return None
    rough, fine = (_compiled(mean, turn, turned, components, streams) for components in (_ROUGH, count))
    return Prepared(rough, fine)


def _compiled(
    mean: NDArray[np.float32], turn: NDArray[np.float64], turned: NDArray[np.float64], count: int, streams: int
) -> LowerBounds:
    asked = ops.parameter(openvino.PartialShape([-1, mean.size]), np.float32)
    folded = _folded(ops.subtract(asked, ops.constant(mean)), turn[:, :count].astype(np.float32))
    graph = openvino.Model([ops.matmul(folded, ops.constant(_rows(turned, count)), False, True).output(0)], [asked])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": streams}
    return LowerBounds(openvino.Core().compile_model(graph, "CPU", settings), len(turned), count)


def _folded(centred: openvino.Node, components: NDArray[np.float32]) -> openvino.Node:
    """[queries, k + 3]: (q, |q|^2, 1) with q folded; its product with (-2b, 1, |b|^2) is |q - b|^2."""
    along = ops.constant(np.array([1]))
    placed = ops.matmul(centred, ops.constant(components), False, False)
    whole, within = (ops.reduce_l2(each, along, True) for each in (centred, placed))
    square = ops.multiply(whole, whole)
    beyond = ops.relu(ops.subtract(square, ops.multiply(within, within)))
    rest = ops.sqrt(ops.add(beyond, ops.multiply(square, ops.constant(np.float32(_ROUNDING)))))
    ones = ops.power(square, ops.constant(np.float32(0)))
    return ops.concat([placed, rest, square, ones], 1)


def _rows(turned: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """float32 [a multiple of `GROUPS`, k + 3]: what `_folded` is multiplied with.

    What rounding may add is taken off |q|^2 and |b|^2.
    """
    square, beyond = _squares(turned, count)
    rest = np.sqrt(beyond + _ROUNDING * square)
    folded = np.column_stack([turned[:, :count], rest])
    ones = np.full(len(turned), 1 - _ROUNDING)
    rows = np.column_stack([-2 * folded, ones, square * (1 - _ROUNDING)]).astype(np.float32)
    far_away = np.zeros((-len(rows) % GROUPS, count + 3), np.float32)
    far_away[:, -1] = np.inf
    return np.concatenate([rows, far_away])


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
