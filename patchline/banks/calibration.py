"""Scores of held-out good images -> thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patchline.protocol.errors import SetupError


def threshold(held_out: NDArray[np.float32], rate: float) -> float:
    """The score that at most a share `rate` of new good images will reach.

    This is the split-conformal quantile (Vovk, Gammerman and Shafer, 2005): of n held-out scores the
    ceil((n + 1) (1 - rate))-th smallest is exceeded by a further good image with a probability of at most `rate`,
    whatever the distribution. With fewer than 1 / rate - 1 images no score can promise that.

    Args:
        held_out: float32 [images], scores of good images against a memory bank that holds nothing of them.
        rate: the share of good images that may reach the threshold, between 0 and 1.

    Raises:
        SetupError: there are too few images for that rate.
    """
    require_enough_images(held_out.size, rate)
    rank = math.ceil((held_out.size + 1) * (1 - rate))
    # The next float32 up: an image that scores the same as the held-out one is still a good one.
    return float(np.nextafter(np.sort(held_out)[rank - 1], np.float32(np.inf)))


def require_enough_images(images: int, rate: float) -> None:
    """Raises SetupError where no threshold over so many held-out images can promise `rate`."""
    if math.ceil((images + 1) * (1 - rate)) <= images:
        return
    possible = math.ceil(1000 / (images + 1)) / 1000
    raise SetupError(
        f"{images} good images are too few for a false-reject rate of {rate:.1%}: it takes {math.ceil(1 / rate) - 1}; "
        f"add good images, or set false_reject_rate (and review_rate) of the category to {possible} or more"
    )
