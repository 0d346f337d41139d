"""Which rows of a memory bank may hold a nearest neighbour: found on the CPU by a matrix product of 8-bit integers.

|q - b|^2 = |q|^2 + |b|^2 - 2qb, with q and b moved by the bank's mean and turned, which changes no distance: numbers
become small, and no channel is much larger than the others. Then queries and rows are rounded to 8 bits, so the product
is several times as fast as in float32, and its error far smaller than most differences between rows.

Rows are looked at in blocks of 16: a block counts as much as its best row, and whoever asks measures all rows of the
best blocks exactly: of three, and of more where the bank is large. The nearest row is missed only where all of them
seem nearer than it by error alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

BLOCK = 16
_BEST_BLOCKS = 3
_MORE_ROWS = 4096  # for every so many rows one block more: the more rows, the closer are the nearest to each other
_CHUNK = 1024  # rows in one product: its result stays in the cache
_REACH = 1.25  # how far beyond the bank's own largest value a query may lie
_NOWHERE = 1e30
_TINY = 1e-30


@dataclass
class Candidates:
    """Made for one bank and one number of queries; every calling thread has an inference request of its own."""

    compiled: openvino.CompiledModel
    rows_of_block: NDArray[np.int64]
    reach: float
    _of_thread: threading.local = field(default_factory=threading.local)

    def find(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The rows to measure for each query.

        Args:
            queries: float32 [patches, dim].

        Returns:
            int64 [patches, candidates] row numbers, -1 where a block has fewer rows; and bool [patches], where a query
            lies so far out that 8 bits do not hold it, and its rows mean nothing.
        """
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        blocks, largest = self._of_thread.request.infer([queries], share_inputs=True, share_outputs=True).values()
        return self.rows_of_block[blocks.T].reshape(len(queries), -1), largest > self.reach


def build(features: NDArray[np.float32], queries: int, streams: int) -> Candidates:
    """Prepare a bank.

    Args:
        features: float32 [rows, dim], of the bank; at least as many rows as three blocks have.
        queries: how many there will be at once.
        streams: how many threads will ask at once.
    """
    mean = features.mean(axis=0, keepdims=True)
    outer, inner = _turns(features.shape[1])
    turned = outer @ (features - mean).reshape(-1, len(outer), len(inner)) @ inner
    centred = np.pad(turned.reshape(features.shape), ((0, -len(features) % BLOCK), (0, 0)))
    squares = np.einsum("ij,ij->i", centred, centred)
    squares[len(features) :] = _NOWHERE
    reach = float(np.maximum(np.abs(centred).max() * _REACH, _TINY))
    asked = ops.parameter([queries, features.shape[1]], np.float32)
    turned_mean = (outer @ mean.reshape(-1, len(outer), len(inner)) @ inner).reshape(mean.shape)
    moved = ops.subtract(_turned(asked, outer, inner, queries), ops.constant(turned_mean))
    ends = [ops.constant(np.float32(end)) for end in (-reach, reach)]
    rounded = ops.fake_quantize(moved, *ends, *ends, 256)
    minima = [
        _block_minima(rounded, centred[first : first + _CHUNK], squares[first : first + _CHUNK], queries)
        for first in range(0, len(centred), _CHUNK)
    ]
    blocks = ops.constant(np.int64(_BEST_BLOCKS + len(features) // _MORE_ROWS))
    turned_minima = ops.transpose(ops.concat(minima, 1), ops.constant(np.array([1, 0])))  # the queries side by side
    best = ops.topk(turned_minima, blocks, 0, "min", "none")
    largest = ops.reduce_max(ops.abs(moved), ops.constant(np.array([1])), False)
    graph = openvino.Model([best.output(1), largest.output(0)], [asked])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": streams}
    rows = np.append(np.arange(len(features)), np.full(len(centred) - len(features), -1)).reshape(-1, BLOCK)
    return Candidates(openvino.Core().compile_model(graph, "CPU", settings), rows, reach)


def _turns(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two orthogonal matrices whose Kronecker product turns `dim` channels, at the cost of their sizes' sum only."""
    height = max(divisor for divisor in range(1, int(dim**0.5) + 1) if dim % divisor == 0)
    rng = np.random.default_rng(0)
    outer, inner = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (height, dim // height))
    return outer.astype(np.float32), inner.astype(np.float32)


def _turned(
    queries: openvino.Node, outer: NDArray[np.float32], inner: NDArray[np.float32], count: int
) -> openvino.Node:
    sides = ops.constant(np.array([count, len(outer), len(inner)]))
    within = ops.matmul(ops.reshape(queries, sides, False), ops.constant(inner), False, False)
    whole = ops.matmul(ops.constant(outer[None]), within, False, False)
    return ops.reshape(whole, ops.constant(np.array([count, -1])), False)


def _block_minima(
    queries: openvino.Node, rows: NDArray[np.float32], squares: NDArray[np.float32], count: int
) -> openvino.Node:
    """[count, blocks] of |b|^2 - 2qb. OpenVINO multiplies in integers what it sees rounded to them on both sides.

    The first rows of all blocks stand first, then the second ones: whole vectors are compared, which is fast.
    """
    order = np.arange(len(rows)).reshape(-1, BLOCK).T.ravel()
    rows, squares = rows[order], squares[order]
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), _TINY) / 127
    integers = ops.convert(ops.constant(np.round(rows / scale).astype(np.int8)), np.float32)
    weights = ops.multiply(integers, ops.constant((-2 * scale).astype(np.float32)))
    distances = ops.add(ops.matmul(queries, weights, False, True), ops.constant(squares[None].astype(np.float32)))
    blocks = ops.constant(np.array([count, BLOCK, len(rows) // BLOCK]))
    return ops.reduce_min(ops.reshape(distances, blocks, False), ops.constant(np.array([1])), False)
