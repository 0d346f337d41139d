"""Metrics of localisation: pixel AUROC, AUPRO, AU-sPRO and SegF1, from counts of pixels by score.

All functions work on counts with leading dimensions, so that resampled counts need no loop. Equal scores are one
threshold, as in scikit-learn and in the evaluation code of MVTec.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchline.evaluation.pixel_counts import PixelCounts

Values = NDArray[np.float64]


def auroc(counts: PixelCounts) -> Values:
    """Area under the ROC curve over pixels: [...]."""
    return _area(*_curve(counts.normal, counts.defect, counts.defect.sum(axis=-1)), limit=1.0)


def aupro(counts: PixelCounts, limit: float) -> Values:
    """Area under the per-region overlap (Bergmann et al., MVTec AD, IJCV 2021), up to a false-positive rate.

    The overlap of a region is the share of its pixels above the threshold. All connected regions have the same weight.

    Returns:
        Between 0 and 1, normalised by the limit: [...].
    """
    return _area(*_curve(counts.normal, counts.overlap, counts.regions), limit)


def au_spro(counts: PixelCounts, limit: float) -> Values:
    """Area under the saturated per-region overlap (Bergmann et al., MVTec LOCO AD, IJCV 2022): [...].

    A defect is found once as many of its pixels as its saturation are above the threshold.
    """
    return _area(*_curve(counts.normal, counts.saturated, counts.defects), limit)


def seg_f1(counts: PixelCounts) -> Values:
    """The F1 of all pixels at the fail threshold, as MVTec AD 2 judges a segmentation: [...]."""
    hit = counts.defect[..., counts.threshold_bin :].sum(axis=-1)
    false_alarms = counts.normal[..., counts.threshold_bin :].sum(axis=-1)
    return _f1(hit, false_alarms, counts.defect.sum(axis=-1))


def seg_f1_max(counts: PixelCounts) -> Values:
    """The largest F1 of all pixels over all thresholds: [...]."""
    hit, false_alarms = _above(counts.defect), _above(counts.normal)
    return np.asarray(_f1(hit, false_alarms, counts.defect.sum(axis=-1)[..., None]).max(axis=-1))


def _f1(hit: Values, false_alarms: Values, defect: Values) -> Values:
    return 2 * hit / (hit + false_alarms + defect)


def _above(counts: Values) -> Values:
    """Sums of the highest bins, from the highest one alone to all bins."""
    return np.cumsum(counts[..., ::-1], axis=-1)


def _curve(normal: Values, found: Values, total: Values) -> tuple[Values, Values]:
    """False-positive rates and found shares at each threshold, from (0, 0) to (1, 1)."""
    rates = _above(normal) / normal.sum(axis=-1)[..., None]
    shares = _above(found) / total[..., None]
    start = np.zeros((*rates.shape[:-1], 1))
    return np.concatenate([start, rates], axis=-1), np.concatenate([start, shares], axis=-1)


def _area(x: Values, y: Values, limit: float) -> Values:
    """The trapezoid rule up to a limit of x, where y is interpolated; normalised by the limit."""
    width = np.diff(x, axis=-1)
    inside = np.clip(limit - x[..., :-1], 0.0, width)
    part = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    y_end = y[..., :-1] + np.diff(y, axis=-1) * part
    return np.asarray(np.sum(inside * (y[..., :-1] + y_end), axis=-1) / (2 * limit))
