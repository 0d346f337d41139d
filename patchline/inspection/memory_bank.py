"""The memory bank as an inspection uses it: features of good parts, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patchline.inspection.search import distances, exact_search
from patchline.inspection.search.distances import Distances
from patchline.inspection.search.exact_search import Search
from patchline.protocol import messages


class Calibration(messages.Frozen):
    """How the thresholds came about."""

    method: Literal["leave-one-image-out", "held-out images"]
    images: int
    false_reject_rate: float
    review_rate: float
    held_out_median: float
    held_out_max: float


class BankManifest(messages.Frozen):
    """Everything a worker checks before it serves a bank."""

    format: Literal["patchline.memory_bank.v1"] = "patchline.memory_bank.v1"
    category: messages.Name
    backbone: str
    backbone_sha256: str
    layer: str
    precision: str
    device: str
    resize: int
    imagesize: int
    dim: int
    patches: int
    coreset_ratio: float
    seed: int
    good_images: int
    candidate_patches: int
    score: Literal["topk10", "max"]
    thresholds: messages.Thresholds
    calibration: Calibration
    index_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: str
    versions: dict[str, str]


@dataclass(frozen=True)
class MemoryBank:
    """Features of good parts, ready to be searched, and the manifest that says where they come from."""

    search: Search
    manifest: BankManifest

    @property
    def version(self) -> str:
        """Names this bank in verdicts: its category and the beginning of its digest."""
        return f"{self.manifest.category}@{self.manifest.index_sha256[:12]}"

    def distances(self, patches: NDArray[np.float32]) -> Distances:
        """Squared L2 distance of each of float32 [n, dim] to its nearest neighbour, to be asked for."""
        return distances.of(patches, self.search)

    def prepared(self) -> MemoryBank:
        """The same bank, which searches faster."""
        return replace(self, search=exact_search.with_pruning(self.search.features))
