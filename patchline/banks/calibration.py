"""Held-out good images -> thresholds, and the share of new good images that they will flag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks.held_out import HeldOut
from patchline.banks.shares import share_beyond, share_from_count
from patchline.inspection.memory_bank import Calibration, FlaggedShare, Method
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds

TRIAL_IMAGES = 10
_TRIAL_RATE = 0.2
_UPPER_QUANTILE = 0.9
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Target:
    """What the thresholds of a category shall do.

    Attributes:
        false_reject_rate: the share of good parts that may fail.
        review_rate: the share of good parts that may be flagged: reviewed or failed.
        patch_rule: the decision on a part with one patch beyond the patch threshold.
        trial: thresholds that never fail a part, from a few images.
    """

    false_reject_rate: float
    review_rate: float
    patch_rule: Literal["review", "fail", "none"]
    trial: bool = False

    def with_patches(self, kind: Literal["topk10", "max"]) -> bool:
        """True if the hottest patch counts too. If the category is judged by it, the rule would be the same again."""
        return self.patch_rule != "none" and kind != "max"

    def require_enough_images(self, images: int) -> None:
        """Check that a number of good images, or of their groups, is enough.

        Raises:
            SetupError: it is not.
        """
        if self.trial and images < TRIAL_IMAGES:
            raise SetupError(
                f"{images} good images are too few, even for a trial: it takes {TRIAL_IMAGES}; "
                "add pictures of other good parts"
            )
        require_enough_images(images, self.false_reject_rate)

    @classmethod
    def of(cls, category: config.Category, trial: bool = False) -> Target:
        """The target of a category. In a trial, a fifth of the good parts or more is flagged, and none fails."""
        if not trial:
            return cls(category.false_reject_rate, category.review_rate, category.patch_rule)
        rate = max(_TRIAL_RATE, category.review_rate)
        return cls(rate, rate, "none" if category.patch_rule == "none" else "review", trial=True)


def calibrate(
    held_out: HeldOut, kind: Literal["topk10", "max"], target: Target, method: Method
) -> tuple[Thresholds, Calibration]:
    """The thresholds of a target, and how they were calibrated.

    Args:
        held_out: the held-out good images.
        kind: the score that the category is judged by.
        target: the rates and the rule.
        method: that gave the held-out images.

    Raises:
        SetupError: there are too few images for a rate.
    """
    scores = held_out.group_scores(kind)
    flagged = flagged_share(scores.size, target.review_rate)
    failed = flagged_share(scores.size, target.false_reject_rate)
    return thresholds(held_out, kind, target), _calibration(scores, target, method, target.review_rate, flagged, failed)


def calibrate_flagging(
    held_out: HeldOut,
    defects: NDArray[np.float32],
    kind: Literal["topk10", "max"],
    target: Target,
    flagging: float,
    method: Method,
) -> tuple[Thresholds, Calibration]:
    """The thresholds for a given limit of the combined score, and what they do to good parts and to defects.

    Args:
        held_out: the held-out good images.
        defects: float32 [images], the combined scores of defects.
        kind: the score that the category is judged by.
        target: its false-reject rate and its patch rule count; the rule `fail` becomes `review`.
        flagging: the limit, from which a part is flagged.
        method: that gave the held-out images.
    """
    scores, hottest = held_out.group_scores(kind), held_out.group_scores("max")
    factor = hot_patch_factor(scores, hottest) if target.with_patches(kind) else None
    combined = scores if factor is None else combine(scores, hottest, factor)
    fail = max(flagging, threshold(scores, target.false_reject_rate))
    flagged = share_from_count(scores.size, int((combined >= flagging).sum()))
    patches = {} if factor is None else {"patch": flagging * factor * (1 - _ROUNDING), "patch_rule": "review"}
    limits = Thresholds(review=flagging, fail=fail, trial=target.trial or None, **patches)
    failed = share_from_count(scores.size, int((scores >= fail).sum()))
    missed = share_from_count(defects.size, int((defects < flagging).sum()))
    calibration = _calibration(scores, target, method, flagged.expected, flagged, failed)
    return limits, calibration.model_copy(update={"defects": defects.size, "missed": missed})


def _calibration(
    scores: NDArray[np.float32],
    target: Target,
    method: Method,
    review_rate: float,
    flagged: FlaggedShare,
    failed: FlaggedShare,
) -> Calibration:
    return Calibration(
        method=method,
        images=scores.size,
        false_reject_rate=target.false_reject_rate,
        review_rate=review_rate,
        held_out_median=float(np.median(scores)),
        held_out_max=float(scores.max()),
        flagged=flagged,
        failed=None if target.trial else failed,
    )


def thresholds(held_out: HeldOut, kind: Literal["topk10", "max"], target: Target) -> Thresholds:
    """The thresholds of a target.

    The patch rule shares the rate of its decision with the image threshold: both are one threshold of one score, the
    larger of the image score and the distance of the hottest patch, divided by `hot_patch_factor`. So a part is
    flagged, by whichever, at the rate that was asked for. The factor comes from the same images, so this is not exact;
    the measured rates are in docs/performance.md.

    Args:
        held_out: the held-out good images.
        kind: the score that the category is judged by. Under `max` a patch rule would be the same again.
        target: the rates and the rule.

    Raises:
        SetupError: there are too few images for a rate.
    """
    scores, hottest = held_out.group_scores(kind), held_out.group_scores("max")
    if not target.with_patches(kind):
        review, fail = threshold(scores, target.review_rate), threshold(scores, target.false_reject_rate)
        return Thresholds(review=review, fail=fail, trial=target.trial or None)
    factor = hot_patch_factor(scores, hottest)
    combined = combine(scores, hottest, factor)
    if target.patch_rule == "review":
        review = threshold(combined, target.review_rate)
        fail, patch = max(review, threshold(scores, target.false_reject_rate)), review * factor * (1 + _ROUNDING)
    else:
        fail = threshold(combined, target.false_reject_rate)
        patch = fail * factor * (1 + _ROUNDING)
        review = min(fail, threshold(np.where(hottest >= patch, np.float32(np.inf), scores), target.review_rate))
    return Thresholds(review=review, fail=fail, patch=patch, patch_rule=target.patch_rule, trial=target.trial or None)


def hot_patch_factor(scores: NDArray[np.float32], hottest: NDArray[np.float32]) -> float:
    """The ratio of hottest patch and score at which both are as unusual: that of their 90 % quantiles."""
    hot, usual = np.quantile(hottest, _UPPER_QUANTILE), np.quantile(scores, _UPPER_QUANTILE)
    return float(hot / usual) if usual > 0 else 1.0


def combine(scores: NDArray[np.float32], hottest: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The larger of score and hottest patch, float32 [images], in the unit of the score."""
    return np.maximum(scores, (hottest / factor).astype(np.float32))


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

    Args:
        images: the number of held-out images, or of their groups.
        rate: that the threshold was calibrated for.

    Raises:
        SetupError: there are too few images for the rate.
    """
    require_enough_images(images, rate)
    return share_beyond(images, images + 1 - _rank(images, rate))


def require_enough_images(images: int, rate: float) -> None:
    """Check that a number of held-out images is enough for a rate.

    Raises:
        SetupError: it is not.
    """
    if _rank(images, rate) <= images:
        return
    smallest_rate = math.ceil(1000 / (images + 1)) / 1000
    raise SetupError(
        f"{images} good images are too few for a false-reject rate of {rate:.1%}: it takes {images_for(rate)}; "
        f"add good images, or set false_reject_rate (and review_rate) of the category to {smallest_rate} or more, or "
        "make a trial bank with fit --trial, which never fails a part"
    )


def images_for(rate: float) -> int:
    """Return how many held-out images a rate takes at least."""
    return math.ceil(1 / rate) - 1


def _rank(images: int, rate: float) -> int:
    return math.ceil((images + 1) * (1 - rate))
