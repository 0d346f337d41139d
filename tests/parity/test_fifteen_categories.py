"""The evaluations of all fifteen categories on the stand-in of an Ascend agree with the CPU.

Weights are random, the networks narrow, and the images are made here. So this shows that everything is connected
rightly, and nothing about accuracy or speed.
"""

import json
import os
import sys
import zlib
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from patchline import config
from patchline.banks import serving, store
from patchline.cli.main import app
from patchline.devices import backbone, model_manifest
from patchline.evaluation import evaluate
from patchline.evaluation.reference import PUBLISHED
from patchline.models import convert
from tests import narrow_resnet
from tests.standin import installation

pytestmark = pytest.mark.timeout(900)
STANDIN = Path(__file__).parents[1] / "standin"
GOOD, TESTED = 4, 2  # images to fit, and of each kind to test
FLOAT16 = 0.005  # relative difference of a score


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory):
    """The environment of a machine with the SDK and atc."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
        patch.setenv("MX_SDK_HOME", str(installation.install(tmp_path_factory.mktemp("machine") / "sdk")))
        patch.setenv("PATCHLINE_MINDX_PYTHON", sys.executable)
        patch.setenv("PATCHLINE_MINDX_TIMEOUT_MS", "60000")
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder in the layout of MVTec AD for each category: grain of its own, with a smear for a defect."""
    folder = tmp_path_factory.mktemp("mvtec")
    for name in PUBLISHED:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        colour, grain = rng.integers(60, 190, 3), rng.uniform(1, 3)
        for path, has_defect in _paths(folder / name):
            noise = cv2.GaussianBlur(rng.standard_normal((96, 96, 3)), (0, 0), grain)
            pixels = np.clip(colour + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
            if has_defect:
                x, y = rng.integers(24, 72, 2).tolist()
                cv2.circle(pixels, (x, y), 12, rng.integers(0, 255, 3).tolist(), -1)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return folder


def _paths(folder):
    kinds = {folder / "train" / "good": GOOD, folder / "test" / "good": TESTED, folder / "test" / "smear": TESTED}
    return [
        (kind / f"{number:03}.png", kind.name == "smear") for kind, count in kinds.items() for number in range(count)
    ]


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """A folder with the categories of config.yaml in f32, and the four models with their `.om`."""
    folder = tmp_path_factory.mktemp("ascend")
    for side, layer in convert.REFERENCE_MODELS:
        narrow_resnet.write(folder / "models", side, layer)
    settings = config.load(Path("config.yaml"))
    rates = {"false_reject_rate": 0.2, "review_rate": 0.3}  # those that a few images can have
    changes = {"precision": "f32", **rates}
    categories = {name: settings.category(name).model_copy(update=changes) for name in PUBLISHED}
    paths = config.Paths(models=folder / "models", memory_banks=folder / "banks", spool=folder / "s", gate=folder / "g")
    config.save(settings.model_copy(update={"categories": categories, "paths": paths}), folder / "config.yaml")
    output = run(folder, "om", "--all")
    assert output.count(": recorded in ") == len(convert.REFERENCE_MODELS)
    return folder


def run(folder, *arguments):
    """Run a command in this process; returns what it printed."""
    result = CliRunner().invoke(app, [*arguments, "--config", str(folder / "config.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def fitted(plant, dataset):
    """The plant with a bank for each category, fitted on the device that serves."""
    for name in PUBLISHED:
        run(plant, "fit", "--category", name, "--device", "ascend:0", str(dataset / name / "train" / "good"))
    return plant


@pytest.fixture(scope="module")
def reports(fitted, dataset):
    """`precision.json` of each device."""
    reports = {}
    for device in ("ascend:0", "cpu:0"):
        out = fitted / f"out-{device}"
        run(fitted, "evaluate", "--all", "--dataset", str(dataset), "--out", str(out), "--device", device)
        reports[device] = json.loads((out / "precision.json").read_text())
    return reports


def test_every_category_is_evaluated_and_the_report_names_device_model_and_precision(reports, fitted):
    for device, precision in (("ascend:0", "f16"), ("cpu:0", "f32")):
        report = reports[device]
        assert (report["device"], report["skipped"], list(report["categories"])) == (device, {}, list(PUBLISHED))
        for category in report["categories"].values():
            assert (category["images"], category["defects"]) == (2 * TESTED, TESTED)
            ran_on = category["ran_on"]
            assert (ran_on["device"], ran_on["precision"]) == (device, precision)
            suffix = ".om" if device == "ascend:0" else ".onnx"
            digests = [model_manifest.digest(path) for path in (fitted / "models").glob(f"{ran_on['model']}*{suffix}")]
            assert ran_on["model_sha256"] in digests


def test_scores_and_auroc_agree_with_the_cpu_within_float16(reports, fitted, dataset):
    on_ascend, on_cpu = (reports[device]["categories"] for device in ("ascend:0", "cpu:0"))
    one_pair = 1 / TESTED**2  # two scores that are nearer than the precision may change places
    for name in PUBLISHED:
        for figure in ("instance_auroc", "instance_auroc_topk10"):
            assert on_ascend[name][figure] == pytest.approx(on_cpu[name][figure], abs=one_pair + 1e-9)
    settings = config.load(fitted / "config.yaml")
    scores = {}
    for device in (backbone.Device("ascend", 0), backbone.CPU):
        with closing(serving.Loader(settings, device, streams=1)) as loader:
            scores[device.kind] = [
                evaluate.inspect_file(loader.load(name), dataset / name / "test" / "smear" / "000.png")[0].score
                for name in PUBLISHED
            ]
    assert np.abs(np.divide(scores["ascend"], scores["cpu"]) - 1).max() < FLOAT16


def test_an_earlier_report_is_used_again_only_for_the_same_device(reports, fitted, dataset):
    out = fitted / "out-ascend:0"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.html")}
    arguments = ("evaluate", "--category", "bottle", "--dataset", str(dataset), "--out", str(out), "--device")
    run(fitted, *arguments, "ascend:0")
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.html")} == before
    run(fitted, *arguments, "cpu")
    assert json.loads((out / "bottle.json").read_text())["ran_on"]["device"] == "cpu:0"


def test_the_performance_evaluation_names_device_model_and_precision(fitted, dataset):
    out = fitted / "out-time"
    arguments = ("--category", "bottle", "--dataset", str(dataset), "--out", str(out), "--device", "ascend:0")
    output = run(fitted, "bench", *arguments)
    timing = json.loads((out / "performance.json").read_text())["categories"]["bottle"]
    assert (timing["ran_on"]["device"], timing["ran_on"]["precision"]) == ("ascend:0", "f16")
    assert timing["memory_bank"] == store.load(fitted / "banks" / "bottle").name
    assert "ascend:0, one thread" in output
