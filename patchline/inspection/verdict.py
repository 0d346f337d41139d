"""Score and thresholds -> decision."""

from __future__ import annotations

import math

from patchline.protocol.errors import Reason, Retry
from patchline.protocol.messages import Decision, Thresholds


def decide(score: float, thresholds: Thresholds) -> Decision:
    """Decide `pass` below the review threshold, `fail` at or above the fail threshold, and `review` in between.

    Raises:
        Retry: the score is not finite, which is a fault of the device and not of the part.
    """
    if not math.isfinite(score):
        raise Retry(Reason.DEVICE_FAILED, f"the score is {score}, not a finite number")
    if score >= thresholds.fail:
        return Decision.FAIL
    return Decision.REVIEW if score >= thresholds.review else Decision.PASS
