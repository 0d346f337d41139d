"""Nearest neighbours among the features of a memory bank: exact, and measured by their differences. Only faiss user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from patchline.inspection.search import lower_bounds

faiss.cvar.distance_compute_blas_threshold = 1_000  # queries * dim; its own is for many threads (faiss issue 5109)
_WORTH_PREPARING = 512  # rows: below, faiss is as fast
_GROUPS = 5  # of rows, of which each suggests its nearest
_GUESS = 13  # components: for vectors of up to 16 numbers faiss has a kernel that writes no distances down
_LINE = 16  # numbers of a line of the cache
_TOO_MANY = 1 / 16  # of all distances: to measure so many one by one takes as long as faiss takes for all


@dataclass(frozen=True)
class Guesses:
    """Some rows that are likely to be near a query: of each group of rows the nearest, by their folded vectors.

    The `groups` hold all rows, one group after the other, as float32 [of the group, k + 1].
    """

    folding: lower_bounds.Folding
    groups: tuple[faiss.IndexFlatL2, ...]

    @classmethod
    def among(cls, features: NDArray[np.float32], folding: lower_bounds.Folding) -> Guesses:
        """Of a bank of float32 [rows, dim] that may be folded so."""
        short = lower_bounds.Folding(folding.mean, folding.components[:, :_GUESS].copy())
        lines = -(-len(features) // _GROUPS // _LINE)
        each = _LINE * (lines | 1)  # an even number of lines would meet in a part of the cache
        groups = np.split(short.of(features)[:, :-2], range(each, len(features), each))
        return cls(short, tuple(flat_index(group) for group in groups))

    def of(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        """int64 [queries, groups]: row numbers."""
        folded = np.ascontiguousarray(self.folding.of(queries)[:, :-2])
        rows, begin = np.zeros((len(queries), len(self.groups)), np.int64), 0
        for number, group in enumerate(self.groups):
            found = group.search(folded, 1)[1][:, 0]
            rows[:, number] = begin + np.maximum(found, 0)  # -1 where a query is not a number
            begin += group.ntotal
        return rows


@dataclass(frozen=True)
class Search:
    """Over float32 features [rows, dim]. faiss looks at every row; lower bounds, where there are any, spare it most.

    The index holds the features less their mean: faiss computes |q|^2 + |b|^2 - 2qb, which loses digits otherwise.
    """

    features: NDArray[np.float32]
    mean: NDArray[np.float32]
    index: faiss.IndexFlatL2
    bounds: lower_bounds.LowerBounds | None = None
    guesses: Guesses | None = None

    def __str__(self) -> str:
        rows, dim = self.features.shape
        by = f"{self.bounds.folding.components.shape[1]} of {dim} components, then faiss" if self.bounds else "faiss"
        return f"{rows} patches, searched by {by}"

    def nearest(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest row to each query.

        Args:
            queries: float32 [patches, dim].

        Returns:
            float32 [patches] squared L2 distances, int64 [patches] row numbers. A query that is not a number has a
            distance that is none either.
        """
        if self.bounds is None:
            return self._of_all(queries)
        distances, neighbours = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
        for some, least in self.bounds.of(queries):
            distances[some], neighbours[some] = self._of_possible(queries[some], least)
        return distances, neighbours

    def near_a_guess(self, queries: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Upper bounds of the distances that `nearest` finds, for a fraction of its work; None where it is no less.

        A query is no farther from its nearest row than from any other.

        Returns:
            float32 [patches], squared; not a number where a query is none.
        """
        if self.guesses is None:
            return None
        rows = self.guesses.of(queries)
        asked = np.repeat(np.arange(len(queries)), rows.shape[1])
        least: NDArray[np.float32] = self._measured(queries, asked, rows.ravel()).reshape(rows.shape).min(axis=1)
        return least

    def _of_all(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Found by faiss, and measured anew."""
        found = self.index.search(queries - self.mean, 1)[1][:, 0]
        neighbours = np.maximum(found, 0)  # -1 where a query is not a number
        return self._measured(queries, np.arange(len(queries)), neighbours), neighbours

    def _of_possible(
        self, queries: NDArray[np.float32], least: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Measures for each query the row of the least bound, then all whose bounds are not above its distance.

        Queries for which these are too many, since they are like nothing in the bank, are left to faiss.
        """
        neighbours = least.argmin(axis=1)
        distances = self._measured(queries, np.arange(len(queries)), neighbours)
        possible = least <= distances[:, None]
        if np.count_nonzero(possible) > possible.size * _TOO_MANY:
            lost = np.count_nonzero(possible, axis=1) > possible.shape[1] * _TOO_MANY
            possible[lost] = False
            distances[lost], neighbours[lost] = self._of_all(queries[lost])
        asked, rows = np.divmod(np.flatnonzero(possible), possible.shape[1])
        measured = self._measured(queries, asked, rows)
        np.minimum.at(distances, asked, measured)
        nearest = measured == distances[asked]
        neighbours[asked[nearest]] = rows[nearest]
        return distances, neighbours

    def _measured(
        self, queries: NDArray[np.float32], asked: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """float32 [pairs]: squared distances of the queries `asked` to `rows`."""
        distances = np.empty(len(asked), np.float32)
        pointers = (faiss.swig_ptr(each) for each in (queries, asked, self.features, rows, distances))
        faiss.pairwise_indexed_L2sqr(queries.shape[1], len(asked), *pointers)  # type: ignore[attr-defined]
        return distances


def brute_force(features: NDArray[np.float32]) -> Search:
    """A search over float32 [rows, dim]."""
    mean = features.mean(axis=0)
    return Search(features, mean, flat_index(features - mean))


def with_pruning(features: NDArray[np.float32]) -> Search:
    """A search that is faster; it takes a second to make."""
    plain = brute_force(features)
    if len(features) < _WORTH_PREPARING:
        return plain
    bounds = lower_bounds.prepare(features)
    if bounds is None:
        return plain
    return replace(plain, bounds=bounds, guesses=Guesses.among(features, bounds.folding))


def encode_index(features: NDArray[np.float32]) -> bytes:
    """The bytes of an index file of float32 [rows, dim], as faiss writes it."""
    return faiss.serialize_index(flat_index(features)).tobytes()


def flat_index(features: NDArray[np.float32]) -> faiss.IndexFlatL2:
    """faiss's own index of float32 [rows, dim], as they are."""
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return index


def set_threads(count: int) -> None:
    """How many threads a search takes: each lane says it for itself, since OpenMP keeps it per calling thread."""
    faiss.omp_set_num_threads(count)
    threadpoolctl.threadpool_limits(count, "blas")  # numpy's products: of the whole process


def blas_kernels() -> tuple[str, ...]:
    """What the products of numpy and faiss are made for: a BLAS may know less of a CPU than it can do.

    Each package brings a BLAS of its own, in a folder of its own; those of OpenCV and scipy are not used here.
    """
    found = (each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas")
    named = ((Path(each["filepath"]).parent.name, each.get("architecture", each["internal_api"])) for each in found)
    used = ((folder, kernel) for folder, kernel in named if not folder.startswith(("opencv", "scipy")))
    return tuple(sorted({f"{folder.removesuffix('.libs')}:{kernel}" for folder, kernel in used}))
