"""`evaluate` does not depend on the names of the files."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from patchline.inspection import picture

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


def evaluate(plant, folder, out):
    command = [sys.executable, "-m", "patchline", "evaluate", "--category", "brick", str(folder), "--out", str(out)]
    command += ["--config", str(plant / "config.yaml")]
    return subprocess.run(command, capture_output=True, check=False)


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
    decisions = [list(report.pop("decisions").values()) for report in reports]
    assert reports[0] == reports[1]
    assert decisions[0] == decisions[1]
    assert reports[0]["pixel_auroc"] is not None
    assert reports[0]["images"] == 16


def test_a_folder_that_does_not_exist_is_named(plant, tmp_path):
    result = evaluate(plant, tmp_path / "gone", tmp_path)
    assert result.returncode == 2
    assert result.stderr.decode().strip() == f"patchline: no such folder: {tmp_path / 'gone'}"
