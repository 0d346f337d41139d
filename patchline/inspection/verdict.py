"""Score and thresholds -> decision."""

from __future__ import annotations

import math

from patchline.protocol.errors import Reason, Retry
from patchline.protocol.messages import Decision, Thresholds


def decide(score: float, thresholds: Thresholds) -> Decision:
    """`pass` below the review threshold, `fail` from the fail threshold on, `review` between.

    Raises:
        Retry: the score is not a finite number, which is the device's fault and not the part's.
    """
    if not math.isfinite(score):
        raise Retry(Reason.DEVICE_FAILED, f"the score is {score}, not a finite number")
    if score >= thresholds.fail:
        return Decision.FAIL
    return Decision.REVIEW if score >= thresholds.review else Decision.PASS
