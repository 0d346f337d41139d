"""Drift: control charts with known false alarms, and the shifts that they find."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import scipy  # `stats`, whose import takes a second, is imported when it is used

from patchline.banks.held_out import FILE, HeldOut
from patchline.protocol.messages import Scores, Thresholds
from patchline.worker import drift
from patchline.worker.metrics import Metrics
from tests.unit.test_worker_parts import NOW, verdict

LABELS = {"line": "l", "category": "bottle"}


def held_out(scores, groups=None):
    """Held-out images with given image scores: each has one distance."""
    groups = np.arange(len(scores)) if groups is None else np.array(groups)
    return HeldOut(tuple(map(str, range(len(scores)))), groups, np.array(scores, np.float32)[:, None])


def alarms(rng, images, windows, shift=1.0, high=0.0, low=0.0, lines=400):
    """Whether each line raises an alarm. New parts score `shift` times as high as the held-out images."""
    first = drift.Reference.of(held_out(rng.lognormal(0, 0.3, images)), "max")
    result = []
    for _ in range(lines):
        median = np.sort(rng.lognormal(0, 0.3, images))[(images - 1) // 2]
        scores = shift * rng.lognormal(0, 0.3, (windows, drift.WINDOW_PARTS))
        scores[rng.random(scores.shape) < high] = 100.0
        scores[rng.random(scores.shape) < low] = 0.0
        shares = (scores > median).mean(axis=1)
        result.append(bool(((shares < first.lower) | (shares > first.upper)).any()))
    return np.array(result)


@pytest.mark.parametrize("images", [10, 40, 99, 1000])
def test_the_probability_of_a_false_alarm_in_ten_million_parts_is_at_most_one_percent(images):
    lower, upper = (round(limit * drift.WINDOW_PARTS) for limit in drift.limits(images))
    rank = (images + 1) // 2
    share = scipy.stats.beta.ppf((np.arange(20_000) + 0.5) / 20_000, images + 1 - rank, rank)

    def within_the_horizon(in_one_window):
        return np.mean(1 - (1 - in_one_window) ** 50_000)

    binom, parts = scipy.stats.binom, drift.WINDOW_PARTS
    low, lower_still = (binom.cdf(count - 1, parts, 0.8 * share) for count in (lower, lower + 1))
    high, higher_still = (binom.sf(count, parts, 0.2 + 0.8 * share) for count in (upper, upper - 1))
    assert within_the_horizon(low) <= 0.005 * 1.01
    assert within_the_horizon(high) <= 0.005 * 1.01
    assert within_the_horizon(lower_still) > 0.005  # no closer limits would do
    assert within_the_horizon(higher_still) > 0.005


def test_simulated_lines_raise_as_many_false_alarms_as_stated(monkeypatch):
    monkeypatch.setattr(drift, "WINDOWS", 40)
    monkeypatch.setattr(drift, "FALSE_ALARMS", 0.2)
    rng = np.random.default_rng(0)
    unchanged, high, low = (alarms(rng, 99, 40, **different).mean() for different in ({}, {"high": 0.2}, {"low": 0.2}))
    assert unchanged <= 0.02
    assert 0.05 <= high <= 0.14  # one side has half of the 20 %
    assert 0.05 <= low <= 0.14


@pytest.mark.parametrize("shift", [0.6, 1.7])
def test_a_shift_of_the_scores_is_found_within_a_window(shift):
    assert alarms(np.random.default_rng(1), 99, 1, shift).mean() >= 0.97


def test_defects_do_not_hide_a_shift_and_raise_no_alarm_alone():
    rng = np.random.default_rng(2)
    assert not alarms(rng, 99, 20, high=0.05).any()
    assert alarms(rng, 99, 1, shift=1.7, high=0.05).mean() >= 0.97


def test_more_held_out_images_find_smaller_shifts():
    limits = [drift.limits(images) for images in (10, 40, 99, 200, 1000)]
    assert limits == sorted(limits)
    assert [upper for _, upper in limits] == sorted((upper for _, upper in limits), reverse=True)


def test_one_image_of_each_group_counts_and_a_window_has_as_many_parts():
    scores, groups = np.repeat([1.0, 2.0, 3.0], 4), np.repeat([0, 1, 2], 4)
    reference = drift.Reference.of(held_out(scores, groups), "max")
    assert (reference.median, reference.window) == (2.0, 4 * drift.WINDOW_PARTS)
    assert (reference.lower, reference.upper) == drift.limits(3)


def test_windows_do_not_overlap_and_lines_have_charts_of_their_own():
    charts, reference = drift.Charts(), drift.Reference(1.0, 0.2, 0.8, window=4)
    shares = [charts.add("l1", "bottle", reference, score) for score in (2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5, 2.0)]
    assert shares == [None, None, None, 0.75, None, None, None, 0.25]
    assert charts.add("l2", "bottle", reference, 2.0) is None


def judged(score, **changes):
    return verdict(
        score=score, scores=Scores(max=score, topk10=score), thresholds=Thresholds(review=4, fail=5), **changes
    )


def bank(digest=None):
    manifest = SimpleNamespace(
        calibration=SimpleNamespace(held_out_median=2.0), thresholds=Thresholds(review=4, fail=5)
    )
    return SimpleNamespace(digest=digest, manifest=manifest)


def test_the_metrics_have_the_share_of_the_last_window_and_its_limits():
    metrics = Metrics("cpu:0", ["bottle"])
    metrics.set_bank("bottle", bank(), drift.Reference(1.0, 0.2, 0.8, window=2))
    value = metrics.registry.get_sample_value
    metrics.verdict_confirmed(judged(2.0), NOW)
    assert value("patchline_drift_share", LABELS) is None
    metrics.verdict_confirmed(judged(3.0), NOW)
    names = ("share", "lower_limit", "upper_limit")
    assert [value(f"patchline_drift_{name}", LABELS) for name in names] == [1.0, 0.2, 0.8]


def test_drift_follows_the_memory_bank():
    metrics = Metrics("cpu:0", ["bottle"])
    value, reference = metrics.registry.get_sample_value, drift.Reference(1.0, 0.2, 0.8, window=2)
    metrics.set_bank("bottle", bank("a" * 64), reference)
    for score in (2.0, 2.0, 2.0):
        metrics.verdict_confirmed(judged(score, bank_version="a" * 64), NOW)
    assert value("patchline_drift_share", LABELS) == 1.0
    metrics.set_bank("bottle", bank("b" * 64), reference)
    assert value("patchline_drift_share", LABELS) is None
    for version in "aab":  # jobs that were in hand have the previous version
        metrics.verdict_confirmed(judged(2.0, bank_version=version * 64), NOW)
    assert value("patchline_drift_share", LABELS) is None
    metrics.verdict_confirmed(judged(0.5, bank_version="b" * 64), NOW)
    assert value("patchline_drift_share", LABELS) == 0.5
    served = {"category": "bottle", "version": "b" * 12}
    assert value("patchline_bank_info", served) == 1
    assert value("patchline_bank_info", served | {"version": "a" * 12}) is None


@pytest.mark.parametrize("changes", [{"replay": True}, {"attempt": 2}])
def test_replayed_and_redelivered_parts_do_not_count_as_drift(changes):
    metrics = Metrics("cpu:0", ["bottle"])
    metrics.set_bank("bottle", bank(), drift.Reference(1.0, 0.2, 0.8, window=1))
    metrics.verdict_confirmed(judged(2.0, **changes), NOW)
    assert metrics.registry.get_sample_value("patchline_drift_share", LABELS) is None


def test_a_bank_without_held_out_scores_has_no_drift_metric(tmp_path):
    assert drift.Reference.read(tmp_path, SimpleNamespace(held_out_sha256=None)) is None
    metrics = Metrics("cpu:0", ["bottle"])
    metrics.verdict_confirmed(judged(2.0), NOW)
    assert metrics.registry.get_sample_value("patchline_drift_share", LABELS) is None


def test_a_damaged_file_of_held_out_scores_does_not_stop_a_worker(tmp_path, capsys):
    content = held_out([1.0, 2.0, 3.0]).to_bytes()
    manifest = SimpleNamespace(held_out_sha256=hashlib.sha256(content).hexdigest(), score="max", category="bottle")
    (tmp_path / FILE).write_bytes(content)
    assert drift.Reference.read(tmp_path, manifest).median == 2.0
    (tmp_path / FILE).write_bytes(content[:-10])
    assert drift.Reference.read(tmp_path, manifest) is None
