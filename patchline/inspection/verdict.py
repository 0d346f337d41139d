"""Score and thresholds -> decision."""

from __future__ import annotations

import math

from patchline.protocol.errors import Reason, Retry
from patchline.protocol.messages import Decision, Thresholds


def decide(score: float, hottest_patch: float, thresholds: Thresholds) -> Decision:
    """Decide `pass` below the review threshold, `fail` at or above the fail threshold, and `review` in between.

    A small defect heats few patches, so it hardly changes the mean of the ten hottest. One patch beyond the patch
    threshold is therefore enough for the decision of the patch rule.

    Args:
        score: the score that the category is judged by.
        hottest_patch: the largest distance of a patch.
        thresholds: of the bank; those of a trial give `review` instead of `fail`.

    Raises:
        Retry: the score is not finite, which is a fault of the device and not of the part.
    """
    if not math.isfinite(score):
        raise Retry(Reason.DEVICE_FAILED, f"the score is {score}, not a finite number")
    hot = thresholds.patch is not None and hottest_patch >= thresholds.patch
    if score >= thresholds.fail or (hot and thresholds.patch_rule == "fail"):
        return Decision.REVIEW if thresholds.trial else Decision.FAIL
    return Decision.REVIEW if hot or score >= thresholds.review else Decision.PASS
