"""Held-out scores of good images -> the images that do not look like the others."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIGNIFICANCE = 0.05  # the probability that a set without outliers has a suspect, if its tail is exponential
_SUSPECT_SHARE = 0.1  # of the images, with the highest scores: only they can be suspects, and the scale is without them
_SMALLEST_SCALE = 1e-9  # of the highest score; images with the same pixels have the same scores
_MIN_IMAGES = 8  # fewer give no scale


def p_values(held_out: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability that a set of good images has a score as high as that of each image.

    The scores above the median are taken for a sample with an exponential tail. Its scale is the maximum-likelihood
    estimate from the scores below the highest tenth, the censored ones (Epstein and Sobel, 1953), so that a tenth of
    the images may be outliers without hiding each other. The excess over the censoring point, in units of the scale,
    then has the distribution F(2, 2r), and the number of censored scores corrects for the choice of the highest
    (Bonferroni). Scores of good images have lighter tails where it was measured, see docs/performance.md.

    Args:
        held_out: float32 [images], the score of each image against a memory bank without any of its patches.

    Returns:
        float64 [images], 1.0 for each image that is not among the highest tenth, or if there are fewer than 8 images.
    """
    result = np.ones(held_out.size)
    if held_out.size < _MIN_IMAGES:
        return result
    order = np.argsort(held_out, kind="stable")
    ordered = held_out[order].astype(np.float64)
    above = held_out.size // 2
    censored = math.ceil(held_out.size * _SUSPECT_SHARE)
    observed = above - censored
    excess = ordered[-above:] - ordered[-above - 1]
    limit = excess[observed - 1]
    scale = (excess[:observed].sum() + censored * limit) / observed
    scale = max(scale, _SMALLEST_SCALE * ordered[-1], np.finfo(np.float64).tiny)
    tail = (1 + (excess[observed:] - limit) / scale / observed) ** -float(observed)
    result[order[-censored:]] = np.minimum(1.0, censored * tail)
    return result


def suspects(held_out: NDArray[np.float32]) -> NDArray[np.int64]:
    """The images whose held-out scores stand out from the others, int64 [suspects], highest score first.

    Args:
        held_out: float32 [images], the score of each image against a memory bank without any of its patches.
    """
    rows = np.flatnonzero(p_values(held_out) < SIGNIFICANCE)
    return rows[np.argsort(-held_out[rows], kind="stable")]
