"""`banks add` and `banks remove` as a plant runs them, on the default backbone."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import calibration, one_by_one, serving, store
from patchline.banks.folds import FILE
from patchline.banks.held_out import HeldOut
from patchline.banks.open_bank import open_bank
from patchline.devices import backbone
from patchline.evaluation import seeds
from patchline.inspection.memory_bank import Change
from patchline.inspection.search import exact_search
from patchline.protocol.errors import OutliersError, SetupError
from tests import forked

pytestmark = pytest.mark.timeout(300)
CHANGE = Change(when="2026-01-01T00:00:00+00:00", who="a test")


@pytest.fixture
def home(tmp_path, plant):
    """A plant with a bank of 24 pieces of a wall."""
    for name in ("config.yaml", "faiss-index-precision"):
        source = plant / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    (tmp_path / "models").symlink_to(Path("models").resolve())
    return tmp_path


@pytest.fixture
def settings(home):
    return config.load(home / "config.yaml")


@pytest.fixture
def good(texture_folder):
    """Good pictures that are not in the bank."""
    return sorted((texture_folder / "test" / "good").iterdir())


@pytest.fixture
def scratch(texture_folder):
    return sorted((texture_folder / "test" / "scratch").iterdir())[0]


def run(home, *arguments):
    return forked.run(["banks", *arguments, "--config", "config.yaml"], folder=home)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_as_from_scratch(settings):
    """Compare held-out scores and thresholds with those from the pictures, every patch against every row."""
    with open_bank(settings, "brick", backbone.CPU, output=Path("unused")) as opened:
        folds, manifest, largest = opened.folds, opened.bank.manifest, []
        for number, group in enumerate(folds.groups):
            distances, _ = exact_search.exact_nearest(opened.patches_of(number), folds.rows.without(int(group))[0])
            largest.append(np.sort(distances)[::-1][:16])
        for image in np.unique(folds.rows.image):
            of_image = folds.rows.image == image
            assert np.array_equal(
                opened.patches_of(int(image))[folds.rows.patch[of_image]], folds.rows.features[of_image]
            )
        assert manifest.folds_sha256 == store.digest((opened.folder / FILE).read_bytes())
        scratch = HeldOut(folds.names, folds.groups, np.array(largest))
        assert np.array_equal(folds.rows.bank(), opened.bank.search.features)
        assert scratch.to_bytes() == (opened.folder / "held_out.json").read_bytes()
        assert calibration.calibrate(scratch, manifest.score, opened.target, manifest.calibration.method) == (
            manifest.thresholds,
            manifest.calibration,
        )


def test_images_are_added_and_removed_with_the_thresholds_from_scratch(home, settings, good):
    folder = settings.paths.memory_banks / "brick"
    before = store.load(folder).manifest
    result = run(home, "add", "brick", *good[:3], "--who", "Kim", "--why", "over-killed in May")
    assert result.returncode == 0, result.stderr
    assert f"added {good[0].name}: " in result.stdout
    assert "until now\n" in result.stdout
    assert "calibrated on 27 good images" in result.stdout
    assert_as_from_scratch(settings)
    result = run(home, "remove", "brick", "003.png", good[1].name, "--why", "a crack")
    assert result.returncode == 0, result.stderr
    assert "removed 003.png: " in result.stdout
    assert " by Kim: added " + ", ".join(path.name for path in good[:3]) + " (over-killed in May)" in result.stdout
    assert f": removed 003.png, {good[1].name} (a crack)" in result.stdout
    assert "calibrated on 25 good images" in result.stdout
    assert_as_from_scratch(settings)
    after = store.load(folder).manifest
    assert after.good_images == 25
    assert [(each.who == "Kim", each.why, each.added, each.removed) for each in after.changes] == [
        (True, "over-killed in May", tuple(path.name for path in good[:3]), ()),
        (False, "a crack", (), ("003.png", good[1].name)),
    ]
    assert before.changes == ()
    inspector = serving.load(settings, ["brick"], backbone.CPU, streams=1)["brick"]  # with its golden images
    with pytest.raises(SetupError, match="added or removed one by one"):
        seeds.recipe_of(settings, inspector)


def test_a_picture_that_does_not_belong_is_refused_and_the_bank_stays(home, settings, good, scratch, texture_folder):
    folder, new = settings.paths.memory_banks / "brick", home / "new"
    before = files(folder)
    new.mkdir()
    copy = shutil.copy(texture_folder / "train" / "good" / "005.png", new / "again.bmp.png")
    named_alike = shutil.copy(good[0], new / "005.png")
    mask = new / "white.png"
    cv2.imwrite(str(mask), np.full((128, 128), 255, np.uint8))
    thumbnail = new / "thumbnail.png"
    cv2.imwrite(str(thumbnail), cv2.resize(cv2.imread(copy), (64, 64), interpolation=cv2.INTER_AREA))
    for path, text in (
        (copy, "shows the same pixels as 005.png"),
        (named_alike, "another picture of the name 005.png"),
        (mask, "black and white"),
        (thumbnail, "as thumbnails of other images"),
        (new / "gone.png", "gone.png"),
    ):
        with pytest.raises(SetupError, match=text):
            one_by_one.add(settings, "brick", [good[1], Path(path)], CHANGE)
    result = run(home, "add", "brick", good[1], scratch)
    assert result.returncode == 1
    assert f"1 of the new images stand out from those of {folder}" in result.stderr
    assert f"--accept {scratch}" in result.stderr
    assert cv2.imread(str(home / "out" / "brick-review.png")) is not None
    assert files(folder) == before


def test_an_outlier_that_a_person_accepts_is_added_and_recorded(settings, scratch, tmp_path):
    with pytest.raises(OutliersError):
        one_by_one.add(settings, "brick", [scratch], CHANGE, out=tmp_path / "out")
    with pytest.raises(SetupError, match="is none of the images to add"):
        one_by_one.add(settings, "brick", [scratch], CHANGE, accepted=[Path("other.png")])
    changed = one_by_one.add(settings, "brick", [scratch], CHANGE, accepted=[scratch])
    assert changed.after.accepted_outliers == (scratch.name,)
    assert changed.after.thresholds.fail > changed.before.thresholds.fail
    removed = one_by_one.remove(settings, "brick", [scratch.name], CHANGE)
    assert removed.after.accepted_outliers == ()
    for key in ("index_sha256", "held_out_sha256", "thresholds", "calibration", "good_images", "candidate_patches"):
        assert getattr(removed.after, key) == getattr(changed.before, key)


def test_a_picture_that_was_saved_again_joins_the_group_of_its_picture(settings, texture_folder, tmp_path):
    again = tmp_path / "again.jpg"
    cv2.imwrite(str(again), cv2.imread(str(texture_folder / "train" / "good" / "005.png")), [1, 95])
    changed = one_by_one.add(settings, "brick", [again], CHANGE, output=tmp_path / "elsewhere")
    assert "held out together with images that it belongs to" in changed.lines[0]
    assert (changed.after.good_images, changed.after.calibration.images) == (25, 24)
    written = store.load(tmp_path / "elsewhere").manifest
    assert written == changed.after
    assert store.load(settings.paths.memory_banks / "brick").manifest == changed.before
    with pytest.raises(SetupError, match="is there already"):
        one_by_one.add(settings, "brick", [again], CHANGE, output=tmp_path)
    assert again.is_file()


def test_a_bank_that_cannot_be_changed_says_what_to_do(home, settings, good):
    folder = settings.paths.memory_banks / "brick"
    with pytest.raises(SetupError, match=r"nothing\.png: is not in the memory bank"):
        one_by_one.remove(settings, "brick", ["nothing.png"], CHANGE)
    with pytest.raises(SetupError, match=r"is not in the memory bank; 003\.png is"):
        one_by_one.remove(settings, "brick", ["good/003.png"], CHANGE)
    with pytest.raises(SetupError, match="18 good images are too few"):
        one_by_one.remove(settings, "brick", [f"{number:03}.png" for number in range(6)], CHANGE)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, text in (
        ({"clean_share": 0.15}, "was fitted with clean_share"),
        ({"calibration": manifest["calibration"] | {"defects": 9}}, "its thresholds come from images of defects"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(SetupError, match=text):
            one_by_one.add(settings, "brick", good[:1], CHANGE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "folds.npz").unlink()
    result = run(home, "add", "brick", good[0])
    assert result.returncode == 2
    assert "has lost its folds.npz" in result.stderr
    assert "fit it again with: patchline fit --category brick FOLDER" in result.stderr


def test_an_image_that_is_needed_again_and_has_changed_is_named(settings, good):
    with open_bank(settings, "brick", backbone.CPU, output=Path("unused")) as opened:
        path = opened.folds.looks[4].path
    kept = path.read_bytes()
    try:
        path.write_bytes(good[0].read_bytes())
        with pytest.raises(SetupError, match="is not the picture any more that is in the memory bank"):
            one_by_one.remove(settings, "brick", ["000.png"], CHANGE)
        path.unlink()
        with pytest.raises(SetupError, match="put it back, or fit again"):
            one_by_one.remove(settings, "brick", ["000.png"], CHANGE)
    finally:
        path.write_bytes(kept)


def test_two_commands_do_not_change_a_bank_at_the_same_time(settings, good):
    with open_bank(settings, "brick", backbone.CPU, output=None), pytest.raises(SetupError, match="by another command"):
        one_by_one.add(settings, "brick", good[:1], CHANGE)
