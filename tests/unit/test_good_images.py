"""Which good images are used, and which belong together."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import fit, good_images
from patchline.protocol.errors import SetupError

RECIPE = {"backbone": "efficientnet_lite0", "layer": "blocks4+10", "resize": 64, "imagesize": 64}
BY_PART = r"([^/]+)_[^_/]*$"


def category(**changes):
    return config.Category.model_validate(RECIPE | changes)


def write_noise(path, seed, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode(path.suffix, np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8))[1].tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    """Three parts with two images each."""
    for seed, name in enumerate(("a_1", "a_2", "b_1", "b_2", "c_1", "c_2")):
        write_noise(tmp_path / "good" / f"{name}.png", seed)
    return tmp_path / "good"


def test_without_a_rule_each_image_is_a_group(folder):
    good = good_images.collect(folder, category())
    assert good.groups.tolist() == [0, 1, 2, 3, 4, 5]
    assert good.describe() == "6 good images"


def test_exact_copies_are_left_out_and_named(folder):
    shutil.copy(folder / "a_1.png", folder / "z.png")
    shutil.copytree(folder, folder / "again")
    good = good_images.collect(folder, category())
    assert len(good.paths) == 6
    assert {left_out.reason for left_out in good.left_out} == {good_images.EXACT_COPIES}
    assert good.describe() == f"6 good images; left out: exact copies (8, such as {folder}/again/a_1.png)"


def test_a_pattern_names_the_part_of_each_image(folder):
    good = good_images.collect(folder, category(group_by=BY_PART))
    assert good.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert good.describe() == "6 good images in 3 groups"


def test_a_pattern_that_does_not_fit_an_image_is_refused_with_its_name(folder):
    write_noise(folder / "other.png", 9)
    with pytest.raises(SetupError, match="names no group for 1 of 7 images, such as other"):
        good_images.collect(folder, category(group_by=BY_PART))


@pytest.mark.parametrize("pattern", ["(", "no parentheses", "(two)(pairs)"])
def test_a_pattern_without_one_group_is_refused_by_the_configuration(pattern):
    with pytest.raises(ValueError, match=r"regular expression|one pair of parentheses"):
        category(group_by=pattern)


def test_a_table_names_the_part_of_each_image(folder, tmp_path):
    table = tmp_path / "parts.csv"
    table.write_text("path,group\n" + "".join(f"{path.name},{path.name[2]}\n" for path in sorted(folder.iterdir())))
    good = good_images.collect(folder, category(group_table=table))
    assert good.groups.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("text", ["", "a_1.png,1", "path,group", "path,group\na_1.png,1", "path,group\na_1.png"])
def test_a_table_without_an_image_is_refused(folder, tmp_path, text):
    table = tmp_path / "parts.csv"
    table.write_text(text)
    with pytest.raises(SetupError, match=r"path,group|names no group for"):
        good_images.collect(folder, category(group_table=table))


def test_a_missing_table_is_named(folder, tmp_path):
    with pytest.raises(SetupError, match=r"gone.csv: cannot be read"):
        good_images.collect(folder, category(group_table=tmp_path / "gone.csv"))


def test_a_subset_keeps_the_images_and_their_groups():
    good = good_images.GoodImages(["a", "b", "c", "d"], np.array([0, 1, 1, 2]), []).subset([1, 2, 3])
    assert (good.paths, good.groups.tolist()) == (["b", "c", "d"], [0, 0, 1])


def test_one_group_only_is_refused_in_words():
    with pytest.raises(SetupError, match="group_by or group_table of the category name several groups"):
        fit._require_several_groups(np.array([0, 0, 0]))
    fit._require_several_groups(np.array([0, 1]))


def test_more_images_than_patches_are_refused_in_words():
    recipe = SimpleNamespace(paths=[None] * 1001, category=category(max_patches=1000))
    with pytest.raises(SetupError, match="set max_patches of the category to 1001 or more"):
        fit._patches_per_image(recipe)
