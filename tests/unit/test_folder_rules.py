"""A folder that holds more than good images is refused with the folder to give instead."""

from pathlib import Path

import numpy as np
import pytest

from patchline.banks import folder_rules
from patchline.protocol.errors import SetupError

ROOT = Path("data")
DATA_SETS = {
    "MVTec AD": (
        ["train/good/0.png", "test/good/0.png", "test/scratch/0.png", "ground_truth/scratch/0_mask.png"],
        "data/train/good",
    ),
    "MVTec LOCO": (
        ["train/good/0.png", "validation/good/0.png", "test/logical_anomalies/0.png", "ground_truth/x/0/0.png"],
        "data/train/good",
    ),
    "VisA": (
        ["Data/Images/Normal/0.JPG", "Data/Images/Anomaly/0.JPG", "Data/Masks/Anomaly/0.png"],
        "data/Data/Images/Normal",
    ),
    "BTAD": (["train/ok/0.bmp", "test/ok/1.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png"], "data/train/ok"),
    "several categories": (
        ["bottle/train/good/0.png", "bottle/test/good/0.png", "cable/train/good/0.png"],
        "data/bottle/train/good or data/cable/train/good",
    ),
    "OK and NG": (["OK/0.png", "NG/0.png"], "data/OK"),
    "without a folder of good images": (["0.png", "bad/0.png"], "a folder with images of good parts only"),
}


def require_good_only(names, root=ROOT):
    folder_rules.require_good_only(root, [root / name for name in names])


@pytest.mark.parametrize("layout", DATA_SETS)
def test_the_root_of_a_data_set_is_refused_with_the_folder_to_give(layout):
    names, advice = DATA_SETS[layout]
    with pytest.raises(SetupError) as caught:
        require_good_only(names)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("defect", "Defects_01", "NG", "ng-2024", "nok", "KO", "n.i.O.", "bad parts", "anomaly", "not_good", "not ok"),
        *("scratch_neck", "Reject", "masks", "ground_truth", "Ground Truth", "test", "GT"),
    ],
)
def test_a_subfolder_that_is_not_of_good_parts_is_refused(name):
    with pytest.raises(SetupError, match="rename it or give it as the folder"):
        require_good_only(["1.png", f"{name}/2.png"])
    require_good_only(["2.png"], ROOT / name)


@pytest.mark.parametrize(
    "name",
    [
        *("good", "OK", "i.O.", "no_defects", "defect-free", "without scratches", "2024-11-03", "camera 1", "latest"),
        *("contest", "bottle", "validation", "train", "labels", "Gutteile", "okay"),
    ],
)
def test_other_subfolders_are_accepted(name):
    require_good_only(["1.png", f"{name}/2.png"])


def test_a_mask_beside_its_picture_is_refused_by_its_name():
    with pytest.raises(SetupError, match="1 of its 2 images are masks"):
        require_good_only(["7.png", "7_mask.png"])
    require_good_only(["mask.png"])


def test_black_and_white_pictures_among_others_are_refused_with_a_name():
    rng = np.random.default_rng(0)
    mask = np.repeat(np.where(rng.random((64, 64, 1)) < 0.1, 255, 0), 3, axis=2).astype(np.uint8)
    saved_as_jpeg = np.clip(mask + rng.normal(0, 2, mask.shape), 0, 255).astype(np.uint8)
    picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
    masks = [folder_rules.is_mask(rgb) for rgb in (picture, picture, mask, picture, saved_as_jpeg)]
    assert masks == [False, False, True, False, True]
    paths = [Path(f"{number}.png") for number in range(5)]
    with pytest.raises(SetupError, match=r"2 of 5 good images are black and white.*such as 2\.png"):
        folder_rules.require_no_masks(paths, masks)
    folder_rules.require_no_masks(paths, [True] * 5)
