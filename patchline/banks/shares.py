"""How large a share of all parts is, as far as some images of them can say: an estimate and its bounds."""

from __future__ import annotations

import math

from patchline.inspection.memory_bank import FlaggedShare

CONFIDENCE = 0.95


def share_beyond(images: int, number: int) -> FlaggedShare:
    """The share of new images that are beyond the `number`-th most extreme of some images: its mean and its bounds.

    It has the distribution Beta(number, images + 1 - number), whatever the distribution of the scores (Vovk, 2012).
    """
    return FlaggedShare(
        expected=number / (images + 1),
        lower=_beta_quantile(number, images, 1 - CONFIDENCE),
        upper=_beta_quantile(number, images, CONFIDENCE),
    )


def share_from_count(images: int, number: int) -> FlaggedShare:
    """The share of new images that are beyond a limit, if `number` of some images are: an estimate and its bounds.

    The bounds are those of Clopper and Pearson (1934) for a limit that does not depend on these images. They also hold
    for a limit at the score of one of them, whose bounds in `share_beyond` are the closer ones.
    """
    return FlaggedShare(
        expected=(number + 1) / (images + 1),
        lower=_beta_quantile(number, images, 1 - CONFIDENCE) if number else 0.0,
        upper=_beta_quantile(number + 1, images, CONFIDENCE) if number < images else 1.0,
    )


def _beta_quantile(number: int, images: int, probability: float) -> float:
    """The quantile of Beta(number, images + 1 - number), by bisection of its distribution function.

    A share is at most x if at least `number` of n independent uniform numbers are at most x: a sum of binomial terms.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if 1 - sum(_binomial(images, count, middle) for count in range(number)) < probability:
            low = middle
        else:
            high = middle
    return high


def _binomial(trials: int, count: int, share: float) -> float:
    logarithm = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(logarithm + count * math.log(share) + (trials - count) * math.log1p(-share))
