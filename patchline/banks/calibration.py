"""Scores of held-out good images -> thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patchline.protocol.errors import SetupError


def threshold(held_out: NDArray[np.float32], rate: float) -> float:
    """The score that a new good image reaches with a probability of at most `rate`.

    This is the split-conformal quantile (Vovk, Gammerman and Shafer, 2005): a new good image exceeds the
    ceil((n + 1) (1 - rate))-th smallest of n held-out scores with a probability of at most `rate`, whatever the
    distribution of the scores. This needs at least 1 / rate - 1 images.

    Args:
        held_out: float32 [images], scores of good images against a memory bank without any of their patches.
        rate: between 0 and 1.

    Raises:
        SetupError: there are too few images for the rate.
    """
    require_enough_images(held_out.size, rate)
    rank = math.ceil((held_out.size + 1) * (1 - rate))
    # The next float32 up: an image with the same score as the held-out one passes.
    return float(np.nextafter(np.sort(held_out)[rank - 1], np.float32(np.inf)))


def require_enough_images(images: int, rate: float) -> None:
    """Check that a number of held-out images is enough for a rate.

    Raises:
        SetupError: it is not.
    """
    if math.ceil((images + 1) * (1 - rate)) <= images:
        return
    smallest_rate = math.ceil(1000 / (images + 1)) / 1000
    raise SetupError(
        f"{images} good images are too few for a false-reject rate of {rate:.1%}: it takes {math.ceil(1 / rate) - 1}; "
        f"add good images, or set false_reject_rate (and review_rate) of the category to {smallest_rate} or more"
    )
