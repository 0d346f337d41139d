"""Distances of the patches of one image to a memory bank, computed only where they are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.search.exact_search import Search

_FIRST_SEARCH = 4  # the number of patches to search first, as a multiple of the number of largest distances


@dataclass
class LazyDistances:
    """Squared L2 distances of patches to their nearest neighbours, upper bounds at first.

    A score needs the largest distances only. A heat map needs all of them.

    Attributes:
        search: the search in the memory bank.
        patches: float32 [n, dim].
        upper_bounds: float32 [n], replaced by the distances as they become known.
        exact: bool [n], true for the patches whose distance is known.
    """

    search: Search
    patches: NDArray[np.float32]
    upper_bounds: NDArray[np.float32]
    exact: NDArray[np.bool_]

    @classmethod
    def start(cls, search: Search, patches: NDArray[np.float32]) -> LazyDistances:
        """Start with upper bounds, or with the distances if the search has no upper bounds.

        Args:
            search: the search in the memory bank.
            patches: float32 [n, dim].
        """
        upper_bounds = search.upper_bounds(patches)
        if upper_bounds is None:
            return cls(search, patches, search.nearest(patches)[0], np.ones(len(patches), np.bool_))
        return cls(search, patches, upper_bounds, np.zeros(len(patches), np.bool_))

    def largest(self, count: int) -> NDArray[np.float32]:
        """The `count` largest distances in any order; all of them if there are fewer. NaN counts as the largest.

        The smallest of `count` exact distances is a lower bound of the result. A patch whose upper bound is not above
        it need not be searched, or not any further.
        """
        self._search(_largest_indices(self.upper_bounds, _FIRST_SEARCH * count))
        largest_exact = _largest_indices(np.where(self.exact, self.upper_bounds, 0), count)
        lower_bound = self.upper_bounds[largest_exact].min()
        self._search(np.flatnonzero(self.upper_bounds > lower_bound), float(lower_bound))
        return self.upper_bounds[_largest_indices(self.upper_bounds, count)]

    def all(self) -> NDArray[np.float32]:
        """The distance of every patch, float32 [n]; not finite for a patch that is not finite."""
        self._search(np.arange(len(self.patches)))
        return self.upper_bounds

    def _search(self, indices: NDArray[np.int64], enough: float = -np.inf) -> None:
        """Replace upper bounds by distances, or by upper bounds that are at most `enough`."""
        unknown = indices[~self.exact[indices]]
        if unknown.size:
            found, _ = self.search.nearest(self.patches[unknown], enough, self.upper_bounds[unknown])
            self.upper_bounds[unknown] = found
            self.exact[unknown] = ~(found <= enough)


def _largest_indices(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The indices of the largest values; numpy counts NaN among them."""
    return np.argpartition(values, -min(count, values.size))[-count:]
