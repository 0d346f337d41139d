"""Histograms of pixel scores: what the pixel metrics need, in a memory that does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# The bins of a score are its float32 bits without the last ones: equal steps within an octave, from 2^-12 to 2^8 fail
# thresholds. What is below or above counts as the first or last bin.
_LOWEST_OCTAVE, _OCTAVES = -12, 20
_FINE_BITS, _COARSE_BITS = 14, 5  # bins of an octave: 2^14 for the figures, 2^5 for their intervals
_MANTISSA_BITS, _EXPONENT_BIAS = 23, 127
BINS = _OCTAVES << _FINE_BITS
COARSE_BINS = _OCTAVES << _COARSE_BITS
_BINNED = ("normal", "defect", "overlap", "saturated")


@dataclass(frozen=True)
class Defect:
    """A defect in the ground truth of an image.

    Attributes:
        mask: bool [height, width], true on the defect.
        saturation: the number of its pixels that have to be found, for sPRO; may be a fraction.
    """

    mask: NDArray[np.bool_]
    saturation: float


@dataclass
class PixelCounts:
    """The pixels of some images by score, in bins of rising scores.

    Attributes:
        normal: float64 [..., bins], the number of pixels outside of all defects.
        defect: float64 [..., bins], the number of pixels on defects.
        overlap: float64 [..., bins], the sum of 1 / size over the pixels of each connected region.
        saturated: float64 [..., bins], the sum of 1 / saturation over the pixels of each defect that count.
        regions: float64 [...], the number of connected regions.
        defects: float64 [...], the number of defects.
    """

    normal: NDArray[np.float64]
    defect: NDArray[np.float64]
    overlap: NDArray[np.float64]
    saturated: NDArray[np.float64]
    regions: NDArray[np.float64]
    defects: NDArray[np.float64]

    @property
    def threshold_bin(self) -> int:
        """The bin that starts at 1.0, the fail threshold."""
        return int(self.normal.shape[-1]) * -_LOWEST_OCTAVE // _OCTAVES

    @classmethod
    def zeros(cls, bins: int = BINS) -> PixelCounts:
        """Counts of no image."""
        normal, defect, overlap, saturated = np.zeros((4, bins))
        return cls(normal, defect, overlap, saturated, regions=np.zeros(()), defects=np.zeros(()))

    @classmethod
    def of_image(cls, scores: NDArray[np.float32], defects: Sequence[Defect]) -> PixelCounts:
        """Count the pixels of one image.

        Args:
            scores: float32 [height, width], in fail thresholds.
            defects: of the image; empty for a good one.
        """
        counts = cls.zeros()
        bins = _bins(scores)
        marked = np.zeros(scores.shape, np.bool_)
        for item in defects:
            marked |= item.mask
            if item.mask.any():
                _add_saturated(counts, np.sort(bins[item.mask])[::-1], item.saturation)
        counts.normal += np.bincount(bins[~marked], minlength=BINS)
        if marked.any():
            counts.defect += np.bincount(bins[marked], minlength=BINS)
            _add_regions(counts, bins, marked)
        return counts

    def add(self, other: PixelCounts) -> None:
        """Add the counts of other images."""
        for name, values in vars(other).items():
            getattr(self, name)[...] += values

    def coarse(self) -> PixelCounts:
        """The same counts in fewer and wider bins."""
        binned = {name: getattr(self, name).reshape(COARSE_BINS, -1).sum(axis=1) for name in _BINNED}
        return PixelCounts(**binned, regions=self.regions, defects=self.defects)


@dataclass
class PixelStatistics:
    """The counts of all images by kind, and coarse ones of each image, from which the intervals are resampled.

    Attributes:
        by_kind: fine counts.
        kinds: the kind of each image in `coarse`.
        coarse: of each image, float32: 10 kB an image.
    """

    by_kind: dict[str, PixelCounts] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    coarse: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, kind: str, counts: PixelCounts) -> None:
        """Add an image."""
        self.by_kind.setdefault(kind, PixelCounts.zeros()).add(counts)
        self.kinds.append(kind)
        self.coarse.append(_pack(counts.coarse()))

    def total(self, kinds: Sequence[str] | None = None) -> PixelCounts:
        """The fine counts of some kinds, or of all."""
        total = PixelCounts.zeros()
        for kind in self.by_kind if kinds is None else kinds:
            total.add(self.by_kind[kind])
        return total

    def resampled(self, weights: NDArray[np.float64]) -> PixelCounts:
        """Coarse counts with each image counted as often as a row of weights, float64 [samples, images], says."""
        return _unpack(weights @ np.stack(self.coarse))


def _bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = np.ascontiguousarray(scores, np.float32).view(np.int32) >> (_MANTISSA_BITS - _FINE_BITS)
    return np.clip(bits.astype(np.int64) - ((_EXPONENT_BIAS + _LOWEST_OCTAVE) << _FINE_BITS), 0, BINS - 1)


def _add_saturated(counts: PixelCounts, bins: NDArray[np.int64], saturation: float) -> None:
    """Add the pixels of a defect, hottest first: as many as saturate it, the last one perhaps in part."""
    weights = np.clip(saturation - np.arange(bins.size), 0.0, 1.0) / saturation
    counts.saturated += np.bincount(bins, weights, minlength=BINS)
    counts.defects += 1


def _add_regions(counts: PixelCounts, bins: NDArray[np.int64], marked: NDArray[np.bool_]) -> None:
    count, labels = cv2.connectedComponents(marked.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=count)
    counts.overlap += np.bincount(bins[marked], 1.0 / sizes[labels[marked]], minlength=BINS)
    counts.regions += count - 1


def _pack(counts: PixelCounts) -> NDArray[np.float32]:
    parts: list[Any] = [getattr(counts, name) for name in _BINNED]
    return np.concatenate([*parts, [counts.regions, counts.defects]]).astype(np.float32)


def _unpack(packed: NDArray[np.float64]) -> PixelCounts:
    binned = dict(zip(_BINNED, np.split(packed[..., :-2], len(_BINNED), axis=-1), strict=True))
    return PixelCounts(**binned, regions=packed[..., -2], defects=packed[..., -1])
