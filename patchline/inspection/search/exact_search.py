"""Exact nearest neighbours among the features of a memory bank. The only file that uses faiss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from patchline.inspection.search.lower_bounds import LowerBounds, Projection

faiss.cvar.distance_compute_blas_threshold = 1_000  # queries * dim; the default suits many threads (faiss issue 5109)
# faiss's blocks of distances: with its 4,096 queries they are 16 MB, after which malloc keeps 32 MB that are free.
faiss.cvar.distance_compute_blas_query_bs = 1_024
_MIN_ROWS_FOR_PRUNING = 512  # below, brute force is as fast
_CANDIDATE_GROUPS = 5  # groups of rows, one candidate from each
_CANDIDATE_COMPONENTS = 16  # faiss has a kernel for vectors of up to 16 numbers that writes no distances to memory
_FLOATS_PER_CACHE_LINE = 16
_PAIRS_PER_BATCH = 500_000
_MAX_REMAINING = 1 / 16  # of all distances: to compute more of them one by one takes as long as brute force


@dataclass(frozen=True)
class CandidateSearch:
    """Finds rows that are probably near a query: the nearest row of each group, by a few principal components.

    Attributes:
        components: the first principal components, one per column, float32 [dim, k].
        offset: the components of the mean of the bank, float32 [k].
        rows: the components of the rows of the bank minus its mean, in order, float32 [rows, k].
    """

    components: NDArray[np.float32]
    offset: NDArray[np.float32]
    rows: NDArray[np.float32]

    @classmethod
    def build(cls, centred: NDArray[np.float32], projection: Projection) -> CandidateSearch:
        """Build the search for float32 [rows, dim], a bank minus its mean, and the projection of that bank."""
        return cls.of_rows(centred @ _first_components(projection), projection)

    @classmethod
    def of_rows(cls, rows: NDArray[np.float32], projection: Projection) -> CandidateSearch:
        """Build the search from the rows of another one, and the projection of its bank."""
        components = _first_components(projection)
        return cls(components, projection.mean @ components, rows)

    @np.errstate(invalid="ignore")  # a query with NaN has candidates that are as good as any
    def find(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        """The candidates of each query of float32 [queries, dim]: int64 [queries, groups], row numbers."""
        reduced = queries @ self.components - self.offset
        cache_lines = -(-len(self.rows) // _CANDIDATE_GROUPS // _FLOATS_PER_CACHE_LINE)
        # An odd number of cache lines: with an even one, all groups would fall into the same part of the cache.
        group_size = _FLOATS_PER_CACHE_LINE * (cache_lines | 1)
        begins = range(0, len(self.rows), group_size)
        found = [begin + _nearest_row(reduced, self.rows[begin : begin + group_size]) for begin in begins]
        return np.stack(found, axis=1)


@dataclass(frozen=True)
class _Nearest:
    """The nearest rows that are known so far: float32 [queries] squared distances, int64 [queries] row numbers."""

    distances: NDArray[np.float32]
    rows: NDArray[np.int64]

    @np.errstate(invalid="ignore")  # the distance of a query with NaN stays NaN
    def keep(self, query_of_pair: NDArray[np.int64], distances: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Take what is nearer of pairs of a query and a row. A query may have several."""
        np.minimum.at(self.distances, query_of_pair, distances)
        nearest = distances == self.distances[query_of_pair]
        self.rows[query_of_pair[nearest]] = rows[nearest]


@dataclass(frozen=True)
class Search:
    """A nearest-neighbour search in a memory bank, by brute force or with pruning.

    faiss gets the features minus their mean, because it computes |q|^2 + |b|^2 - 2qb, which loses digits if the norms
    are large. The distances that a search returns are sums of squared differences. The arrays are only read: they may
    be a file that several processes have mapped (see `search_arrays`).

    Attributes:
        features: float32 [rows, dim].
        mean: float32 [dim], of the features.
        centred: float32 [rows, dim], the features minus their mean.
        lower_bounds: rule out most rows; None for brute force.
        candidates: give upper bounds; None for brute force.
    """

    features: NDArray[np.float32]
    mean: NDArray[np.float32]
    centred: NDArray[np.float32]
    lower_bounds: LowerBounds | None = None
    candidates: CandidateSearch | None = None

    def __str__(self) -> str:
        rows, dim = self.features.shape
        if self.lower_bounds is None:
            return f"{rows} patches, searched by faiss"
        count = self.lower_bounds.projection.components.shape[1]
        return f"{rows} patches, searched by {count} of {dim} components, then faiss"

    def nearest(
        self, queries: NDArray[np.float32], enough: float = -np.inf, limits: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest row of each query.

        Args:
            queries: float32 [patches, dim].
            enough: a squared distance. For a query with a row that is not farther, another such row may be found.
            limits: float32 [patches], the `upper_bounds` of the queries, if they are known already. A query whose limit
                is enough may get any row number.

        Returns:
            float32 [patches] squared L2 distances, and int64 [patches] row numbers. The distance of a query that is
            not finite is not finite either.
        """
        if self.lower_bounds is None:
            return self._nearest_by_brute_force(queries)
        distances = np.full(len(queries), np.inf, np.float32) if limits is None else limits.copy()
        found, every = _Nearest(distances, np.zeros(len(queries), np.int64)), np.arange(len(queries))
        for block, bounds in self.lower_bounds.blocks(queries):
            # The row with the smallest bound of a part of the bank is seldom nearer than a limit.
            if limits is None or enough > -np.inf or bounds.shape[1] == len(self.features):
                rows = block.start + bounds.argmin(axis=1)
                found.keep(every, self._squared_distances(queries, every, rows), rows)
            self._search_remaining(queries, block, bounds, enough, found)
        return found.distances, found.rows

    def upper_bounds(self, queries: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Upper bounds of the distances that `nearest` finds: the distances to a few candidates.

        Args:
            queries: float32 [patches, dim].

        Returns:
            float32 [patches], squared, not finite for a query that is not finite. None for brute force, where bounds
            would save nothing.
        """
        if self.candidates is None:
            return None
        rows = self.candidates.find(queries)
        query_of_pair = np.repeat(np.arange(len(queries)), rows.shape[1])
        distances = self._squared_distances(queries, query_of_pair, rows.ravel())
        smallest: NDArray[np.float32] = distances.reshape(rows.shape).min(axis=1)
        return smallest

    def _nearest_by_brute_force(
        self, queries: NDArray[np.float32], block: slice = slice(None)
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        neighbours = (block.start or 0) + _nearest_row(queries - self.mean, self.centred[block])
        return self._squared_distances(queries, np.arange(len(queries)), neighbours), neighbours

    def _search_remaining(
        self,
        queries: NDArray[np.float32],
        block: slice,
        bounds: NDArray[np.float32],
        enough: float,
        found: _Nearest,
    ) -> None:
        """Compute the distance to each row of a block whose lower bound is not above the distance known so far.

        Queries with too many such rows, because they resemble nothing in the bank, go through brute force.

        Args:
            queries: float32 [queries, dim].
            block: of the rows.
            bounds: float32 [queries, block], lower bounds of the squared distances.
            enough: as in `nearest`.
            found: so far, gets what is nearer.
        """
        farther = np.flatnonzero(~(found.distances <= enough))  # and what is not finite
        if farther.size < len(queries):
            bounds = bounds[farther]
        remaining = bounds <= found.distances[farther, None]
        if np.count_nonzero(remaining) > remaining.size * _MAX_REMAINING:
            unpruned = np.count_nonzero(remaining, axis=1) > remaining.shape[1] * _MAX_REMAINING
            remaining[unpruned] = False
            far = farther[unpruned]
            found.keep(far, *self._nearest_by_brute_force(queries[far], block))
        some, rows = np.divmod(np.flatnonzero(remaining), remaining.shape[1])
        query_of_pair, rows = farther[some], block.start + rows
        found.keep(query_of_pair, self._squared_distances(queries, query_of_pair, rows), rows)

    def _squared_distances(
        self, queries: NDArray[np.float32], query_of_pair: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """float32 [pairs]: the squared distance of each pair of a query and a row, by their numbers."""
        return _measure(queries, query_of_pair, self.features, rows)


def exact_nearest(
    queries: NDArray[np.float32], features: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Measure every distance, where `Search.nearest` measures that of the row that its index finds.

    Rows that are equally near but for rounding can be mistaken for each other by the index. Here, the distance to
    several rows is the smallest of the distances to each of them, to the last digit.

    Args:
        queries: float32 [patches, dim].
        features: float32 [rows, dim].

    Returns:
        float32 [patches] squared L2 distances, and int64 [patches] row numbers.
    """
    queries, features = np.ascontiguousarray(queries), np.ascontiguousarray(features)
    distances, nearest = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
    batch, rows = max(1, _PAIRS_PER_BATCH // len(features)), np.arange(len(features))
    for start in range(0, len(queries), batch):
        numbers = np.arange(start, min(start + batch, len(queries)))
        query_of_pair, row_of_pair = np.repeat(numbers, len(rows)), np.tile(rows, len(numbers))
        pairs = _measure(queries, query_of_pair, features, row_of_pair).reshape(len(numbers), len(rows))
        nearest[numbers] = pairs.argmin(axis=1)
        distances[numbers] = pairs.min(axis=1)
    return distances, nearest


def _first_components(projection: Projection) -> NDArray[np.float32]:
    return projection.components[:, :_CANDIDATE_COMPONENTS].copy()


def _nearest_row(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 [queries]: the row that faiss finds for each query; 0 for a query with NaN."""
    nearest: NDArray[np.int64] = faiss.knn(queries, rows, 1)[1][:, 0]
    return np.maximum(nearest, 0)


def _measure(
    queries: NDArray[np.float32],
    query_of_pair: NDArray[np.int64],
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """float32 [pairs]: the squared distance of each pair of a query and a row, by their numbers."""
    distances = np.empty(len(query_of_pair), np.float32)
    arrays = (queries, query_of_pair, features, rows, distances)
    pointers = (faiss.swig_ptr(array) for array in arrays)
    faiss.pairwise_indexed_L2sqr(queries.shape[1], len(query_of_pair), *pointers)  # type: ignore[attr-defined]
    return distances


def brute_force(features: NDArray[np.float32]) -> Search:
    """A search in float32 [rows, dim] that compares each query with every row."""
    mean = features.mean(axis=0)
    return Search(features, mean, features - mean)


def with_pruning(features: NDArray[np.float32]) -> Search:
    """A faster search in float32 [rows, dim], which takes about a second to build.

    It is a `brute_force` search if the bank is small, or if lower bounds would rule out too few rows.
    """
    search = brute_force(features)
    if len(features) < _MIN_ROWS_FOR_PRUNING:
        return search
    bounds = LowerBounds.build(features)
    if bounds is None:
        return search
    return replace(search, lower_bounds=bounds, candidates=CandidateSearch.build(search.centred, bounds.projection))


def encode_index(features: NDArray[np.float32]) -> bytes:
    """The faiss index file of float32 [rows, dim]."""
    return faiss.serialize_index(flat_index(features)).tobytes()


def flat_index(features: NDArray[np.float32]) -> faiss.IndexFlatL2:
    """The brute-force index of faiss over float32 [rows, dim]."""
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return index


def set_threads(count: int) -> None:
    """Set the number of threads of a search. Each lane calls this, because OpenMP has a setting per calling thread."""
    faiss.omp_set_num_threads(count)
    threadpoolctl.threadpool_limits(count, "blas")  # for the products of numpy, in the whole process


def blas_kernels() -> tuple[str, ...]:
    """The CPU kernels that numpy and faiss use for matrix products, such as `numpy:SkylakeX`.

    Each package brings its own BLAS, in its own folder. Those of OpenCV and scipy are not used here. A BLAS that does
    not know a CPU takes kernels for an older one.
    """
    libraries = (library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas")
    kernels = (
        (Path(library["filepath"]).parent.name, library.get("architecture", library["internal_api"]))
        for library in libraries
    )
    used = ((folder, kernel) for folder, kernel in kernels if not folder.startswith(("opencv", "scipy")))
    return tuple(sorted({f"{folder.removesuffix('.libs')}:{kernel}" for folder, kernel in used}))
