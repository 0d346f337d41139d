"""The memory bank of an inspection: features of good parts, and the manifest that describes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patchline.inspection.search import exact_search
from patchline.inspection.search.exact_search import Search
from patchline.inspection.search.lazy_distances import LazyDistances
from patchline.protocol import messages

Method = Literal["leave-one-image-out", "leave-one-group-out", "held-out images"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FlaggedShare(messages.Frozen):
    """The share of new good images that one fit flags: the mean over fits, and bounds with 95 % confidence each."""

    expected: float
    lower: float
    upper: float


class Calibration(messages.Frozen):
    """How the thresholds were calibrated.

    Banks of builds before `leave-one-group-out` have no `flagged` and `failed`.

    Attributes:
        method: `leave-one-image-out` left holes in the coreset, so its thresholds were too high.
        images: the number of held-out images, or of their groups.
        flagged: the share of new good images with the decision `review` or `fail`.
        failed: the share of new good images with the decision `fail`; None in a trial, which has none.
        defects: the number of images of defects that the thresholds were calibrated on; None without any.
        missed: the share of new defects with the decision `pass`, if they are like these.
    """

    method: Method
    images: int
    false_reject_rate: float
    review_rate: float
    held_out_median: float
    held_out_max: float
    flagged: FlaggedShare | None = None
    failed: FlaggedShare | None = None
    defects: int | None = None
    missed: FlaggedShare | None = None


class Change(messages.Frozen):
    """What a person has changed of a bank after its fit: good images, one by one, or the thresholds.

    Attributes:
        when: in ISO 8601, UTC.
        who: acted.
        why: in words.
        added: images, by name.
        removed: images, by name.
        thresholds: that the person has set; None: they follow from the images.
    """

    when: str
    who: str
    why: str | None = None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    thresholds: messages.Thresholds | None = None


class BankManifest(messages.Frozen):
    """`manifest.json` of a memory bank, which a worker checks before it serves the bank.

    Attributes:
        backbone_sha256: the digest of the file that computed the features: on the Ascend that of the `.om`.
        source_sha256: the digest of the backbone that the `.om` was compiled from, if it is known; None on the CPU.
        clean_share: the share of the candidate patches that was discarded before the coreset.
        accepted_outliers: images that were used although their held-out scores stand out, by name.
        left_out: images that a person left out, and outliers that were left out because of `clean_share`.
        reduced_jpeg: a large JPEG is decoded at a reduced scale for this bank, see `decode.for_backbone`. False in
            banks of earlier builds, which decoded all of it, and in imported ones.
        folds_sha256: the digest of `folds.npz`; None in banks of earlier builds, and in imported ones, which have none.
        changes: of images and thresholds after the fit, the oldest first.
    """

    format: Literal["patchline.memory_bank.v1"] = "patchline.memory_bank.v1"
    category: messages.Name
    backbone: str
    backbone_sha256: str
    source_sha256: str | None = None
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
    clean_share: float = 0.0
    accepted_outliers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    score: Literal["topk10", "max"]
    bit_depth: int | None = None  # None in banks of earlier builds, too: all bits of a file count
    bit_alignment: Literal["low", "high"] = "low"
    reduced_jpeg: bool = False
    thresholds: messages.Thresholds
    calibration: Calibration
    index_sha256: Sha256
    held_out_sha256: Sha256 | None = None
    folds_sha256: Sha256 | None = None
    changes: tuple[Change, ...] = ()
    created_at: str
    versions: dict[str, str]


@dataclass(frozen=True)
class MemoryBank:
    """Features of good parts, ready to be searched, and their manifest.

    Attributes:
        held_out: float32 [images], the scores of held-out good images in ascending order; None for an older bank.
        digest: the SHA-256 of the manifest's file, which names those of the index, of the held-out scores and of the
            folds: the version of the bank (`bank_version` of a verdict). None if it was not read from a folder.
    """

    search: Search
    manifest: BankManifest
    held_out: NDArray[np.float32] | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The name of this bank in verdicts (`memory_bank`): its category, and the first digits of its index's digest.

        Banks with the same rows and other thresholds have the same name. `digest` tells them apart.
        """
        return f"{self.manifest.category}@{self.manifest.index_sha256[:12]}"

    def p_value(self, score: float) -> float | None:
        """The conformal p-value of a score: a good part has such a score or a higher one with this probability.

        It is (1 + the number of held-out scores that are not below) / (their number + 1).
        """
        if self.held_out is None:
            return None
        below = int(np.searchsorted(self.held_out, np.float32(score)))
        return (1 + self.held_out.size - below) / (self.held_out.size + 1)

    def distances(self, patches: NDArray[np.float32]) -> LazyDistances:
        """The squared L2 distances of patches, float32 [n, dim], to their nearest neighbours, computed on demand."""
        return LazyDistances.start(self.search, patches)

    def with_pruning(self) -> MemoryBank:
        """The same bank with a faster search."""
        return replace(self, search=exact_search.with_pruning(self.search.features))
