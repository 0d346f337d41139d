"""Metrics of the decision on whole images, from their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def auroc(good: NDArray[np.floating], defect: NDArray[np.floating]) -> float:
    """Area under the ROC curve: the probability that a defect has a higher score than a good image.

    An equal score counts half (Hanley and McNeil, 1982).

    Args:
        good: [n], scores of good images, at least one.
        defect: [m], scores of defects, at least one.
    """
    points = OperatingPoints.of(good.astype(np.float64), defect.astype(np.float64))
    return float(np.trapezoid(points.found, points.rejected) / (good.size * defect.size))  # of counts: it is exact


@dataclass(frozen=True)
class OperatingPoints:
    """What each threshold does, from the highest to the lowest. The first one is above all scores.

    Leading dimensions are resamples of the images. A score that several images have is one threshold.

    Attributes:
        found: float64 [..., thresholds], defects with a score at or above the threshold.
        rejected: float64 [..., thresholds], good images with a score at or above it.
    """

    found: Values
    rejected: Values

    @classmethod
    def of(cls, good: Values, defect: Values) -> OperatingPoints:
        """The operating points of scores, float64 [n] and [m]."""
        return cls.weighted(good, defect, np.ones(good.size), np.ones(defect.size))

    @classmethod
    def weighted(cls, good: Values, defect: Values, good_weights: Values, defect_weights: Values) -> OperatingPoints:
        """The same if each image counts as often as its weight says: [..., n] and [..., m]."""
        scores = np.concatenate([good, defect])
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        zeros = [np.zeros_like(good_weights), np.zeros_like(defect_weights)]
        found = np.concatenate([zeros[0], defect_weights], axis=-1)[..., order]
        rejected = np.concatenate([good_weights, zeros[1]], axis=-1)[..., order]
        return cls(*(_cumulate(weights, ends) for weights in (found, rejected)))

    @property
    def recall(self) -> Values:
        """The share of defects at or above each threshold."""
        return self.found / self.found[..., -1:]

    @property
    def false_reject_rate(self) -> Values:
        """The share of good images at or above each threshold."""
        return self.rejected / self.rejected[..., -1:]


def average_precision(points: OperatingPoints) -> Values:
    """The mean precision over the steps of recall, without interpolation, as in scikit-learn: [...]."""
    found, rejected = points.found[..., 1:], points.rejected[..., 1:]
    precision = found / np.maximum(found + rejected, 1e-300)  # 0 if nothing is rejected; such a step adds no recall
    return np.asarray(np.sum(np.diff(points.recall, axis=-1) * precision, axis=-1))


def f1_max(points: OperatingPoints) -> Values:
    """The largest F1 over all thresholds, defects being the positive class: [...]."""
    found = points.found
    return np.asarray((2 * found / (found + points.rejected + found[..., -1:])).max(axis=-1))


def missed_at_rate(points: OperatingPoints, rate: float) -> Values:
    """The share of defects below the lowest threshold that rejects at most `rate` of the good images: [...]."""
    allowed = points.false_reject_rate <= rate
    return np.asarray(1 - np.where(allowed, points.recall, 0.0).max(axis=-1))


def false_rejects_at_full_recall(points: OperatingPoints) -> Values:
    """The share of good images at or above the highest threshold that finds every defect: [...]."""
    complete = points.found >= points.found[..., -1:]
    return np.asarray(np.where(complete, points.false_reject_rate, 1.0).min(axis=-1))


def _cumulate(weights: Values, ends: NDArray[np.int64]) -> Values:
    sums = np.cumsum(weights, axis=-1)[..., ends]
    return np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)
