"""How large a share of new parts is, as far as some images of them can say: an estimate and its bounds.

The bounds are for the share of the next `PARTS` parts: that of all parts varies less, and nobody sees it.
"""

from __future__ import annotations

import math

from patchline.inspection.memory_bank import FlaggedShare

CONFIDENCE = 0.95
PARTS = 1000


def share_beyond(images: int, number: int) -> FlaggedShare:
    """The share of new images that are beyond the `number`-th most extreme of some images: its mean and its bounds.

    For all images it has the distribution Beta(number, images + 1 - number), whatever the distribution of the scores
    (Vovk, 2012); for the next ones it is beta-binomial.
    """
    return FlaggedShare(
        expected=number / (images + 1),
        lower=_quantile(number, images, 1 - CONFIDENCE),
        upper=_quantile(number, images, CONFIDENCE),
    )


def share_from_count(images: int, number: int) -> FlaggedShare:
    """The share of new images that are beyond a limit, if `number` of some images are: an estimate and its bounds.

    The bounds are those of Clopper and Pearson (1934) for a limit that does not depend on these images, for the next
    images instead of all. They also hold for a limit at the score of one of them, whose bounds in `share_beyond` are
    the closer ones.
    """
    return FlaggedShare(
        expected=(number + 1) / (images + 1),
        lower=_quantile(number, images, 1 - CONFIDENCE) if number else 0.0,
        upper=_quantile(number + 1, images, CONFIDENCE) if number < images else 1.0,
    )


def _quantile(number: int, images: int, probability: float) -> float:
    """The quantile of the share of `PARTS` parts: their number is beta-binomial (number, images + 1 - number)."""
    total = 0.0
    for count in range(PARTS + 1):
        total += math.exp(_log_probability(count, number, images + 1 - number))
        if total >= probability:
            return count / PARTS
    return 1.0


def _log_probability(count: int, a: int, b: int) -> float:
    choices = math.lgamma(PARTS + 1) - math.lgamma(count + 1) - math.lgamma(PARTS - count + 1)
    return choices + _log_beta(count + a, PARTS - count + b) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
