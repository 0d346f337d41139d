"""Held-out images, thresholds, and what they promise."""

import numpy as np
import pytest

from patchline.banks import calibration, coreset, held_out, report
from patchline.banks.fit import _Coresets, _hold_out
from patchline.banks.held_out import HeldOut
from patchline.inspection.memory_bank import BankManifest, Calibration
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds


def farthest_first(points, kept, allowed, count):
    """The plain greedy rule in float64: the points that are added to those that are kept."""
    points, added = points.astype(np.float64), []
    for _ in range(count):
        distances = ((points[:, None] - points[[*kept, *added]][None]) ** 2).sum(axis=2).min(axis=1)
        distances[~allowed] = -1
        distances[[*kept, *added]] = -1
        added.append(int(distances.argmax()))
    return added


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_holes_of_a_held_out_group_are_closed_by_the_plain_greedy_rule(seed):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((600, 8)).astype(np.float32)
    groups = np.sort(rng.integers(0, 7, 600))
    rows = np.sort(coreset.select(points, 40, seed))
    for number, added in enumerate(coreset.replacements(points, rows, groups)):
        kept = rows[groups[rows] != number]
        assert added.tolist() == farthest_first(points, kept, groups != number, len(rows) - len(kept))


def test_replacements_never_come_from_the_held_out_group_and_end_when_no_point_is_left():
    points = np.repeat(np.arange(4, dtype=np.float32)[:, None], 3, axis=0)
    groups = np.repeat([0, 1, 2], 4)
    for number, added in enumerate(coreset.replacements(points, np.arange(12), groups)):
        assert added.size == 0, number
    for number, added in enumerate(coreset.replacements(points, np.arange(6), groups)):
        assert not (groups[added] == number).any()
        assert not set(added.tolist()) & set(range(6))


def test_a_held_out_image_is_not_compared_with_patches_of_its_group():
    candidates = np.array([[0.0], [1.0], [4.0], [9.0]], np.float32)
    groups = np.array([0, 0, 1, 2])
    coresets = _Coresets(
        candidates, np.array([0, 2]), groups[[0, 2]], [np.array([3]), np.array([1]), np.array([], int)]
    )
    distances = list(_hold_out(groups, [row[None] for row in candidates], coresets))
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
    stated = calibration.flagged_share(count, rate)
    assert flagged.mean() == pytest.approx(stated.expected, rel=0.02)
    assert (flagged <= stated.upper).mean() == pytest.approx(0.95, abs=0.01)
    assert (flagged >= stated.lower).mean() == pytest.approx(0.95, abs=0.01)
    assert stated.lower < stated.expected <= rate < stated.upper


def test_the_bounds_are_those_of_the_beta_distribution():
    stated = calibration.flagged_share(99, 0.01)
    assert stated.expected == pytest.approx(0.01)
    assert stated.upper == pytest.approx(1 - 0.05 ** (1 / 99), abs=1e-9)  # Beta(1, 99) in closed form
    assert stated.lower == pytest.approx(1 - 0.95 ** (1 / 99), abs=1e-9)


def test_the_bounds_of_many_images_are_finite_and_close():
    stated = calibration.flagged_share(20_000, 0.05)
    assert 0.045 < stated.lower < stated.expected < stated.upper < 0.055


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
    assert "expect about 50 (20 to 90) with review or fail, and about 10 (0.5 to 30) of them with fail" in text
    assert "How many defects will pass is unknown" in text
    assert "patchline evaluate --category gasket FOLDER" in text
