"""New thresholds without a fit: the mathematics of defects, and the files."""

import math

import numpy as np
import pytest

from patchline.banks import calibrate, calibration, shares
from patchline.banks.calibrate import Costs, parse_defect_target
from patchline.banks.calibration import Target
from patchline.banks.held_out import HeldOut
from patchline.protocol.errors import SetupError


def draw(count, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    largest = shift + np.sort(rng.gamma(3.0, size=(count, 1)) + rng.gamma(1.0, size=(count, 16)), axis=1)[:, ::-1]
    return HeldOut(tuple(map(str, range(count))), np.arange(count), largest.astype(np.float32))


def test_new_defects_pass_no_more_often_than_was_asked_for():
    rng = np.random.default_rng(0)
    passed = []
    for _ in range(3000):
        limit = calibrate.threshold_for_misses(rng.random(39).astype(np.float32), 0.1)
        passed.append(limit)  # the share of uniform scores below it
    assert np.mean(passed) == pytest.approx(0.1, abs=0.005)


def test_too_few_defects_are_refused_with_what_they_can_carry():
    with pytest.raises(SetupError, match=r"10 defects are too few to miss at most 5\.0%.*it takes 19.*0\.091 or more"):
        calibrate.threshold_for_misses(np.arange(10, dtype=np.float32), 0.05)
    calibrate.threshold_for_misses(np.arange(10, dtype=np.float32), 0.091)
    calibrate.threshold_for_misses(np.arange(19, dtype=np.float32), 0.05)


def test_the_cheapest_threshold_moves_with_the_costs():
    rng = np.random.default_rng(0)
    good, defects = rng.normal(5, 1, 500).astype(np.float32), rng.normal(8, 1, 200).astype(np.float32)
    limits = [
        calibrate.cheapest_threshold(good, defects, Costs(missed, rejected, 0.5))
        for missed, rejected in ((100, 1), (1, 1), (1, 100))
    ]
    assert limits == sorted(limits)
    assert limits[1] == pytest.approx(6.5, abs=0.3)  # half of the parts, equal costs and spreads: in the middle
    rare = calibrate.cheapest_threshold(good, defects, Costs(1, 1, 0.001))
    assert rare > limits[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1.5, None, None, None), "--max-missed is 1.5; it is a share"),
        ((0.1, 10.0, 1.0, 0.01), "two ways to choose a threshold"),
        ((None, 10.0, None, 0.01), "costs need all of --cost-missed, --cost-rejected and --defect-share"),
        ((None, 10.0, 0.0, 0.01), "costs are above 0"),
        ((None, math.nan, 1.0, 0.01), "costs are above 0"),
        ((None, math.inf, 1.0, 0.01), "costs are above 0"),
        ((None, 10.0, 1.0, 1.0), "--defect-share is between 0 and 1"),
    ],
)
def test_options_about_defects_that_have_no_meaning_are_refused(arguments, text):
    with pytest.raises(SetupError, match=text):
        parse_defect_target(*arguments)


def test_options_about_defects_are_a_share_or_costs_or_nothing():
    assert parse_defect_target(None, None, None, None) is None
    assert parse_defect_target(0.1, None, None, None) == 0.1
    assert parse_defect_target(None, 10.0, 1.0, 0.01) == Costs(10.0, 1.0, 0.01)


@pytest.mark.parametrize("rule", ["review", "fail", "none"])
def test_a_limit_for_defects_says_what_it_does_to_good_parts_and_to_defects(rule):
    good, defects = draw(99), draw(40, seed=1, shift=4.0)
    target = Target(0.05, 0.1, rule)
    scores = [images.group_scores("topk10") for images in (good, defects)]
    if rule != "none":
        factor = calibration.hot_patch_factor(scores[0], good.group_scores("max"))
        scores = [
            calibration.combine(each, images.group_scores("max"), factor)
            for each, images in zip(scores, (good, defects), strict=True)
        ]
    limit = calibrate.threshold_for_misses(scores[1], 0.1)
    limits, said = calibration.calibrate_flagging(good, scores[1], "topk10", target, limit, "leave-one-group-out")
    assert (limits.review, limits.patch_rule) == (limit, None if rule == "none" else "review")
    assert limits.fail >= limits.review
    assert said.defects == 40
    assert said.missed.expected == pytest.approx(4 / 41)  # floor(41 * 0.1) = 4
    assert said.flagged.expected == pytest.approx(((scores[0] >= limit).sum() + 1) / 100)
    assert said.flagged.lower < said.flagged.expected < said.flagged.upper
    assert said.review_rate == said.flagged.expected


def test_a_limit_below_all_good_parts_has_a_share_with_bounds():
    good = draw(30)
    _, said = calibration.calibrate_flagging(
        good, np.ones(30, np.float32), "topk10", Target(0.05, 0.1, "none"), 1e-3, "leave-one-group-out"
    )
    assert said.flagged.upper == 1.0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
def test_the_share_beyond_a_limit_that_knows_nothing_of_the_images_is_within_its_bounds(share):
    counts = np.random.default_rng(0).binomial(40, share, 4000)
    stated = {count: shares.share_from_count(40, count) for count in np.unique(counts)}
    assert np.mean([stated[count].lower <= share for count in counts]) >= 0.95 - 0.01
    assert np.mean([share <= stated[count].upper for count in counts]) >= 0.95 - 0.01
    assert all(limits.lower < limits.expected <= limits.upper for limits in stated.values())


def test_of_images_that_are_never_beyond_a_limit_the_lower_bound_is_zero():
    assert (shares.share_from_count(20, 0).lower, shares.share_from_count(20, 20).upper) == (0.0, 1.0)
