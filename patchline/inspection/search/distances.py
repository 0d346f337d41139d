"""How far the patches of one image are from a memory bank, found no sooner than somebody asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.search.exact_search import Search

_LIKELY = 4  # times as many patches as are wanted are searched first


@dataclass
class Distances:
    """Squared L2 distances of float32 `patches` [n, dim] to their nearest neighbours.

    `at_most` is float32 [n] and begins as upper bounds; what was searched is `exact`. A score needs few of them, which
    `largest` finds; only a heat map needs them `all`.
    """

    search: Search
    patches: NDArray[np.float32]
    at_most: NDArray[np.float32]
    exact: NDArray[np.bool_]

    def largest(self, count: int) -> NDArray[np.float32]:
        """The `count` largest, in no order; all where there are fewer. What is not a number comes first.

        The least of as many that are exact is a lower bound of all of them: what is at most that need not be searched.
        """
        self._search(_largest(self.at_most, _LIKELY * count))
        known = _largest(np.where(self.exact, self.at_most, 0), count)
        self._search(np.flatnonzero(self.at_most > self.at_most[known].min()))
        return self.at_most[_largest(self.at_most, count)]

    def all(self) -> NDArray[np.float32]:
        """float32 [n], of every patch; a patch that is not a number has a distance that is none either."""
        self._search(np.arange(len(self.patches)))
        return self.at_most

    def _search(self, patches: NDArray[np.int64]) -> None:
        unknown = patches[~self.exact[patches]]
        if unknown.size:
            self.at_most[unknown] = self.search.nearest(self.patches[unknown])[0]
            self.exact[unknown] = True


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Where the largest lie; numpy counts what is not a number among them."""
    return np.argpartition(values, -min(count, values.size))[-count:]


def of(patches: NDArray[np.float32], search: Search) -> Distances:
    """Of float32 [n, dim]; exact from the beginning where upper bounds are of no use."""
    at_most = search.near_a_guess(patches)
    if at_most is None:
        return Distances(search, patches, search.nearest(patches)[0], np.ones(len(patches), np.bool_))
    return Distances(search, patches, at_most, np.zeros(len(patches), np.bool_))
