"""The rows of a memory bank and of the banks without each group of images, each row once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchline.banks.coreset import Replacement

Features = NDArray[np.float32]


@dataclass(frozen=True)
class BankRows:
    """Rows that several banks share.

    Attributes:
        features: float32 [rows, dim].
        image: int32 [rows], the number of the image of each row.
        patch: int32 [rows], the number of the patch in its image, row by row of the grid.
        members: bool [1 + groups, rows]: the rows of the memory bank, then those of the bank without each group.
    """

    features: Features
    image: NDArray[np.int32]
    patch: NDArray[np.int32]
    members: NDArray[np.bool_]

    @classmethod
    def select(
        cls,
        candidates: Features,
        images: NDArray[np.int32],
        positions: NDArray[np.int32],
        rows: NDArray[np.int64],
        replacements: Sequence[Replacement],
    ) -> BankRows:
        """Select the rows among all candidates.

        Args:
            candidates: float32 [candidates, dim].
            images: int32 [candidates], the number of the image of each.
            positions: int32 [candidates], the number of the patch in its image.
            rows: int64 [rows], the candidates in the memory bank, in ascending order.
            replacements: what changes without each group.
        """
        spare = np.setdiff1d(np.concatenate([each.added for each in replacements]), rows)
        used = np.concatenate([rows, spare])
        order = np.argsort(used)
        members = np.zeros((1 + len(replacements), used.size), np.bool_)
        members[0, : rows.size] = True
        for group, each in enumerate(replacements):
            members[1 + group, : rows.size] = ~each.removed
            members[1 + group, order[np.searchsorted(used, each.added, sorter=order)]] = True
        return cls(candidates[used], images[used], positions[used], members)

    def bank(self) -> Features:
        """The memory bank, float32 [rows, dim]."""
        return np.ascontiguousarray(self.features[self.members[0]])

    def without(self, group: int) -> tuple[Features, NDArray[np.int32]]:
        """The bank without a group, float32 [rows, dim], and the image of each row, int32 [rows]."""
        rows = self.members[1 + group]
        return np.ascontiguousarray(self.features[rows]), self.image[rows]

    def with_group(self) -> BankRows:
        """The same rows with one more group. It has no row yet, so the bank without it is the memory bank."""
        return BankRows(self.features, self.image, self.patch, np.vstack([self.members, self.members[:1]]))

    def with_patches(self, image: int, patches: Features, chosen: NDArray[np.bool_]) -> BankRows:
        """Add patches of an image.

        Args:
            image: its number.
            patches: float32 [patches, dim], all of it.
            chosen: bool [1 + groups, patches], true for those that each bank takes.
        """
        numbers = np.flatnonzero(chosen.any(axis=0)).astype(np.int32)
        return BankRows(
            np.concatenate([self.features, patches[numbers]]),
            np.concatenate([self.image, np.full(numbers.size, image, np.int32)]),
            np.concatenate([self.patch, numbers]),
            np.hstack([self.members, chosen[:, numbers]]),
        )

    def keep_images(self, images: NDArray[np.integer[Any]], groups: Collection[int]) -> BankRows:
        """Drop the rows of all other images, the banks of all other groups, and rows of no bank.

        Args:
            images: int [kept images], their numbers in ascending order. They are numbered anew.
            groups: the numbers of the kept groups in ascending order.
        """
        members = self.members[[0, *(1 + group for group in groups)]]
        rows = np.isin(self.image, images) & members.any(axis=0)
        image = np.searchsorted(images, self.image[rows]).astype(np.int32)
        return BankRows(self.features[rows], image, self.patch[rows], members[:, rows])

    def bank_first(self) -> BankRows:
        """The same rows in another order: those of the memory bank come first."""
        order = np.argsort(~self.members[0], kind="stable")
        return BankRows(self.features[order], self.image[order], self.patch[order], self.members[:, order])
