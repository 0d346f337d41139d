"""What other thresholds would have done, from counts of scores."""

import numpy as np
import pytest

from patchline.archive.scores import ScoreCount, ScoreSearch
from patchline.evaluation import intervals
from patchline.operations import label_rates, what_if
from patchline.operations.label_rates import Sample
from patchline.operations.what_if import Spread

SEARCH = ScoreSearch("brick", "brick@1", 0, 1, 2.0, 5, (3.5, 5.0))  # edges 0, 2, 3.5, 4, 5, 6, 8


def spread(*counts):
    return Spread.of(SEARCH, [ScoreCount(*count) for count in counts])


@pytest.fixture
def seen():
    """Thresholds of then: review from 3.5, fail from 5. All rejects are labelled, and few passes."""
    return spread(
        (0, 0, "pass", True, None, 100),
        (0, 0, "pass", True, "good", 10),
        (1, 0, "pass", True, "defect", 1),
        (1, 0, "review", True, "good", 2),  # for their hottest patch
        (0, 0, "fail", True, "defect", 1),  # likewise
        (1, 1, "review", False, "good", 4),  # from 3.5 to 4
        (2, 1, "review", False, "unsure", 1),  # from 4 to 5
        (2, 2, "fail", False, "defect", 3),  # from 5 to 6
        (4, 2, "fail", False, "defect", 5),  # from 8 on
        (4, 2, "fail", False, "withdrawn", 1),
    )


def test_the_thresholds_of_then_give_what_was_then(seen):
    found = seen.judge(3.5, 5.0)
    assert found.passed == (10, 1, 0, 100)
    assert found.rejected == (6, 9, 1, 1)
    assert found.failed == (0, 9, 0, 1)
    assert found.released == found.caught == (0, 0, 0, 0)
    assert found.over_kill == intervals.share(6, 16)
    assert found.miss == intervals.share(1, 10)


def test_a_higher_threshold_releases_parts_but_none_that_their_hottest_patch_rejects(seen):
    found = seen.judge(6.0, 8.0)
    assert found.passed == (14, 4, 1, 100)
    assert found.released == (4, 3, 1, 0)
    assert found.failed == (0, 6, 0, 1)
    assert found.caught == (0, 0, 0, 0)
    assert found.over_kill == intervals.share(2, 16)
    assert found.miss == intervals.share(4, 10)


def test_a_lower_threshold_catches_parts_and_a_trial_fails_none(seen):
    found = seen.judge(2.0, 2.0, trial=True)
    assert found.caught == (0, 1, 0, 0)
    assert found.passed == (10, 0, 0, 100)
    assert found.failed == (0, 0, 0, 0)
    assert seen.judge(2.0, 2.0).failed == (6, 10, 1, 1)
    assert seen.judge(0.0, 100.0).passed == (0, 0, 0, 0)


def test_each_edge_agrees_with_a_count_of_the_parts_one_by_one(seen):
    rows = [
        (edge, kind, label)
        for kind in range(4)
        for number, edge in enumerate(seen.edges)
        for label in range(4)
        for _ in range(int(seen.parts[kind, number, label]))
    ]
    for review in seen.edges:
        passed = [sum(r[0] < review and r[1] < 2 and r[2] == label for r in rows) for label in range(4)]
        assert list(seen.judge(review, review).passed) == passed
    assert seen.histogram().sum() == len(rows) == 128


def test_there_are_no_rates_without_labels_of_parts_that_passed_and_of_rejects(seen):
    passes = (0, 0, "pass", True, None, 9)
    only_rejects = spread(passes, (2, 2, "fail", False, "good", 3))
    assert label_rates.sample(*only_rejects.looked()) is Sample.NO_PASSES
    assert only_rejects.judge(3.5, 5.0).over_kill is None
    only_passes = spread((0, 0, "pass", True, "good", 9), (2, 2, "fail", False, None, 3))
    assert label_rates.sample(*only_passes.looked()) is Sample.NO_REJECTS
    assert only_passes.judge(3.5, 5.0).over_kill is None
    assert label_rates.sample(*seen.looked()) is Sample.SOME
    all_of_them = spread((0, 0, "pass", True, "good", 9), (2, 2, "fail", False, "good", 3))
    assert label_rates.sample(*all_of_them.looked()) is Sample.ALL
    found = all_of_them.judge(3.5, 5.0)
    assert (found.over_kill, found.miss) == (intervals.share(3, 12), None)


@pytest.mark.parametrize("fail", [1e-3, 0.9, 901.25, 1e6])
def test_steps_are_fine_enough_and_their_edges_are_exact(fail):
    search = what_if.search("brick", "brick@1", 0, 1, fail, (fail, fail / 2, fail))
    assert 128 <= search.steps <= 256
    assert search.step * search.steps >= 2.5 * fail
    assert np.log2(search.step) % 1 == 0
    assert search.cuts == (fail / 2, fail)
    assert {fail, fail / 2} <= set(Spread.of(search, []).edges)
