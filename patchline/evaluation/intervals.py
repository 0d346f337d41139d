"""Confidence intervals of 95 %: exact for shares, DeLong's for AUROC, and the bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from patchline.evaluation import metrics
from patchline.protocol.messages import Frozen

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
_NORMAL_QUANTILE = 1.959964  # of 1 - _TAIL
_SAMPLES = 1000
_SAMPLES_AT_ONCE = 100  # bounds the memory
_SEED = 0

Values = NDArray[np.float64]


class Figure(Frozen):
    """A figure and its interval of 95 %. `low` and `high` are None if the images say nothing about the spread."""

    value: float
    low: float | None = None
    high: float | None = None


def share(count: int, total: int) -> Figure:
    """A share of independent images, with the exact interval (Clopper and Pearson, 1934)."""
    low = float(special.betaincinv(count, total - count + 1, _TAIL)) if count else 0.0
    high = float(special.betaincinv(count + 1, total - count, 1 - _TAIL)) if count < total else 1.0
    return Figure(value=count / total, low=low, high=high)


def mcnemar(first_only: int, second_only: int) -> float:
    """The two-sided p-value of McNemar's exact test: paired yes or no answers of two judges (McNemar, 1947).

    Of the items on which they differ, each is as likely to be one of the first as of the second, if both say yes as
    often: the smaller number is binomial with a probability of one half.

    Args:
        first_only: the items to which only the first says yes.
        second_only: the items to which only the second does.
    """
    different, smaller = first_only + second_only, min(first_only, second_only)
    return min(1.0, 2 * float(special.bdtr(smaller, different, 0.5)))


def auroc(good: Values, defect: Values) -> Figure:
    """AUROC with the interval of DeLong, DeLong and Clarke-Pearson (1988), on the logit scale so that it stays below 1.

    If all defects are above all good images, or all below, the variance is 0. The interval then is the exact one of a
    share over as many images as the smaller of the two sets has.

    Args:
        good: float64 [n], scores of good images, at least one.
        defect: float64 [m], scores of defects, at least one.
    """
    value = metrics.auroc(good, defect)
    if min(good.size, defect.size) < 2:
        return Figure(value=value)
    variance = _placements(defect, good).var(ddof=1) / defect.size + _placements(good, defect).var(ddof=1) / good.size
    if variance == 0 or not 0 < value < 1:
        size = min(good.size, defect.size)
        bound = share(round(value * size), size)
        return Figure(value=value, low=bound.low, high=bound.high)
    step = _NORMAL_QUANTILE * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return Figure(value=value, low=_logistic(logit - step), high=_logistic(logit + step))


def bootstrap(good: Values, defect: Values, metric: Callable[[metrics.OperatingPoints], Values]) -> Figure:
    """A metric of the images with the percentile interval of 1,000 resamples, good images and defects apart."""
    value = float(metric(metrics.OperatingPoints.of(good, defect)))
    rng = np.random.default_rng(_SEED)
    resampled = [
        metric(
            metrics.OperatingPoints.weighted(
                good, defect, resample_weights(rng, good.size), resample_weights(rng, defect.size)
            )
        )
        for _ in range(_SAMPLES // _SAMPLES_AT_ONCE)
    ]
    return percentiles(value, np.concatenate(resampled))


def bootstrap_share(
    good: Values, defect: Values, metric: Callable[[metrics.OperatingPoints], Values], total: int
) -> Figure:
    """A share of `total` defects or good images, at a threshold that depends on the images.

    The interval is that of the bootstrap, and at least the exact one of the count: resamples of few images are too much
    alike.
    """
    figure = bootstrap(good, defect, metric)
    exact = share(round(figure.value * total), total)
    low, high = figure.value if figure.low is None else figure.low, figure.value if figure.high is None else figure.high
    return Figure(value=figure.value, low=min(low, exact.low or 0.0), high=max(high, exact.high or 1.0))


def percentiles(value: float, resampled: Values) -> Figure:
    """A figure and the percentiles of its resamples; without an interval if they are all alike."""
    low, high = np.quantile(resampled, [_TAIL, 1 - _TAIL]).tolist()
    return Figure(value=value) if low == high else Figure(value=value, low=low, high=high)


def resample_weights(rng: np.random.Generator, size: int, samples: int = _SAMPLES_AT_ONCE) -> Values:
    """How often each of `size` images is drawn in a resample: float64 [samples, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), samples).astype(np.float64)


def _placements(scores: Values, others: Values) -> Values:
    """The share of `others` below each score; half of those that are equal."""
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return np.asarray((below + not_above) / 2 / others.size)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
