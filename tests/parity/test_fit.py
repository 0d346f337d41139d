"""`fit` on the folders that people really have: what is refused, what is left out, and what belongs together."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import forked

pytestmark = pytest.mark.timeout(180)
RECIPE = "{backbone: efficientnet_lite0, layer: blocks4+10, resize: 64, imagesize: 64, %s}"
SAME = ("index_sha256", "thresholds", "good_images")
FIVE_IMAGES = "false_reject_rate: 0.3, review_rate: 0.3"  # enough for these rates


def write_surface(path, seed, side=64):
    """Write a surface that no other seed has."""
    rough = np.random.default_rng(seed).integers(0, 255, (side // 4, side // 4), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC))[1])


@pytest.fixture
def home(tmp_path):
    """A folder with the models and six images of good parts."""
    (tmp_path / "models").symlink_to(Path("models").resolve())
    for seed in range(6):
        write_surface(tmp_path / "good" / f"part{seed // 2}_{seed % 2}.png", seed)
    return tmp_path


def fit(home, keys=FIVE_IMAGES, folder="good", options=()):
    (home / "config.yaml").write_text(f"categories:\n  part: {RECIPE % keys}\n")
    command = ["fit", "--category", "part", "--config", home / "config.yaml"]
    return forked.run([*command, *options, home / folder])


def error(result, code=2):
    """The line of an error that a user makes."""
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
    return result.stderr.splitlines()[-1]


def manifest(home):
    return json.loads((home / "faiss-index-precision" / "part" / "manifest.json").read_text())


def held_out(home):
    return json.loads((home / "faiss-index-precision" / "part" / "held_out.json").read_text())


def test_pictures_of_one_part_count_once_and_are_held_out_together(home):
    result = fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3, group_by: '([^_]+)_'")
    assert result.returncode == 0, result.stderr
    assert "6 good images in 3 groups" in result.stderr
    assert "calibrated on 6 good images in 3 groups" in result.stdout
    alone = fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3")
    assert "calibrated on 6 good images, each held out" in alone.stdout


def test_too_few_groups_are_refused(home):
    text = error(fit(home, f"{FIVE_IMAGES}, group_by: '(part)'"))
    assert "6 good images in 1 groups; each group counts as one image" in text


def test_a_bank_of_one_row_is_calibrated_with_another_row_for_the_image_it_comes_from(home):
    result = fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.004")
    assert result.returncode == 0, result.stderr
    assert "part: 1 patches of 152 numbers" in result.stdout
    lowest = min(image["largest"][-1] for image in held_out(home)["images"])
    assert lowest > 0  # nobody was compared with patches of the same image


def test_a_bank_keeps_the_distances_of_its_held_out_images_and_what_it_promises(home):
    result = fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3, group_by: '([^_]+)_', patch_rule: none")
    assert result.returncode == 0, result.stderr
    kept = held_out(home)["images"]
    assert sorted(image["image"] for image in kept) == sorted(path.name for path in (home / "good").iterdir())
    assert sorted(image["group"] for image in kept) == [0, 0, 1, 1, 2, 2]
    assert all(image["largest"] == sorted(image["largest"], reverse=True) for image in kept)
    scores = {image["group"]: 0.0 for image in kept}
    for image in kept:
        scores[image["group"]] = max(scores[image["group"]], np.mean(image["largest"][:10]))
    assert manifest(home)["thresholds"]["fail"] == pytest.approx(max(scores.values()), rel=1e-6)
    assert manifest(home)["calibration"]["failed"]["expected"] == pytest.approx(1 / 4)
    assert "Of 1,000 good parts, expect about 250 (16 to 632) with review or fail" in result.stdout


def test_a_patch_threshold_shares_the_rate_and_can_be_left_out(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    limits = manifest(home)["thresholds"]
    assert limits["patch_rule"] == "review"
    hot = [image["largest"][0] >= limits["patch"] for image in held_out(home)["images"]]
    high = [np.mean(image["largest"][:10]) >= limits["review"] for image in held_out(home)["images"]]
    assert sum(np.logical_or(hot, high)) <= 7 * 0.3
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3, patch_rule: none").returncode == 0
    assert manifest(home)["thresholds"]["patch"] is None


def test_a_trial_is_made_from_ten_images_and_claims_no_rate(home):
    too_few = error(fit(home, "coreset_ratio: 0.3"))
    assert "6 good images are too few for a false-reject rate of 1.0%" in too_few
    assert "make a trial bank with fit --trial" in too_few
    assert "it takes 10" in error(fit(home, "coreset_ratio: 0.3", options=["--trial"]))
    for seed in range(6, 10):
        write_surface(home / "good" / f"part{seed}_0.png", seed)
    result = fit(home, "coreset_ratio: 0.3", options=["--trial"])
    assert result.returncode == 0, result.stderr
    assert "with review, and none with fail: this is a trial" in result.stdout
    assert "fail from" not in result.stdout
    kept = manifest(home)
    assert kept["thresholds"]["trial"] is True
    assert kept["calibration"]["failed"] is None


def test_exact_copies_are_used_once(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    without_copies = manifest(home)
    for path in sorted((home / "good").iterdir()):
        (home / "good" / f"copy-of-{path.name}").write_bytes(path.read_bytes())
    result = fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3")
    assert "6 good images\nleft out: 6 exact copies, such as " in result.stderr
    assert [manifest(home)[key] for key in SAME] == [without_copies[key] for key in SAME]


def test_pictures_that_were_saved_again_are_held_out_with_their_pictures(home):
    """D3: the rate of rejects of new good parts must stay what was asked for."""
    keys = f"{FIVE_IMAGES}, coreset_ratio: 0.3"
    assert fit(home, keys).returncode == 0
    before = manifest(home)["thresholds"]["fail"]
    for path in sorted((home / "good").iterdir()):
        again = cv2.imencode(".jpg", cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        (home / "good" / f"{path.stem}.jpg").write_bytes(again)
    result = fit(home, keys)
    assert "12 good images in 6 groups, with 12 near-duplicates" in result.stderr
    assert "calibrated on 12 good images in 6 groups" in result.stdout
    assert manifest(home)["thresholds"]["fail"] > 0.8 * before
    assert fit(home, f"{keys}, near_duplicates: ignore").returncode == 0
    assert manifest(home)["thresholds"]["fail"] < 0.7 * before


def test_the_root_of_a_data_set_is_refused_with_the_folder_to_give(home):
    """D2: masks and defects must not be learnt."""
    for seed, name in enumerate(("train/good/0", "test/good/0", "test/scratch/0", "ground_truth/scratch/0_mask")):
        write_surface(home / "set" / f"{name}.png", 10 + seed)
    text = error(fit(home, folder="set"))
    assert f"give the folder of good parts only, {home}/set/train/good" in text
    assert not (home / "faiss-index-precision").exists()


def test_masks_among_good_images_are_refused_with_a_name(home):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 20:30] = 255
    (home / "good" / "zz.png").write_bytes(cv2.imencode(".png", mask)[1])
    assert f"such as {home}/good/zz.png: masks" in error(fit(home))


def calibrate(home, *arguments):
    return forked.run(["calibrate", "--category", "part", "--config", home / "config.yaml", *arguments])


def test_a_trial_stays_a_trial_at_other_rates(home):
    for seed in range(6, 10):
        write_surface(home / "good" / f"part{seed}_0.png", seed)
    assert fit(home, "coreset_ratio: 0.3", options=["--trial"]).returncode == 0
    assert "10 good images are too few" in error(calibrate(home))
    result = calibrate(home, "--false-reject-rate", "0.1", "--review-rate", "0.4")
    assert result.returncode == 0, result.stderr
    assert manifest(home)["thresholds"]["trial"] is True
    assert "none with fail: this is a trial" in result.stdout


def golden_scores(home):
    return json.loads((home / "faiss-index-precision" / "part" / "golden.json").read_text())


def test_another_rate_needs_no_fit(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3, patch_rule: none").returncode == 0
    before, golden, files = manifest(home), golden_scores(home), sorted((home / "faiss-index-precision/part").iterdir())
    result = calibrate(home, "--false-reject-rate", "0.4", "--review-rate", "0.6")
    assert result.returncode == 0, result.stderr
    after = manifest(home)
    scores = sorted(np.mean(image["largest"][:10]) for image in held_out(home)["images"])
    assert after["thresholds"]["review"] == pytest.approx(scores[2], rel=1e-6)  # the ceil(7 * 0.4) = 3rd smallest
    assert after["thresholds"]["fail"] == pytest.approx(scores[4], rel=1e-6)  # the ceil(7 * 0.6) = 5th smallest
    assert f"fail from {before['thresholds']['fail']:.4g}" in result.stdout.splitlines()[0]
    assert "until now" in result.stdout.splitlines()[0]
    assert "Of 1,000 good parts, expect about 571" in result.stdout
    assert "To keep these rates at the next fit, set them" in result.stdout
    assert "false_reject_rate: 0.4, review_rate: 0.6" in result.stdout
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"thresholds", "calibration"}
    assert (golden_scores(home), sorted((home / "faiss-index-precision/part").iterdir())) == (golden, files)


def test_a_calibration_with_the_rates_of_the_configuration_changes_nothing(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    before = manifest(home)
    assert calibrate(home).returncode == 0
    assert manifest(home) == before


def test_a_rate_that_the_images_cannot_carry_is_refused_and_nothing_changes(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    before = manifest(home)
    assert "6 good images are too few" in error(calibrate(home, "--false-reject-rate", "0.01"))
    assert "below false_reject_rate" in error(calibrate(home, "--review-rate", "0.2"))
    assert "less than 1" in error(calibrate(home, "--review-rate", "1.5"))
    assert manifest(home) == before


def test_thresholds_from_defects_miss_as_many_as_was_asked_for(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    for seed in range(10, 19):
        write_surface(home / "defects" / f"{seed}.png", seed, side=64)
    folder = str(home / "defects")
    assert "belong together" in error(calibrate(home, folder))
    assert "9 defects are too few to miss at most 1.0%" in error(calibrate(home, "--max-missed", "0.01", folder))
    result = calibrate(home, "--max-missed", "0.3", folder)
    assert result.returncode == 0, result.stderr
    assert "Of 1,000 defects like the 9 of this calibration, expect about 300" in result.stdout
    kept = manifest(home)
    assert kept["calibration"]["defects"] == 9
    assert kept["calibration"]["missed"]["expected"] == pytest.approx(0.3)
    costs = calibrate(home, "--cost-missed", "100", "--cost-rejected", "1", "--defect-share", "0.1", folder)
    assert costs.returncode == 0, costs.stderr
    assert manifest(home)["thresholds"]["review"] <= kept["thresholds"]["review"]


def test_a_bank_without_held_out_images_asks_for_a_fit(home):
    assert fit(home, f"{FIVE_IMAGES}, coreset_ratio: 0.3").returncode == 0
    path = home / "faiss-index-precision" / "part" / "manifest.json"
    older = manifest(home)
    del older["held_out_sha256"]
    path.write_text(json.dumps(older))
    assert "an earlier build made it" in error(calibrate(home))
    assert "fit it again with: patchline fit --category part FOLDER" in error(calibrate(home))
