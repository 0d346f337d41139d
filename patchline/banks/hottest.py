"""The hottest patches of held-out images, kept with their features: their distances follow when rows come or go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchline.banks.held_out import LARGEST
from patchline.inspection.search import exact_search

KEPT = 2 * LARGEST  # patches of an image. New rows may cool half of them before the image must be looked at again
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """One image, compared with a memory bank without its group.

    Attributes:
        features: float32 [kept, dim], of its hottest patches; fewer than 32 if the image has fewer.
        distances: float32 [kept], their squared distances to the nearest row, in descending order, to the last digit.
        others: no other patch of the image is farther from the bank than this; -1 if there is no other.
        leans_on: int64, the numbers of the images whose rows are the nearest of some patch, in ascending order.
    """

    features: Features
    distances: NDArray[np.float32]
    others: float
    leans_on: NDArray[np.int64]

    @property
    def is_exact(self) -> bool:
        """True if the largest distances, as many as a bank keeps, are those of these patches."""
        count = min(LARGEST, self.distances.size)
        return self.others < 0 or bool(self.distances[count - 1] >= self.others)

    @classmethod
    def by(cls, patches: Features, bank: Features, images: NDArray[np.integer]) -> tuple[Judged, NDArray[np.float32]]:
        """Compare an image with a bank.

        Args:
            patches: float32 [patches, dim], of the image.
            bank: float32 [rows, dim].
            images: int [rows], the number of the image that each row came from.

        Returns:
            The image with its hottest patches, and float32 [patches], the distances of all its patches.
        """
        distances, nearest = exact_search.brute_force(bank).nearest(patches)
        for kept in (KEPT, len(patches)):  # all of them, if rounding hides which ones are the hottest
            hottest = np.argsort(-distances, kind="stable")[:kept]
            exact, exact_nearest = exact_search.exact_nearest(patches[hottest], bank)
            distances[hottest], nearest[hottest] = exact, exact_nearest
            order = np.argsort(-distances, kind="stable")
            judged = cls(
                patches[order[:KEPT]],
                distances[order[:KEPT]],
                float(distances[order[KEPT]]) if len(order) > KEPT else -1.0,
                np.unique(images[nearest]),
            )
            if set(order[:KEPT].tolist()) <= set(hottest.tolist()):
                break
        return judged, distances

    def with_rows(self, rows: Features) -> Judged:
        """The same image, compared with a bank that has more rows, float32 [rows, dim]. See `is_exact`."""
        distances = np.minimum(self.distances, exact_search.exact_nearest(self.features, rows)[0])
        order = np.argsort(-distances, kind="stable")
        return Judged(self.features[order], distances[order], self.others, self.leans_on)
