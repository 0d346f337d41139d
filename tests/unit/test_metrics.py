"""Metrics of whole images and their intervals, against scikit-learn and against simulations."""

import numpy as np
import pytest

from patchline.evaluation import intervals, metrics
from patchline.evaluation.metrics import OperatingPoints


@pytest.fixture
def scikit_learn():
    """Its metrics. Their import takes a second, which only those who use them shall wait."""
    from sklearn import metrics

    return metrics


def test_mcnemar_is_the_binomial_test_of_the_parts_on_which_two_judges_differ():
    assert intervals.mcnemar(0, 0) == 1.0
    assert intervals.mcnemar(3, 3) == 1.0
    assert intervals.mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert intervals.mcnemar(9, 1) == intervals.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert 0 < intervals.mcnemar(40_000, 41_000) < 0.001


def test_auroc_is_the_probability_that_a_defect_has_a_higher_score():
    assert metrics.auroc(np.array([1, 2, 3], np.float32), np.array([2.5, 4], np.float32)) == pytest.approx(5 / 6)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auroc_is_that_of_scikit_learn_also_with_equal_scores(scikit_learn, levels):
    rng = np.random.default_rng(levels)
    good, defect = rng.integers(0, levels, 60), rng.integers(0, levels, 40) + levels // 3
    expected = scikit_learn.roc_auc_score(np.repeat([0, 1], [60, 40]), np.concatenate([good, defect]))
    assert metrics.auroc(good.astype(np.float32), defect.astype(np.float32)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_and_f1_are_those_of_scikit_learn_also_with_equal_scores(scikit_learn, levels):
    rng = np.random.default_rng(levels)
    good = rng.integers(0, levels, 60).astype(float)
    defect = rng.integers(0, levels, 40) + levels / 3
    defect = np.floor(defect)
    labels, scores = np.repeat([0, 1], [60, 40]), np.concatenate([good, defect])
    points = OperatingPoints.of(good, defect)
    expected = scikit_learn.average_precision_score(labels, scores)
    assert metrics.average_precision(points) == pytest.approx(expected, abs=1e-12)
    precision, recall, _ = scikit_learn.precision_recall_curve(labels, scores)
    expected = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert metrics.f1_max(points) == pytest.approx(expected, abs=1e-12)


def test_what_is_missed_at_a_rate_and_rejected_at_full_recall_by_hand():
    good, defect = np.array([1.0, 2, 3, 4]), np.array([2.5, 3.0, 5.0, 6.0])
    points = OperatingPoints.of(good, defect)
    assert metrics.missed_at_rate(points, 0.0) == 0.5  # above 4
    assert metrics.missed_at_rate(points, 0.25) == 0.5  # from 4 on; 3 would reject two, since scores are equal there
    assert metrics.missed_at_rate(points, 0.5) == 0.0  # from 2.5 on
    assert metrics.false_rejects_at_full_recall(points) == 0.5


def test_nothing_is_rejected_at_full_recall_if_all_defects_are_above():
    points = OperatingPoints.of(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert metrics.false_rejects_at_full_recall(points) == 0.0
    assert metrics.missed_at_rate(points, 0.01) == 0.0


def test_a_weight_of_two_counts_as_two_images():
    good, defect = np.array([1.0, 2, 3]), np.array([2.0, 4.0])
    twice = OperatingPoints.of(np.array([1.0, 2, 3, 3]), np.array([2.0, 2.0, 4.0]))
    weighted = OperatingPoints.weighted(good, defect, np.array([1.0, 1, 2]), np.array([2.0, 1]))
    for metric in (metrics.average_precision, metrics.f1_max, metrics.false_rejects_at_full_recall):
        assert metric(weighted) == pytest.approx(metric(twice), abs=1e-12)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Values of the literature: R, binom.test(count, total)$conf.int.
    [(0, 20, 0.0, 0.1684335), (1, 100, 0.0002531, 0.0544594), (10, 100, 0.0490047, 0.1762226), (5, 5, 0.4781762, 1.0)],
)
def test_the_interval_of_a_share_is_exact(count, total, low, high):
    figure = intervals.share(count, total)
    assert figure.value == count / total
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-6)


def test_delongs_variance_is_that_of_all_pairs(scikit_learn):
    """The interval on the logit scale, from the variance by its definition (DeLong and others, 1988)."""
    rng = np.random.default_rng(0)
    good, defect = rng.normal(0, 1, 40).round(1), rng.normal(1, 1, 25).round(1)
    pairs = (defect[:, None] > good) + 0.5 * (defect[:, None] == good)
    variance = pairs.mean(axis=1).var(ddof=1) / 25 + pairs.mean(axis=0).var(ddof=1) / 40
    value = scikit_learn.roc_auc_score(np.repeat([0, 1], [40, 25]), np.concatenate([good, defect]))
    logit, step = np.log(value / (1 - value)), 1.959964 * np.sqrt(variance) / (value * (1 - value))
    figure = intervals.auroc(good, defect)
    expected = [1 / (1 + np.exp(-(logit + sign * step))) for sign in (-1, 1)]
    assert (figure.value, figure.low, figure.high) == pytest.approx((value, *expected), abs=1e-9)


def test_delongs_interval_covers_the_truth_in_95_of_100_test_sets():
    rng = np.random.default_rng(1)
    truth = 0.92135  # P(N(2, 1) > N(0, 1)), by its definition
    covered = 0
    for _ in range(400):
        figure = intervals.auroc(rng.normal(0, 1, 60), rng.normal(2, 1, 60))
        covered += figure.low <= truth <= figure.high
    assert 0.92 <= covered / 400 <= 0.98


def test_perfect_separation_has_an_interval_that_depends_on_the_number_of_images():
    few, many = (intervals.auroc(np.arange(size), np.arange(size) + 1000.0) for size in (10, 200))
    assert few.value == many.value == many.high == 1.0
    assert few.low == pytest.approx(0.6915, abs=1e-3)
    assert many.low > 0.98


def test_a_bootstrap_interval_contains_the_figure_and_is_repeatable():
    rng = np.random.default_rng(2)
    good, defect = rng.normal(0, 1, 50), rng.normal(2, 1, 50)
    figure = intervals.bootstrap(good, defect, metrics.average_precision)
    assert figure.low < figure.value < figure.high
    assert figure == intervals.bootstrap(good, defect, metrics.average_precision)


def test_resamples_that_agree_give_no_interval():
    figure = intervals.bootstrap(np.array([1.0, 2.0]), np.array([3.0, 4.0]), metrics.average_precision)
    assert (figure.value, figure.low, figure.high) == (1.0, None, None)


def test_a_share_of_few_images_is_never_certain():
    figure = intervals.bootstrap_share(
        np.arange(10.0), np.arange(10.0) + 100, lambda points: metrics.missed_at_rate(points, 0.1), total=10
    )
    assert (figure.value, figure.low) == (0.0, 0.0)
    assert figure.high == pytest.approx(0.3085, abs=1e-3)
