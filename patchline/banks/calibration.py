"""Scores of held-out good images -> thresholds, and the share of new good images that they will flag."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.memory_bank import FlaggedShare
from patchline.protocol.errors import SetupError

CONFIDENCE = 0.95


def threshold(held_out: NDArray[np.float32], rate: float) -> float:
    """The score that a new good image reaches with a probability of at most `rate`, on average over fits.

    This is the split-conformal quantile (Vovk, Gammerman and Shafer, 2005): a new good image exceeds the
    ceil((n + 1) (1 - rate))-th smallest of n held-out scores with a probability of at most `rate`, whatever the
    distribution of the scores. This needs at least 1 / rate - 1 images. `flagged_share` says what one fit may do.

    Args:
        held_out: float32 [images], scores of good images against a memory bank without any of their patches.
        rate: between 0 and 1.

    Raises:
        SetupError: there are too few images for the rate.
    """
    require_enough_images(held_out.size, rate)
    # The next float32 up: an image with the same score as the held-out one passes.
    return float(np.nextafter(np.sort(held_out)[_rank(held_out.size, rate) - 1], np.float32(np.inf)))


def flagged_share(images: int, rate: float) -> FlaggedShare:
    """The share of new good images that reach the threshold of one fit for a rate: its mean and its bounds.

    The share above the r-th smallest of n independent scores has the distribution Beta(n + 1 - r, r), whatever the
    distribution of the scores (Vovk, 2012).

    Args:
        images: the number of held-out images, or of their groups.
        rate: that the threshold was calibrated for.
    """
    above = images + 1 - _rank(images, rate)
    return FlaggedShare(
        expected=above / (images + 1),
        lower=_beta_quantile(above, images, 1 - CONFIDENCE),
        upper=_beta_quantile(above, images, CONFIDENCE),
    )


def require_enough_images(images: int, rate: float) -> None:
    """Check that a number of held-out images is enough for a rate.

    Raises:
        SetupError: it is not.
    """
    if _rank(images, rate) <= images:
        return
    smallest_rate = math.ceil(1000 / (images + 1)) / 1000
    raise SetupError(
        f"{images} good images are too few for a false-reject rate of {rate:.1%}: it takes {math.ceil(1 / rate) - 1}; "
        f"add good images, or set false_reject_rate (and review_rate) of the category to {smallest_rate} or more"
    )


def _rank(images: int, rate: float) -> int:
    return math.ceil((images + 1) * (1 - rate))


def _beta_quantile(above: int, images: int, probability: float) -> float:
    """The quantile of Beta(above, images + 1 - above), by bisection of its distribution function.

    A share is at most x if at least `above` of n independent uniform numbers are at most x: a sum of binomial terms.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if 1 - sum(_binomial(images, count, middle) for count in range(above)) < probability:
            low = middle
        else:
            high = middle
    return high


def _binomial(trials: int, count: int, share: float) -> float:
    logarithm = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(logarithm + count * math.log(share) + (trials - count) * math.log1p(-share))
