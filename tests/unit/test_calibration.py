"""Held-out images, thresholds, and what they promise."""

import numpy as np
import pytest
import scipy  # `stats`, whose import takes a second, is imported when it is used

from patchline.banks import calibration, coreset, held_out, report
from patchline.banks.bank_rows import BankRows
from patchline.banks.calibration import Target
from patchline.banks.held_out import HeldOut
from patchline.banks.hottest import Judged
from patchline.config import Category
from patchline.inspection import verdict
from patchline.inspection.memory_bank import BankManifest, Calibration, MemoryBank
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision, Thresholds


def plainly_without(points, rows, groups, number):
    """The rows of the coreset without a group, by the same rule in float64, one point at a time."""
    distances = ((points[:, None].astype(np.float64) - points[None]) ** 2).sum(axis=2)
    own = rows[groups[rows] == number]
    removed = set(own.tolist())
    for row in own:
        removed |= set(rows[np.argsort(distances[row, rows])[:7]].tolist())
    kept = [row for row in rows.tolist() if row not in removed]
    for _ in range(len(removed)):
        nearest = distances[:, kept].min(axis=1)
        nearest[groups == number] = -1
        nearest[kept] = -1
        kept.append(int(nearest.argmax()))
    return kept


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_coreset_without_a_group_is_that_of_the_plain_rule(seed):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((600, 8)).astype(np.float32)
    groups = np.sort(rng.integers(0, 12, 600))
    rows = np.sort(coreset.select(points, 120, seed))
    for number, replacement in enumerate(coreset.replacements(points, rows, groups)):
        refilled = [*rows[~replacement.removed], *replacement.added]
        assert refilled == plainly_without(points, rows, groups, number)
        assert not (groups[refilled] == number).any()


def test_the_coreset_without_a_group_ends_when_no_point_is_left():
    points = np.repeat(np.arange(4, dtype=np.float32)[:, None], 3, axis=0)
    groups = np.repeat([0, 1, 2], 4)
    for count in (12, 6, 1):
        rows = np.arange(count)
        for number, replacement in enumerate(coreset.replacements(points, rows, groups)):
            refilled = [*rows[~replacement.removed].tolist(), *replacement.added.tolist()]
            assert len(set(refilled)) == len(refilled) == min(count, 8)
            assert not (groups[refilled] == number).any()


def test_a_held_out_image_is_not_compared_with_patches_of_its_group():
    candidates = np.array([[0.0], [1.0], [4.0], [9.0]], np.float32)
    groups, rows = np.array([0, 0, 1, 2]), np.array([0, 2])
    without = [
        coreset.Replacement(groups[rows] == number, np.array(added, int)) for number, added in enumerate(([3], [1], []))
    ]
    banks = BankRows.select(candidates, np.arange(4, dtype=np.int32), np.zeros(4, np.int32), rows, without)
    distances = [Judged.by(row[None], *banks.without(group))[1] for group, row in zip(groups, candidates, strict=True)]
    assert np.concatenate(distances).tolist() == [16.0, 9.0, 9.0, 25.0]


def images(count=30, groups=None, seed=0):
    largest = np.sort(np.random.default_rng(seed).gamma(3.0, size=(count, 16)).astype(np.float32), axis=1)[:, ::-1]
    names = tuple(f"a/{number}.png" for number in range(count))
    return HeldOut(names, np.arange(count) if groups is None else groups, largest)


def test_held_out_images_are_read_as_they_were_written(tmp_path):
    written = images()
    (tmp_path / held_out.FILE).write_bytes(written.to_bytes())
    read = HeldOut.read(tmp_path, held_out.digest(written.to_bytes()))
    assert read.names == written.names
    assert read.groups.tolist() == written.groups.tolist()
    assert np.array_equal(read.largest, written.largest)
    assert np.array_equal(read.image_scores("topk10"), written.image_scores("topk10"))
    assert read.image_scores("max").tolist() == written.largest[:, 0].tolist()


def test_changed_held_out_images_are_refused(tmp_path):
    with pytest.raises(SetupError, match=r"held_out\.json: cannot be read"):
        HeldOut.read(tmp_path, "0" * 64)
    (tmp_path / held_out.FILE).write_bytes(images().to_bytes())
    with pytest.raises(SetupError, match="is not the file that the manifest describes"):
        HeldOut.read(tmp_path, "0" * 64)
    (tmp_path / held_out.FILE).write_bytes(b"{}")
    with pytest.raises(SetupError, match=r"images: Field required; fit the category again"):
        HeldOut.read(tmp_path, held_out.digest(b"{}"))


def test_names_that_are_not_utf8_can_be_written():
    assert b"\\\\udcff.png" in HeldOut(("\udcff.png",), np.array([0]), np.ones((1, 3), np.float32)).to_bytes()


def test_a_group_has_its_highest_score():
    grouped = HeldOut(("a", "b", "c", "d"), np.array([1, 0, 1, 2]), np.array([[3], [5], [4], [1]], np.float32))
    assert grouped.group_scores("max").tolist() == [5, 4, 1]


@pytest.mark.parametrize(("count", "rate"), [(40, 0.1), (99, 0.01), (99, 0.05), (200, 0.01), (200, 0.05)])
def test_the_flagged_share_of_fits_has_the_stated_mean_and_bounds(count, rate):
    rng = np.random.default_rng(count)
    thresholds = [calibration.threshold(rng.random(count).astype(np.float32), rate) for _ in range(8000)]
    flagged = 1 - np.array(thresholds)  # of uniform scores
    of_next_parts = rng.binomial(1000, flagged) / 1000
    stated = calibration.flagged_share(count, rate)
    assert flagged.mean() == pytest.approx(stated.expected, rel=0.02)
    # Whole parts: one part less would hold less often than stated.
    assert (of_next_parts <= stated.upper).mean() >= 0.945
    assert (of_next_parts <= stated.upper - 0.001).mean() <= 0.955
    assert (of_next_parts >= stated.lower).mean() >= 0.945
    assert (of_next_parts >= stated.lower + 0.001).mean() <= 0.955
    assert stated.lower < stated.expected <= rate < stated.upper


@pytest.mark.parametrize(("count", "rate", "number"), [(99, 0.01, 1), (200, 0.05, 10), (40, 0.1, 4)])
def test_the_bounds_are_those_of_the_beta_binomial_distribution_for_1000_parts(count, rate, number):
    stated = calibration.flagged_share(count, rate)
    parts = scipy.stats.betabinom(1000, number, count + 1 - number)
    assert stated.expected == pytest.approx(number / (count + 1))
    assert (stated.lower, stated.upper) == (parts.ppf(0.05) / 1000, parts.ppf(0.95) / 1000)


def test_a_rate_that_the_images_cannot_carry_has_no_share():
    with pytest.raises(SetupError, match="6 good images are too few"):
        calibration.flagged_share(6, 0.01)


@pytest.mark.parametrize(("count", "rate", "number"), [(40, 0.1, 4), (99, 0.05, 5), (200, 0.01, 2), (200, 0.05, 10)])
def test_the_bounds_are_hardly_wider_than_those_for_all_parts(count, rate, number):
    stated = calibration.flagged_share(count, rate)
    all_parts = scipy.stats.beta(number, count + 1 - number)
    assert stated.upper - stated.lower <= 1.15 * (all_parts.ppf(0.95) - all_parts.ppf(0.05))


def test_the_bounds_of_many_images_are_finite_and_close():
    stated = calibration.flagged_share(20_000, 0.05)
    assert 0.038 < stated.lower < stated.expected < stated.upper < 0.063


def draw(count, seed=0):
    """Held-out images whose scores and hottest patches depend on each other, as those of real parts do."""
    rng = np.random.default_rng(seed)
    largest = np.sort(rng.gamma(3.0, size=(count, 1)) + rng.gamma(1.0, size=(count, 16)), axis=1)[:, ::-1]
    return HeldOut(tuple(map(str, range(count))), np.arange(count), largest.astype(np.float32))


def scores_of(images):
    """The score and the hottest patch of each group."""
    scores = images.group_scores("topk10").tolist(), images.group_scores("max").tolist()
    return list(zip(*scores, strict=True))


def decisions(limits, scores):
    return [verdict.decide(score, hottest, limits) for score, hottest in scores]


@pytest.mark.parametrize("rule", ["review", "fail", "none"])
def test_image_and_patch_threshold_share_the_promised_rate(rule):
    target, new = Target(0.05, 0.1, rule), scores_of(draw(2000, seed=1))
    flagged, failed = [], []
    for seed in range(2, 150):
        found = decisions(calibration.thresholds(draw(99, seed), "topk10", target), new)
        failed.append(found.count(Decision.FAIL) / len(found))
        flagged.append(failed[-1] + found.count(Decision.REVIEW) / len(found))
    assert np.mean(flagged) == pytest.approx(0.1, abs=0.012)
    assert np.mean(failed) == pytest.approx(0.05, abs=0.008)
    for shares, rate in ((flagged, 0.1), (failed, 0.05)):
        assert (np.array(shares) <= calibration.flagged_share(99, rate).upper).mean() > 0.9


@pytest.mark.parametrize("rule", ["review", "fail", "none"])
@pytest.mark.parametrize("count", [19, 40, 99])
def test_held_out_images_are_flagged_no_more_often_than_the_rate_allows(rule, count):
    held = draw(count, seed=count)
    found = decisions(calibration.thresholds(held, "topk10", Target(0.05, 0.1, rule)), scores_of(held))
    assert found.count(Decision.FAIL) <= (count + 1) * 0.05
    assert found.count(Decision.FAIL) + found.count(Decision.REVIEW) <= (count + 1) * 0.1


def test_one_hot_patch_raises_review_where_the_mean_of_ten_does_not():
    held = draw(99)
    with_rule, without = (
        calibration.thresholds(held, "topk10", Target(0.01, 0.05, rule)) for rule in ("review", "none")
    )
    small_defect = np.median(held.largest, axis=0)
    small_defect[0] = with_rule.patch * 1.1
    score = float(small_defect[:10].mean())
    assert verdict.decide(score, float(small_defect[0]), without) is Decision.PASS
    assert verdict.decide(score, float(small_defect[0]), with_rule) is Decision.REVIEW


def test_a_bank_that_judges_by_the_hottest_patch_has_no_patch_rule():
    assert calibration.thresholds(draw(99), "max", Target(0.01, 0.05, "review")).patch is None


def test_equal_images_without_any_distance_have_thresholds():
    same = HeldOut(("a", "b", "c"), np.arange(3), np.zeros((3, 16), np.float32))
    assert calibration.thresholds(same, "topk10", Target(0.3, 0.3, "review")).review > 0


def test_a_trial_flags_a_fifth_of_the_good_parts_and_promises_no_rate_of_fails():
    category = Category(backbone="x", layer="y", resize=64, imagesize=64)
    limits, calibrated = calibration.calibrate(
        draw(10), "topk10", Target.of(category, trial=True), "leave-one-group-out"
    )
    assert (limits.trial, calibrated.failed) == (True, None)
    assert calibrated.flagged.expected == pytest.approx(2 / 11)
    found = decisions(limits, scores_of(draw(1000, seed=3)))
    assert Decision.FAIL not in found
    assert 0.04 < found.count(Decision.REVIEW) / 1000 < 0.4


def test_a_trial_needs_ten_images():
    target = Target.of(Category(backbone="x", layer="y", resize=64, imagesize=64), trial=True)
    target.require_enough_images(10)
    with pytest.raises(
        SetupError, match="9 good images are too few, even for a trial: it takes 10; add pictures of other good"
    ):
        target.require_enough_images(9)


def test_the_p_value_of_a_score_counts_the_held_out_scores_that_are_not_below():
    bank = MemoryBank(None, None, np.array([1.0, 2.0, 2.0, 3.0], np.float32))
    assert [bank.p_value(score) for score in (0.5, 1.0, 2.0, 2.5, 9.0)] == [1.0, 1.0, 0.8, 0.4, 0.2]
    assert MemoryBank(None, None).p_value(1.0) is None


def test_p_values_of_good_parts_are_below_a_rate_no_more_often_than_at_that_rate():
    rng = np.random.default_rng(0)
    low = []
    for _ in range(300):
        bank = MemoryBank(None, None, np.sort(rng.gamma(3.0, size=39)).astype(np.float32))
        low.append(np.mean([bank.p_value(score) <= 0.1 for score in rng.gamma(3.0, size=50)]))
    assert np.mean(low) == pytest.approx(0.1, abs=0.01)


def test_the_report_of_a_fit_says_what_happens_to_good_parts_and_to_defects():
    shares = {name: calibration.flagged_share(99, rate) for name, rate in (("flagged", 0.05), ("failed", 0.01))}
    manifest = BankManifest.model_construct(
        category="gasket",
        good_images=99,
        thresholds=Thresholds(review=1.0, fail=2.0),
        calibration=Calibration(
            method="leave-one-group-out",
            images=99,
            false_reject_rate=0.01,
            review_rate=0.05,
            held_out_median=1.0,
            held_out_max=2.0,
            **shares,
        ),
    )
    text = report.describe(manifest)
    assert "calibrated on 99 good images, each held out in turn" in text
    assert "expect about 50 (19 to 92) with review or fail, and about 10 (0 to 31) of them with fail" in text
    assert "How many defects will pass is unknown" in text
    assert "patchline evaluate --category gasket FOLDER" in text
