"""`evaluate` as a user runs it: names of files, kinds of masks, the report."""

import base64
import dataclasses
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.banks import fit, serving, store
from patchline.banks.row_origins import RowOrigins
from patchline.devices import backbone
from patchline.evaluation import seeds
from patchline.inspection import picture, preprocess
from patchline.runtime import terminal
from tests import forked

pytestmark = pytest.mark.timeout(180)
NOT_UTF8 = os.fsdecode(b"part-\xff-")


def copy(texture_folder, target, prefix, defects):
    """Copy the test images, with a mask for each defect that covers the middle."""
    for kind, name in (("good", "good"), ("scratch", defects)):
        (target / "test" / name).mkdir(parents=True)
        (target / "ground_truth" / name).mkdir(parents=True)
        for path in sorted((texture_folder / "test" / kind).glob("*.png")):
            shutil.copy(path, target / "test" / name / f"{prefix}{path.name}")
            mask = np.zeros(cv2.imread(str(path)).shape, np.uint8)
            mask[20:80, 20:80] = 255
            encoded = picture.encode_png(mask)
            (target / "ground_truth" / name / f"{prefix}{path.stem}_mask.png").write_bytes(encoded)


def evaluate(plant, folder, out, *options):
    command = ["evaluate", "--category", "brick", folder, "--out", out, "--config", plant / "config.yaml", *options]
    return forked.run(command, text=False)


@pytest.mark.parametrize("defects", ["scratch", os.fsdecode(b"scratch-\xfe")], ids=["files", "files and folder"])
def test_file_names_that_are_not_utf8_change_no_figure(plant, texture_folder, tmp_path, defects):
    copy(texture_folder, tmp_path / "plain", "part-", "scratch")
    copy(texture_folder, tmp_path / NOT_UTF8, NOT_UTF8, defects)
    reports = []
    for name in ("plain", NOT_UTF8):
        result = evaluate(plant, tmp_path / name, tmp_path / f"out-{name}")
        assert result.returncode == 0, result.stderr
        reports.append(json.loads((tmp_path / f"out-{name}" / "brick.json").read_bytes()))
        assert (tmp_path / f"out-{name}" / "brick-mistakes.png").stat().st_size > 0
        assert (tmp_path / f"out-{name}" / "brick.html").stat().st_size > 0
    # The name of a kind is part of its key.
    by_kind = [[list(report.pop(key).values()) for key in ("decisions", "kinds")] for report in reports]
    assert reports[0] == reports[1]
    assert by_kind[0] == by_kind[1]
    assert reports[0]["pixel_auroc"] is not None
    assert reports[0]["images"] == 16


def test_a_folder_that_does_not_exist_is_named(plant, tmp_path):
    result = evaluate(plant, tmp_path / "gone", tmp_path)
    assert result.returncode == 2
    assert result.stderr.decode().strip() == f"patchline: no such folder: {tmp_path / 'gone'}"


def write_mask(kind, folder, stem, mask):
    """Write a mask of bool in one of the ways that data sets have."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "16 bits":
        cv2.imwrite(str(folder / f"{stem}_mask.png"), mask.astype(np.uint16))
    elif kind == "a folder per image":
        (folder / stem).mkdir()
        cv2.imwrite(str(folder / stem / "000.png"), mask.astype(np.uint8) * 255)
    else:
        suffix = {"bmp": "bmp", "capital letters": "PNG", "plain": "png"}[kind]
        cv2.imwrite(str(folder / f"{stem}.{suffix}"), mask.astype(np.uint8) * 255)


def report_with_masks(plant, texture_folder, tmp_path, kind):
    folder = tmp_path / kind
    shutil.copytree(texture_folder / "test", folder / "test")
    for path in sorted((texture_folder / "ground_truth" / "scratch").glob("*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0
        write_mask(kind, folder / "ground_truth" / "scratch", path.stem.removesuffix("_mask"), mask)
    result = evaluate(plant, folder, tmp_path / f"out-{kind}")
    assert result.returncode == 0, result.stderr
    return json.loads((tmp_path / f"out-{kind}" / "brick.json").read_text())


def test_masks_of_every_usual_kind_give_the_same_figures(plant, texture_folder, tmp_path):
    expected = report_with_masks(plant, texture_folder, tmp_path, "plain")
    assert expected["pixel"]["aupro"]["value"] > 0.5
    for kind in ("bmp", "capital letters", "16 bits", "a folder per image"):
        assert report_with_masks(plant, texture_folder, tmp_path, kind) == expected, kind


def test_a_mask_of_an_image_with_an_orientation_tag_is_refused_if_it_may_be_turned(plant, texture_folder, tmp_path):
    folder = tmp_path / "turned"
    shutil.copytree(texture_folder, folder)
    path = next((folder / "test" / "scratch").iterdir())
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.open(path).save(path.with_suffix(".jpg"), exif=tags, quality=100)
    path.unlink()
    result = evaluate(plant, folder, tmp_path / "out")
    assert result.returncode == 2
    error = result.stderr.decode().splitlines()[-1]
    assert f"{path.stem}_mask.png: its image has the orientation tag 6" in error


@pytest.fixture(scope="module")
def evaluated(plant, texture_folder, tmp_path_factory):
    """The report and the page of the brick wall, with a file and a folder that nobody uses."""
    folder, out = tmp_path_factory.mktemp("evaluated") / "brick", tmp_path_factory.mktemp("out")
    shutil.copytree(texture_folder, folder)
    (folder / "test" / "scratch" / "notes.txt").write_text("checked by hand")
    (folder / "raw").mkdir()
    result = evaluate(plant, folder, out)
    assert result.returncode == 0, result.stderr
    return json.loads((out / "brick.json").read_text()), (out / "brick.html").read_text(), result.stdout.decode()


def test_the_page_contains_everything_and_points_to_nothing(evaluated):
    _, page, _ = evaluated
    assert set(re.findall(r'src="([^"]{0,22})', page)) == {"data:image/jpeg;base64"}
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)
    for encoded in re.findall(r'base64,([^"]+)"', page):
        assert cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR) is not None


def test_the_report_says_what_a_plant_engineer_needs(evaluated):
    report, page, printed = evaluated
    missed, rejected = report["decisions"]["scratch"]["pass"], report["decisions"]["good"]["fail"]
    assert f"because {missed} of 8 defects did" in report["summary"]
    assert f"because {rejected} of 8 good test images were" in report["summary"]
    assert report["summary"] in page
    assert report["summary"] in printed


def test_the_report_quotes_what_the_memory_bank_promised(plant, evaluated):
    report, page, _ = evaluated
    settings = config.load(plant / "config.yaml")
    calibration = store.load(settings.paths.memory_banks / "brick").manifest.calibration
    expected, lower, upper = (round(1000 * getattr(calibration.flagged, key)) for key in ("expected", "lower", "upper"))
    promise = f"Because of 24 good images, the memory bank promises that of 1,000 good parts about {expected} "
    assert report["summary"].startswith(promise + f"({lower} to {upper}) are flagged")
    assert "More of these test images are flagged" not in report["summary"]
    assert promise in page


def test_test_images_that_break_the_promise_are_said_to_differ(plant, texture_folder, tmp_path):
    shutil.copytree(texture_folder / "test", tmp_path / "other" / "test")
    for path in (tmp_path / "other" / "test" / "good").iterdir():
        cv2.imwrite(str(path), cv2.bitwise_not(cv2.imread(str(path))))
    result = evaluate(plant, tmp_path / "other", tmp_path / "out")
    assert "More of these test images are flagged: they differ" in result.stdout.decode()


def test_each_figure_lies_inside_of_its_interval(evaluated):
    report, _, _ = evaluated
    figures = [*report["image"].values(), *report["pixel"].values(), report["kinds"]["scratch"]["missed"]]
    figures = [figure for figure in figures if figure is not None]
    assert len(figures) == 14
    for figure in figures:
        if figure["low"] is not None:
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1


def test_what_is_not_used_is_said(evaluated):
    report, page, printed = evaluated
    assert [note.rpartition("/")[2] for note in report["notes"]] == [
        "scratch: 1 files are no images, such as notes.txt",
        "raw: not used",
    ]
    for note in report["notes"]:
        assert note in page
        assert note in printed


def test_test_images_that_are_copies_of_training_images_are_named(plant, texture_folder, tmp_path):
    shutil.copytree(texture_folder, tmp_path / "brick")
    clean = evaluate(plant, tmp_path / "brick", tmp_path / "out")
    assert b"copies of training images" not in clean.stdout + clean.stderr
    for number in range(3):
        source = tmp_path / "brick" / "train" / "good" / f"{number:03}.png"
        shutil.copy(source, tmp_path / "brick" / "test" / "good" / f"copy{number}.png")
    result = evaluate(plant, tmp_path / "brick", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert b"3 of 19 test images are copies of training images" in result.stdout + result.stderr


def test_each_row_of_a_bank_is_the_patch_that_its_origin_names(plant):
    settings = config.load(plant / "config.yaml")
    inspector = serving.load(settings, ["brick"], backbone.CPU, streams=1)["brick"]
    origins = RowOrigins.load(settings.paths.memory_banks / "brick")
    bank = inspector.bank.search.features
    assert origins.image.size == origins.patch.size == len(bank)
    for row in range(0, len(bank), 17):
        path = origins.paths[origins.image[row]]
        rgb = inspector.decode(path.read_bytes(), "image/png")
        prepared = preprocess.prepare(rgb, inspector.category.resize, inspector.category.imagesize)
        features = inspector.backbone.extract(prepared[None])[0]
        assert np.array_equal(features[origins.patch[row]], bank[row])


def test_the_nearest_good_patch_is_shown_in_its_own_picture(plant, evaluated):
    _, page, _ = evaluated
    assert page.count("nearest good patch: ") == 12
    named = set(re.findall(r"nearest good patch: (\d+\.png)", page))
    assert named <= {path.name for path in RowOrigins.load(plant / "faiss-index-precision" / "brick").paths}
    assert page.count("<img") == 24


def without_its_good_pictures(plant, tmp_path, state):
    """Copy the plant. The good pictures of its bank are missing, changed or not recorded. Return its folder."""
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    path = folder / "faiss-index-precision" / "brick" / "rows.npz"
    origins = RowOrigins.load(path.parent)
    copies = tuple(tmp_path / old.name for old in origins.paths)
    for copy_, old in zip(copies, reversed(origins.paths), strict=True):
        if state == "changed":
            shutil.copy(old, copy_)
    path.write_bytes(dataclasses.replace(origins, paths=copies).encode())
    if state == "earlier build":
        path.unlink()
    return folder


@pytest.mark.parametrize("state", ["missing", "changed", "earlier build"])
def test_a_good_picture_that_is_not_there_any_more_is_said(plant, texture_folder, tmp_path, state):
    folder = without_its_good_pictures(plant, tmp_path, state)
    result = evaluate(folder, texture_folder, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "out" / "brick.html").read_text()
    expected = {
        "missing": "which cannot be read any more",
        "changed": "which has changed since the fit",
        "earlier build": "This memory bank does not say where its patches came from",
    }
    assert expected[state] in page
    assert page.count("<img") == 12


@pytest.fixture(scope="module")
def compared(plant, texture_folder, tmp_path_factory):
    """The report and the page of the brick wall with three seeds."""
    out = tmp_path_factory.mktemp("seeds")
    result = evaluate(plant, texture_folder, out, "--seeds", "3")
    assert result.returncode == 0, result.stderr
    return json.loads((out / "brick.json").read_text()), (out / "brick.html").read_text(), result.stdout.decode()


def test_figures_over_seeds_come_from_different_banks_of_the_same_good_images(compared, evaluated):
    report, page, printed = compared
    assert report["seeds"]["seeds"] == [0, 1, 2]
    for name in ("auroc", "average_precision", "missed_at_asked_rate"):
        spread = report["seeds"][name]
        assert spread["values"][0] == pytest.approx(report["image"][name]["value"], abs=1e-6)  # the served bank
        assert spread["mean"] == pytest.approx(np.mean(spread["values"]))
        assert spread["deviation"] == pytest.approx(np.std(spread["values"], ddof=1))
    title = "3 memory banks from the same good images, seeds 0 to 2"
    assert title in page
    assert title in printed
    assert "memory banks from the same good images" not in evaluated[1]


def test_other_seeds_change_the_scores_of_the_same_images(plant):
    settings = config.load(plant / "config.yaml")
    inspector = serving.load(settings, ["brick"], backbone.CPU, streams=1)["brick"]
    recipe = seeds.recipe_of(settings, inspector)
    with terminal.progress() as progress:
        banks = [fit.make_bank(recipe, seed, progress) for seed in (0, 1)]
    assert np.array_equal(banks[0], inspector.bank.search.features)
    assert banks[1].shape == banks[0].shape
    assert not np.array_equal(banks[1], banks[0])


@pytest.mark.parametrize("state", ["missing", "changed", "earlier build"])
def test_seeds_are_refused_if_the_good_images_are_not_those_of_the_bank(plant, texture_folder, tmp_path, state):
    first = RowOrigins.load(plant / "faiss-index-precision" / "brick").paths[0].name
    folder = without_its_good_pictures(plant, tmp_path, state)
    result = evaluate(folder, texture_folder, tmp_path / "out", "--seeds", "2")
    expected = {
        "missing": f"but {tmp_path / first} is not there any more",
        "changed": "have changed since its memory bank was made; fit it again",
        "earlier build": "does not say which images it was made of, so --seeds cannot be used; fit it again",
    }
    assert result.returncode == 2
    assert expected[state] in result.stderr.decode()


def test_seeds_need_one_category(plant, texture_folder, tmp_path):
    options = ("--dataset", str(texture_folder), "--seeds", "2")
    result = evaluate(plant, texture_folder, tmp_path, *options)
    assert result.returncode == 2
    assert "--seeds compares memory banks of one category" in result.stderr.decode()
