"""Nearest neighbours among the features of a memory bank: exact, and measured by their differences. Only faiss user."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from inspection import lower_bounds

_WORTH_PREPARING = 512  # rows: below, faiss is as fast
_TOO_MANY = 1 / 16  # of all distances: to measure so many one by one takes as long as faiss takes for all


@dataclass(frozen=True)
class Search:
    """Over float32 features [rows, dim]. faiss looks at every row; lower bounds, where there are any, spare it most."""

    features: NDArray[np.float32]
    index: faiss.IndexFlatL2
    bounds: lower_bounds.LowerBounds | None = None

    def __str__(self) -> str:
        rows, dim = self.features.shape
        by = f"{self.bounds.components} of {dim} components, then faiss" if self.bounds else "faiss"
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
            found = self._of_possible(queries[some], least)
            if found is None:
                return self._of_all(queries)
            distances[some], neighbours[some] = found
        return distances, neighbours

    def _of_all(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Found by faiss, measured anew: its |q|^2 + |b|^2 - 2qb loses digits where features have a large mean."""
        neighbours = np.maximum(self.index.search(queries, 1)[1][:, 0], 0)  # -1 where a query is not a number
        return self._measured(queries, np.arange(len(queries)), neighbours), neighbours

    def _of_possible(
        self, queries: NDArray[np.float32], least: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Measures for each query the row of the smallest bound, then all whose bounds are not above that distance.

        None where that would be too many: these queries are like nothing in the bank.
        """
        neighbours = least.argmin(axis=1)
        distances = self._measured(queries, np.arange(len(queries)), neighbours)
        possible = least <= distances[:, None]
        if np.count_nonzero(possible) > possible.size * _TOO_MANY:
            return None
        asked, rows = np.divmod(np.flatnonzero(possible), len(self.features))
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


def over(features: NDArray[np.float32]) -> Search:
    """A search over float32 [rows, dim]."""
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return Search(features, index)


def prepared(features: NDArray[np.float32], queries: int, streams: int) -> Search:
    """A search that is faster for so many queries at once, from so many threads; it takes a second to make."""
    plain = over(features)
    if len(features) < _WORTH_PREPARING:
        return plain
    return Search(features, plain.index, lower_bounds.build(features, queries, streams))


def encode(features: NDArray[np.float32]) -> bytes:
    """The bytes of an index file of float32 [rows, dim], as faiss writes it."""
    return faiss.serialize_index(over(features).index).tobytes()


def use_threads(count: int) -> None:
    """How many threads a search takes. OpenMP keeps this per calling thread: each lane says it for itself."""
    faiss.omp_set_num_threads(count)
