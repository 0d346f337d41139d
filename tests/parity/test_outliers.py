"""`fit` and `import-bank` on good images with one that does not belong to them: it is named and refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import forked
from tests.conftest import make_textures

pytestmark = pytest.mark.timeout(300)
BRICK = """
categories:
  brick: {backbone: efficientnet_lite0, layer: blocks4+10, resize: 128, imagesize: 128, coreset_ratio: 0.05,
          false_reject_rate: 0.05, review_rate: 0.1, clean_share: %s}
"""
BANK = Path("faiss-index-precision/brick")


@pytest.fixture
def home(tmp_path, texture_folder):
    """A folder with 24 good pieces of a wall and one with a scratch among them."""
    (tmp_path / "models").symlink_to(Path("models").resolve())
    (tmp_path / "config.yaml").write_text(BRICK % 0.0)
    shutil.copytree(texture_folder / "train" / "good", tmp_path / "good")
    scratch = sorted((texture_folder / "test" / "scratch").iterdir())[0]
    shutil.copy(scratch, tmp_path / "good" / "scratch.png")
    return tmp_path


def run(home, *arguments):
    return forked.run([*arguments, "--config", "config.yaml"], folder=home)


def fit(home, *options):
    return run(home, "fit", "--category", "brick", "good", *options)


def manifest(home):
    return json.loads((home / BANK / "manifest.json").read_text())


def test_a_defective_image_among_good_ones_is_named_and_no_bank_is_written(home):
    result = fit(home)
    assert result.returncode == 1
    text = result.stderr.splitlines()[-1]
    assert text.startswith("patchline: 1 of 25 images in good stand out, so no memory bank was written: scratch.png (")
    assert "--leave-out scratch.png" in text
    assert "--accept scratch.png" in text
    assert not (home / BANK).exists()


def test_the_sheet_of_a_refused_fit_shows_the_heat_map_of_the_defect(home):
    assert fit(home, "--out", "looked at").returncode == 1
    sheet = cv2.imread(str(home / "looked at" / "brick-review.png"))
    first, last = sheet[:256, :256].astype(int), sheet[:256, 5 * 256 : 6 * 256].astype(int)
    assert colourful(first) > 10 * (colourful(last) + 10)


def colourful(tile):
    """The number of pixels that are red, as the hottest places of a heat map are."""
    return int(((tile[..., 2] - tile[..., 0] > 80) & (tile[..., 2] - tile[..., 1] > 60)).sum())


def test_an_earlier_bank_stays_when_a_fit_is_refused(home):
    assert fit(home, "--leave-out", "scratch.png").returncode == 0
    before = (home / BANK / "manifest.json").read_bytes()
    assert fit(home).returncode == 1
    assert (home / BANK / "manifest.json").read_bytes() == before


def test_an_image_that_is_left_out_gives_the_bank_of_the_folder_without_it(home):
    left_out = fit(home, "--leave-out", "scratch.png")
    assert left_out.returncode == 0, left_out.stderr
    assert "left out: scratch.png" in left_out.stdout
    assert manifest(home)["left_out"] == ["scratch.png"]
    expected = manifest(home)
    (home / "good" / "scratch.png").unlink()
    assert fit(home).returncode == 0
    for key in ("index_sha256", "thresholds", "good_images"):
        assert manifest(home)[key] == expected[key]


def test_an_accepted_image_is_used_and_recorded(home):
    result = fit(home, "--accept", "scratch.png")
    assert result.returncode == 0, result.stderr
    assert "accepted outliers: scratch.png" in result.stdout
    assert manifest(home)["accepted_outliers"] == ["scratch.png"]
    assert manifest(home)["good_images"] == 25


def test_a_review_lists_all_images_and_writes_no_bank(home):
    result = fit(home, "--review")
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if ".png" in line]
    assert "scratch.png" in rows[0]
    assert "outlier" in rows[0]
    assert (home / "out" / "brick-review.png").is_file()
    assert not (home / BANK).exists()


def test_good_images_alone_are_fitted_without_a_word(home):
    (home / "good" / "scratch.png").unlink()
    result = fit(home)
    assert result.returncode == 0, result.stderr
    assert manifest(home)["left_out"] == manifest(home)["accepted_outliers"] == []
    assert not (home / "out").exists()


@pytest.mark.parametrize("option", ["--leave-out", "--accept"])
def test_a_chosen_image_that_does_not_exist_is_named(home, option):
    result = fit(home, option, "gone.png")
    assert result.returncode == 2
    assert "good/gone.png: is not there" in result.stderr.splitlines()[-1]


def test_a_copy_that_is_not_used_anyway_cannot_be_chosen(home):
    shutil.copy(home / "good" / "scratch.png", home / "good" / "scratch-again.png")
    result = fit(home, "--leave-out", "scratch.png")
    assert result.returncode == 2
    assert "is left out already (exact copies)" in result.stderr.splitlines()[-1]


def test_with_clean_share_an_outlier_is_left_out_and_recorded(home):
    (home / "config.yaml").write_text(BRICK % 0.15)
    result = fit(home)
    assert result.returncode == 0, result.stderr
    assert manifest(home)["left_out"] == ["scratch.png"]
    assert manifest(home)["clean_share"] == 0.15
    assert manifest(home)["good_images"] == 24


def test_an_import_refuses_outliers_among_the_good_images_too(home):
    assert fit(home, "--leave-out", "scratch.png").returncode == 0
    shutil.copytree(home / BANK, home / "elsewhere")
    shutil.rmtree(home / BANK)
    make_textures(home / "more", "brick.png", count=64)
    others = home / "more" / "train" / "good"
    for number in range(24):  # the bank was made of these
        (others / f"{number:03}.png").unlink()
    shutil.copy(home / "good" / "scratch.png", others)
    arguments = ("import-bank", "--category", "brick", "elsewhere", "more/train/good")
    result = run(home, *arguments)
    assert result.returncode == 1
    assert "scratch.png" in result.stderr.splitlines()[-1]
    assert not (home / BANK).exists()


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="the solar cells are an extra: demo")
def test_a_defective_solar_cell_among_99_good_ones_is_refused(home):
    from patchline.demo import cells

    data = cells.data_folder()
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    good, defects = ([data / row[0] for row in rows if row[1:] == [label, "mono"]] for label in ("0.0", "1.0"))
    order = np.random.default_rng(1)
    good = [good[number] for number in order.permutation(len(good))[:99]]
    defect = defects[order.permutation(len(defects))[0]]
    for path in [*good, defect]:
        (home / "cells" / path.name).parent.mkdir(exist_ok=True)
        (home / "cells" / path.name).symlink_to(path)
    recipe = "{backbone: efficientnet_lite0, layer: blocks4+10, resize: 256, imagesize: 256}"
    (home / "config.yaml").write_text(f"categories:\n  cell: {recipe}\n")
    result = run(home, "fit", "--category", "cell", "cells")
    assert result.returncode == 1
    assert f" of 100 images in cells stand out, so no memory bank was written: {defect.name} (" in result.stderr
    assert not (home / "faiss-index-precision").exists()
