"""Pixel metrics from histograms against their definitions, one threshold and one region after the other."""

import cv2
import numpy as np
import pytest

from patchline.evaluation import intervals, pixel_metrics
from patchline.evaluation.pixel_counts import Defect, PixelCounts, PixelStatistics

LIMITS = (0.05, 0.3, 1.0)


def count(maps):
    """The counts of (scores, defects) pairs."""
    total = PixelCounts.zeros()
    for scores, defects in maps:
        total.add(PixelCounts.of_image(scores, defects))
    return total


def union(scores, defects):
    marked = np.zeros(scores.shape, bool)
    for defect in defects:
        marked |= defect.mask
    return marked


def area(rates, overlaps, limit):
    """The area below straight lines through the points, from (0, 0), up to a false-positive rate."""
    rates, overlaps = np.array([0.0, *rates]), np.array([0.0, *overlaps])
    inside = rates <= limit
    x, y = rates[inside], overlaps[inside]
    if x[-1] < limit:
        after = np.flatnonzero(~inside)[0]
        share = (limit - x[-1]) / (rates[after] - x[-1])
        x, y = np.append(x, limit), np.append(y, y[-1] + share * (overlaps[after] - y[-1]))
    return np.trapezoid(y, x) / limit


def points(maps, overlaps_of_image):
    """False-positive rate and mean overlap at each distinct score, by definition."""
    normal = np.concatenate([scores[~union(scores, defects)] for scores, defects in maps])
    rates, overlaps = [], []
    for threshold in np.unique(np.concatenate([scores.ravel() for scores, _ in maps]))[::-1]:
        rates.append((normal >= threshold).mean())
        found = [overlap for scores, defects in maps for overlap in overlaps_of_image(scores >= threshold, defects)]
        overlaps.append(np.mean(found))
    return rates, overlaps


def region_overlaps(above, defects):
    labels_count, labels = cv2.connectedComponents(union(above, defects).astype(np.uint8), connectivity=8)
    return [above[labels == label].mean() for label in range(1, labels_count)]


def saturated_overlaps(above, defects):
    return [min(np.count_nonzero(above & defect.mask) / defect.saturation, 1.0) for defect in defects]


def with_ties(levels=7, seed=0):
    """Maps with few distinct scores, and defects that touch, overlap and lie apart."""
    rng = np.random.default_rng(seed)
    maps = []
    for number in range(5):
        defects = []
        if number:
            first, second = np.zeros((24, 30), bool), np.zeros((24, 30), bool)
            first[2:9, 3:11] = True
            first[20, 20 + number] = True
            second[7:15, 9 : 12 + number] = True
            defects = [Defect(first, saturation=20.0), Defect(second, saturation=11.0 + number)]
        scores = rng.integers(1, levels, (24, 30)) / levels
        for defect in defects:
            scores[defect.mask] = np.minimum(scores[defect.mask] + 2 / levels, 1.0)
        maps.append((scores.astype(np.float32), defects))
    return maps


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("levels", "seed"), [(2, 0), (3, 1), (7, 2), (40, 3)])
def test_aupro_is_that_of_mvtec_also_with_equal_scores(levels, seed, limit):
    maps = with_ties(levels, seed)
    expected = area(*points(maps, region_overlaps), limit)
    assert pixel_metrics.aupro(count(maps), limit) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("levels", "seed"), [(2, 0), (3, 1), (7, 2), (40, 3)])
def test_spro_is_that_of_mvtec_loco_also_with_equal_scores(levels, seed, limit):
    maps = with_ties(levels, seed)
    expected = area(*points(maps, saturated_overlaps), limit)
    assert pixel_metrics.au_spro(count(maps), limit) == pytest.approx(expected, abs=1e-9)


def test_a_map_with_one_score_has_the_aupro_of_a_diagonal():
    mask = np.zeros((10, 10), bool)
    mask[2:5, 2:5] = True
    maps = [(np.full((10, 10), 0.5, np.float32), [Defect(mask, 9.0)])]
    assert pixel_metrics.aupro(count(maps), 0.3) == pytest.approx(0.15)  # half of the limit


def test_three_pixels_by_hand():
    """One defect of two pixels at 0.9 and 0.4, four normal pixels at 0.9, 0.4, 0.4 and 0.1."""
    scores = np.array([[0.9, 0.4, 0.9, 0.4, 0.4, 0.1]], np.float32)
    counts = count([(scores, [Defect(np.array([[True, True, False, False, False, False]]), 1.0)])])
    # Points (rate, overlap): (.25, .5), (.75, 1), (1, 1).
    assert pixel_metrics.aupro(counts, 0.5) == pytest.approx((0.25 * 0.25 + 0.25 * (0.5 + 0.75) / 2) / 0.5)
    # One pixel saturates the defect: (.25, 1), (.75, 1).
    assert pixel_metrics.au_spro(counts, 0.5) == pytest.approx((0.25 * 0.5 + 0.25 * 1.0) / 0.5)
    assert pixel_metrics.seg_f1_max(counts) == pytest.approx(4 / 7)  # at 0.4: 2 hits, 3 false alarms


@pytest.mark.parametrize("levels", [3, 50])
def test_pixel_auroc_and_f1_are_those_of_scikit_learn(levels):
    from sklearn.metrics import precision_recall_curve, roc_auc_score

    maps = with_ties(levels)
    labels = np.concatenate([union(*pair).ravel() for pair in maps])
    scores = np.concatenate([scores.ravel() for scores, _ in maps])
    counts = count(maps)
    assert pixel_metrics.auroc(counts) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert pixel_metrics.seg_f1_max(counts) == pytest.approx(expected, abs=1e-9)


def test_continuous_scores_differ_by_less_than_a_millionth():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    mask[40:90, 60:200] = mask[150:160, 150:160] = True
    maps = [((rng.gamma(3.0, 0.1, (256, 256)) * (1 + mask)).astype(np.float32), [Defect(mask, 50.0)]) for _ in range(3)]
    labels = np.tile(mask.ravel(), 3)
    scores = np.concatenate([scores.ravel() for scores, _ in maps])
    assert pixel_metrics.auroc(count(maps)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


def test_seg_f1_counts_pixels_from_the_fail_threshold_on():
    scores = np.array([[0.99, 1.0, 1.5, 2.0]], np.float32)
    counts = count([(scores, [Defect(np.array([[True, True, False, True]]), 1.0)])])
    assert pixel_metrics.seg_f1(counts) == pytest.approx(2 * 2 / (3 + 3))


def test_a_perfect_map_has_an_aupro_of_one_and_noise_that_of_chance():
    mask = np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True
    assert pixel_metrics.aupro(count([(mask.astype(np.float32), [Defect(mask, 1.0)])]), 0.3) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random((50, 50)).astype(np.float32)
    assert pixel_metrics.aupro(count([(noise, [Defect(mask, 1.0)])]), 0.3) == pytest.approx(0.15, abs=0.06)


def test_scores_far_below_and_above_the_threshold_are_counted():
    scores = np.array([[0.0, 1e-9, 1e9, 3.0]], np.float32)
    counts = count([(scores, [Defect(np.array([[False, False, True, False]]), 1.0)])])
    assert pixel_metrics.auroc(counts) == 1.0
    assert counts.normal.sum() == 3


def test_resampled_counts_of_every_image_once_are_the_coarse_counts():
    statistics = PixelStatistics()
    maps = with_ties()
    for scores, defects in maps:
        statistics.add("scratch" if defects else "good", PixelCounts.of_image(scores, defects))
    total = statistics.total(["good", "scratch"])
    resampled = statistics.resampled(np.ones((2, len(maps))))
    coarse = total.coarse()
    assert pixel_metrics.seg_f1(coarse) == pytest.approx(pixel_metrics.seg_f1(total), abs=1e-9)
    assert pixel_metrics.seg_f1(total) > 0
    metrics = (pixel_metrics.auroc, pixel_metrics.seg_f1, pixel_metrics.seg_f1_max)
    for metric in (*metrics, lambda counts: pixel_metrics.aupro(counts, 0.3)):
        assert metric(resampled) == pytest.approx(np.full(2, metric(coarse)), abs=1e-5)
        assert metric(coarse) == pytest.approx(metric(total), abs=0.02)


def test_what_is_kept_of_an_image_is_small():
    statistics = PixelStatistics()
    statistics.add("good", PixelCounts.of_image(np.ones((2048, 2048), np.float32), []))
    assert statistics.coarse[0].nbytes < 11_000


def test_resampling_draws_as_many_images_as_there_are():
    weights = intervals.resample_weights(np.random.default_rng(0), 30, samples=5)
    assert weights.sum(axis=1).tolist() == [30.0] * 5
