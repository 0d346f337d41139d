"""A version with thresholds that a person has chosen."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from patchline.banks import held_out, report, set_thresholds, store
from patchline.banks.held_out import HeldOut
from patchline.banks.objects import MemoryObjects
from patchline.banks.shares import share_from_count
from patchline.banks.versions import Versions
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds

BANK = Path("tests/data/build_5fd44a6/brick")
NOW = 1_800_000_000_000
GOOD = 20  # held-out images, whose scores are 100, 200, ...


@pytest.fixture
def versions():
    opened = Versions(MemoryObjects(), "STORE", itertools.count(NOW).__next__)
    opened.make()
    return opened


def publish(versions, folder, limits, with_held_out=True):
    shutil.copytree(BANK, folder)
    changes = {"thresholds": limits}
    if with_held_out:
        largest = np.repeat(np.arange(1, GOOD + 1, dtype=np.float32)[:, None] * 100, 16, axis=1)
        content = HeldOut(tuple(map(str, range(GOOD))), np.arange(GOOD), largest).to_bytes()
        (folder / held_out.FILE).write_bytes(content)
        changes["held_out_sha256"] = held_out.digest(content)
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    store.replace_manifest(folder, manifest.model_copy(update=changes))
    return versions.publish(folder, "brick", "fit", "first")[0]


def test_a_version_has_the_same_rows_and_other_thresholds_and_says_who_set_them_and_why(versions, tmp_path):
    limits = Thresholds(review=1500.0, fail=1900.0, patch=1950.0, patch_rule="fail")
    first = publish(versions, tmp_path / "bank", limits)
    made = set_thresholds.publish(versions, "brick", first, 1750.0, 5000.0, "anna", "over-kill of week 48")
    before, after = versions.manifest("brick", first), versions.manifest("brick", made)
    assert after.thresholds == Thresholds(review=1750.0, fail=5000.0, patch=1950.0, patch_rule="fail")
    assert (after.index_sha256, after.held_out_sha256) == (before.index_sha256, before.held_out_sha256)
    (change,) = after.changes
    assert (change.who, change.why, change.thresholds) == ("anna", "over-kill of week 48", after.thresholds)
    assert after.calibration.flagged == share_from_count(GOOD, 3)  # 1800, 1900 and 2000
    assert after.calibration.failed == share_from_count(GOOD, 1)  # for its hottest patch
    assert (after.calibration.missed, after.calibration.defects) == (None, None)
    record = versions.state("brick").records[-1]
    assert (record.act, record.version, record.who, record.why) == ("publish", made, "anna", "over-kill of week 48")
    assert versions.state("brick").active is None
    limits = "fail from 5000, review from 1750, fail from 1950 of one patch"
    said = f"by anna: thresholds set to {limits} (over-kill of week 48)"
    assert said in report.describe(after)
    again = set_thresholds.publish(versions, "brick", made, 1500.0, 1900.0, "bert", "back")
    assert [one.who for one in versions.manifest("brick", again).changes] == ["anna", "bert"]


def test_a_bank_without_held_out_images_says_nothing_of_good_parts_and_a_trial_nothing_of_fails(versions, tmp_path):
    old = publish(versions, tmp_path / "old", Thresholds(review=900.0, fail=1000.0), with_held_out=False)
    made = set_thresholds.publish(versions, "brick", old, 800.0, 1000.0, "anna", "misses")
    assert versions.manifest("brick", made).calibration.flagged is None
    trial = publish(versions, tmp_path / "trial", Thresholds(review=1500.0, fail=1500.0, trial=True))
    made = set_thresholds.publish(versions, "brick", trial, 1900.0, 1900.0, "anna", "fewer reviews")
    bank = versions.manifest("brick", made)
    assert bank.thresholds.trial is True
    assert (bank.calibration.flagged, bank.calibration.failed) == (share_from_count(GOOD, 2), None)


def test_thresholds_that_make_no_sense_are_refused_and_nothing_is_published(versions, tmp_path):
    version = publish(versions, tmp_path / "bank", Thresholds(review=900.0, fail=1000.0))
    before = versions.state("brick")
    cases = {
        (1001.0, 1000.0): "the review threshold 1001.0 is above the fail threshold 1000.0",
        (900.0, 1000.0): "has these thresholds already",
        (float("nan"), 1000.0): "these thresholds make no sense",
        (-1.0, 1000.0): "these thresholds make no sense",
        (900.0, float("inf")): "these thresholds make no sense",
    }
    for (review, fail), text in cases.items():
        with pytest.raises(SetupError, match=text):
            set_thresholds.publish(versions, "brick", version, review, fail, "anna", "because")
    with pytest.raises(SetupError, match="is no version"):
        set_thresholds.publish(versions, "brick", "f" * 64, 800.0, 1000.0, "anna", "because")
    assert versions.state("brick") == before
    versions.retire("brick", version, "anna", "bad")
    with pytest.raises(SetupError, match="is retired"):
        set_thresholds.publish(versions, "brick", version, 800.0, 1000.0, "anna", "because")
