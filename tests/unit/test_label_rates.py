"""Rates and thresholds from what people call parts after their verdicts."""

import random

import pytest

from patchline.archive.ledger import Count, LabelledScore
from patchline.operations import label_rates, threshold_proposal
from patchline.protocol.errors import SetupError


def counts(passed=(0, 0, 0), failed=(0, 0, 0), reviewed=(0, 0, 0), unsure=0, bank="b1", line="l1"):
    """Counts of labelled good parts, labelled defects and parts that nobody labelled, by decision."""
    groups = {"pass": passed, "fail": failed, "review": reviewed}
    found = [
        Count(line, "brick", bank, decision, judgement, parts)
        for decision, numbers in groups.items()
        for judgement, parts in zip(("good", "defect", None), numbers, strict=True)
        if parts
    ]
    return found + ([Count(line, "brick", bank, "pass", "unsure", unsure)] if unsure else [])


def one(*args, **options):
    (found,) = label_rates.rates(counts(*args, **options))
    return found


def test_rates_of_parts_that_are_all_labelled_are_theirs_with_exact_bounds():
    found = one(passed=(98, 1, 0), failed=(1, 8, 0), reviewed=(1, 1, 0))
    assert (found.over_kill.value, found.miss.value) == (0.02, 0.1)
    # Clopper and Pearson for 2 of 100, and 1 of 10.
    assert (found.over_kill.low, found.over_kill.high) == pytest.approx((0.0024, 0.0704), abs=1e-4)
    assert (found.miss.low, found.miss.high) == pytest.approx((0.0025, 0.4450), abs=1e-4)
    assert (found.good_rejects.value, found.missed_passes.value) == (2 / 11, 1 / 99)
    assert "All parts are labelled" in found.meaning[1]


def test_labels_of_rejects_alone_give_no_rate_and_say_why():
    found = one(passed=(0, 0, 1000), failed=(5, 15, 0))
    assert (found.over_kill, found.miss, found.missed_passes) == (None, None, None)
    assert found.good_rejects.value == 0.25
    assert found.meaning[0].startswith("0 of 1000 parts that passed and 20 of 20 parts that were rejected")
    assert "nothing is known of misses" in found.meaning[1]


def test_labels_of_passes_alone_give_no_rate_either():
    found = one(passed=(40, 1, 0), failed=(0, 0, 20))
    assert (found.over_kill, found.miss) == (None, None)
    assert "No part that was rejected is labelled" in found.meaning[1]


@pytest.mark.parametrize(
    ("passed", "failed", "words"),
    [
        ((95, 5, 9_900), (20, 80, 0), "over-kill is overstated, and the miss rate is understated"),
        ((95, 5, 0), (2, 8, 990), "over-kill is understated, and the miss rate is overstated"),
        ((95, 5, 100), (2, 8, 10), None),
    ],
)
def test_a_sample_says_which_way_it_leans(passed, failed, words):
    meaning = one(passed=passed, failed=failed).meaning
    assert "does not know how it was chosen" in meaning[1]
    assert (meaning[2:] == ()) if words is None else (words in meaning[2])


def test_a_sample_that_leans_really_leans_that_way():
    """Of 10,000 parts with known labels, all rejects and one in ten passes are labelled, picked blindly."""
    rng = random.Random(1)
    whole = {"passed": (9_000, 100), "failed": (90, 810)}
    picked = [rng.random() < 0.1 for _ in range(9_100)]
    good, defects = sum(picked[:9_000]), sum(picked[9_000:])
    found = one(passed=(good, defects, 9_100 - good - defects), failed=(*whole["failed"], 0))
    assert found.over_kill.value > 90 / 9_090
    assert found.miss.value < 100 / 910
    assert found.missed_passes.low < 100 / 9_100 < found.missed_passes.high


def test_groups_are_kept_apart_and_those_without_labels_are_left_out():
    found = label_rates.rates(
        counts(passed=(10, 0, 0)) + counts(failed=(1, 1, 0), bank="b2") + counts(passed=(0, 0, 9), line="l2")
    )
    assert [(group.line, group.bank) for group in found] == [("l1", "b1"), ("l1", "b2")]
    assert found[0].over_kill.value == 0.0
    assert found[0].miss is None


def test_parts_about_which_people_are_unsure_count_nowhere():
    found = one(passed=(10, 0, 0), unsure=3)
    assert (found.unsure, found.passed.labelled, found.passed.parts) == (3, 10, 13)


def labelled(good=(), defects=(), bank="b1"):
    groups = {"good": good, "defect": defects}
    return [LabelledScore(bank, float(score), "pass", label) for label, scores in groups.items() for score in scores]


def propose(scores, all_counts=None, **target):
    return threshold_proposal.propose("brick", scores, all_counts or counts(passed=(1, 1, 0)), **target)


def test_a_threshold_for_over_kill_is_just_above_the_good_part_that_the_target_allows():
    found = propose(labelled(range(1, 100), (50, 99.5, 200)), over_kill=0.02)
    assert 98 < found.threshold < 98.001  # one of 99 reaches it: the expected share of the next is 2 / 100
    assert found.over_kill.expected == pytest.approx(0.02)
    assert found.over_kill.upper > 0.02
    assert found.miss.expected == pytest.approx(2 / 4)  # one of three is below
    assert (found.good, found.defects) == (99, 3)
    assert found.meaning[-1].startswith("Nothing was changed")


def test_a_threshold_for_misses_is_the_defect_that_the_target_allows():
    found = propose(labelled((1, 2, 30), range(20, 119)), miss=0.02)
    assert found.threshold == 21.0  # one of 99 is below it: the expected share of the next is 2 / 100
    assert found.miss.expected == pytest.approx(0.02)
    assert found.over_kill.expected == pytest.approx(2 / 4)


def test_a_target_for_misses_holds_on_average():
    rng = random.Random(7)
    shares = []
    for _ in range(300):
        found = propose(labelled((1,), sorted(rng.random() for _ in range(99))), miss=0.05)
        shares.append(found.threshold)  # of a uniform score, the share below
    assert sum(shares) / len(shares) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("scores", "all_counts", "target", "words"),
    [
        (
            labelled(range(98)),
            None,
            {"over_kill": 0.01},
            "98 labelled good parts are too few .* of 1.00%",
        ),
        (
            labelled((), range(18)),
            None,
            {"miss": 0.05},
            "18 labelled defects .* takes 19; .* 0.053 or more",
        ),
        (labelled(), None, {"miss": 0.05}, "nobody has labelled"),
        (labelled((1,)) + labelled((1,), bank="b2"), None, {"miss": 0.5}, "2 banks .* --bank"),
        (labelled(range(99)), counts(passed=(0, 0, 50), failed=(99, 0, 0)), {"over_kill": 0.01}, "rejects alone"),
        (labelled(range(99)), None, {}, "one target"),
        (labelled(range(99)), None, {"miss": 0.1, "over_kill": 0.1}, "one target"),
        (labelled(range(99)), None, {"miss": 1.0}, "no share"),
        (labelled(range(99)), None, {"over_kill": float("nan")}, "no share"),
    ],
)
def test_a_threshold_without_a_ground_is_refused_in_words(scores, all_counts, target, words):
    with pytest.raises(SetupError, match=words):
        propose(scores, all_counts, **target)


def test_a_threshold_from_a_sample_says_which_way_it_leans():
    lean = counts(passed=(50, 0, 5_000), failed=(49, 10, 0))
    assert any("threshold is too high" in text for text in propose(labelled(range(99)), lean, over_kill=0.1).meaning)
    lean = counts(passed=(50, 0, 0), failed=(9, 1, 500))
    assert any("threshold is too low" in text for text in propose(labelled(range(99)), lean, over_kill=0.1).meaning)
