"""The Ascend device on the stand-in SDK: parity with the CPU, faults, and a whole worker."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import serving, store
from patchline.devices import backbone, loading, model_manifest, om_manifest
from patchline.evaluation import evaluate
from patchline.inspection.inspector import untimed
from patchline.models import adopt, atc, onnx_graph
from patchline.operations import doctor
from patchline.protocol.errors import DeviceLostError, Retry, SetupError
from patchline.protocol.messages import Decision
from tests import narrow_resnet
from tests.conftest import TEXTURES
from tests.parity.make_golden import brick_crop
from tests.queues import JOBS_QUEUE, SUSPECTS_QUEUE
from tests.standin import installation
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(300)
STANDIN = Path(__file__).parents[1] / "standin"
ASCEND = backbone.Device("ascend", 0)
# What can happen to an image, and the names of the stand-in for it: when it is sent, when its result is asked for, or
# in a plugin. The silence of a chip is a call that ends without a result in `stream`, and never ends in `base`.
FAULT_KINDS = {
    "error code": ["send", "code"],
    "empty result": ["empty"],
    "wrong size": ["size"],
    "late result": ["late"],
    "silence": ["sync"],
    "crash": ["die"],
    "a call that never returns": ["block"],
}
FAULTS = [fault for faults in FAULT_KINDS.values() for fault in faults]
FLOAT16 = 4e-3  # relative difference of a score


@pytest.fixture(scope="module")
def ascend_plant(plant, tmp_path_factory):
    """The plant with an .om of its model from the stand-in atc."""
    folder = tmp_path_factory.mktemp("ascend") / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    (folder / "models").unlink()
    shutil.copytree("models", folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
        atc.compile_om(folder / "models", "efficientnet_lite0", 128, None, atc.Target(folder / "models"))
    return folder


@pytest.fixture
def sdk(monkeypatch, tmp_path):
    """The environment of a machine with the SDK; returns a function that sets the next faults."""
    environment = {
        "MX_SDK_HOME": str(installation.install(tmp_path / "sdk")),
        "PATCHLINE_MINDX_PYTHON": sys.executable,
        "STANDIN_FAULTS": str(tmp_path),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def set_faults(every, names):
        (tmp_path / "every").write_text(str(every))
        (tmp_path / "faults").write_text("\n".join(names))

    set_faults(1, [])
    set_faults.folder = tmp_path
    return set_faults


@pytest.fixture(params=["stream", "base"])
def device(request, ascend_plant, sdk, monkeypatch):
    """A backbone on the stand-in, with each API of the SDK."""
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", request.param)
    model = loading.load(ascend_plant / "models", "efficientnet_lite0", 128, ASCEND, streams=1)
    yield model
    model.close()


@pytest.fixture(scope="module")
def on_cpu():
    return loading.load(Path("models"), "efficientnet_lite0", 128, backbone.CPU, streams=1)


def test_features_agree_with_the_cpu_within_float16(device, on_cpu):
    images = np.concatenate([brick_crop(), 255 - brick_crop(), np.zeros_like(brick_crop())])
    expected = on_cpu.extract(images)
    features = device.extract(images)
    assert (features.shape, features.dtype) == (expected.shape, np.float32)
    assert np.abs(features - expected).max() < 1e-3 * np.abs(expected).max()


def test_loading_writes_nothing_into_the_folder_of_the_models(ascend_plant, sdk):
    folder = ascend_plant / "models"
    before = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    loading.load(folder, "efficientnet_lite0", 128, ASCEND, streams=1).close()
    assert {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before


@pytest.mark.parametrize("origin", ["adopted", "air"])
@pytest.mark.parametrize("surface", ["stream", "base"])
def test_features_in_nchw_of_a_reference_model_are_transposed(tmp_path, sdk, monkeypatch, origin, surface):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    models = tmp_path / "models"
    name = narrow_resnet.write(models, 224, "layer2").name
    air = tmp_path / "reference.air"
    air.write_bytes(onnx_graph.encode(narrow_resnet.nchw(narrow_resnet.graph(224, "layer2"))))
    if origin == "adopted":  # float32 in and out, as the reference compiles it
        om = {"model": str(air), "input_shape": "images:1,3,224,224", "aipp": None, "output_type": "FP32"}
        (tmp_path / f"{name}.om").write_text(json.dumps(om))
        adopt.adopt(models, name, None, tmp_path / f"{name}.om", "Ascend310")
    else:
        monkeypatch.setattr(atc, "_AIR_INPUT", "images")
        assert atc.compile_om(models, name, None, air, atc.Target(models)).recorded
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    expected = loading.load(models, name, 224, backbone.CPU, streams=1, precision="f32").extract(images)
    with contextlib.closing(loading.load(models, name, 224, ASCEND, streams=1)) as device:
        features = device.extract(images)
    assert np.abs(features - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_a_new_host_returns_the_result_of_the_next_image(device, on_cpu, sdk, fault):
    first, second = brick_crop(), 255 - brick_crop()
    sdk(1, [fault])
    with pytest.raises(Retry):
        device.extract(first)
    features = device.extract(second)  # must not be a late result of the first image
    assert np.abs(features - on_cpu.extract(second)).max() < 0.05
    assert (sdk.folder / "happened").read_text().split() == [fault]


def test_a_device_that_fails_repeatedly_is_lost(device, sdk, monkeypatch):
    monkeypatch.setattr("patchline.devices.mindx_backbone._BACKOFF_S", (0.01, 0.05))
    sdk(1, ["die"] * 20)
    for _ in range(7):
        with pytest.raises(Retry):
            device.extract(brick_crop())
    with pytest.raises(DeviceLostError, match="8 times in a row"):
        device.extract(brick_crop())


def test_a_missing_interpreter_or_sdk_is_reported_at_the_start(ascend_plant, sdk, monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", "python-of-nobody")
    with pytest.raises(SetupError, match="set PATCHLINE_MINDX_PYTHON"):
        loading.load(ascend_plant / "models", "efficientnet_lite0", 128, ASCEND, streams=1)
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", sys.executable)
    monkeypatch.setenv("MX_SDK_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=r"MindX SDK cannot be imported.*PATCHLINE_ASCEND_SET_ENV"):
        loading.load(ascend_plant / "models", "efficientnet_lite0", 128, ASCEND, streams=1)


def test_the_error_for_a_missing_om_names_the_command():
    with pytest.raises(SetupError, match="patchline om efficientnet_lite0"):
        loading.load(Path("models"), "efficientnet_lite0", 128, ASCEND, streams=1)


@pytest.mark.parametrize("surface", ["stream", "base"])
def test_a_worker_survives_every_fault_and_every_verdict_belongs_to_its_image(
    line, ascend_plant, sdk, surface, monkeypatch
):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    drive_500_images(line, ascend_plant, sdk, surface, sdk_variables())


def drive_500_images(line, plant, sdk, label, variables):
    """Send 500 images to a worker whose device has every kind of fault, and compare the verdicts with the CPU's."""
    settings = config.load(plant / "config.yaml")
    inspector = serving.load(settings, ["brick"], backbone.CPU, streams=1)["brick"]
    images = [cv2.imencode(".png", image)[1].tobytes() for image in different_images(100)]
    images = [images[61 * number % 100] for number in range(100)]  # an order in which no two in a row score alike
    expected = [inspector.inspect(image, "image/png", untimed).score for image in images]
    score_of_the_one_before = np.roll(expected, 1)  # which a late result would have
    assert np.abs(score_of_the_one_before / expected - 1).min() > 2 * FLOAT16
    sdk(19, FAULTS * 3)
    line.folder = plant
    worker = line.worker("--device", "ascend:0", **variables)
    for number in range(500):
        # The retries of one run must not find the cached verdicts of the other.
        line.send(images[number % 100], f"{label}-{number}", part_id=f"p{number}")
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(500, timeout_s=200)}
    assert len(verdicts) == 500
    differences = []
    for number in range(500):
        verdict = verdicts[f"{label}-{number}"]
        assert verdict.decision not in (Decision.ERROR, Decision.EXPIRED)
        assert verdict.device == "ascend:0"
        differences.append(abs(verdict.score / expected[number % 100] - 1))
    assert max(differences) < FLOAT16
    happened = (sdk.folder / "happened").read_text().split()
    for kind, faults in FAULT_KINDS.items():
        assert [happened.count(fault) for fault in faults] == [3] * len(faults), kind
    counted = line.metric(worker.metrics_port, "patchline_device_failures_total")
    worker.send_signal(signal.SIGTERM)
    log = records(worker.communicate(timeout=60)[1])
    reasons = [record["reason"] for record in log if record["event"] == "ascend host failed"]
    assert counted == len(reasons)
    silent = sum(reason.startswith("it was silent") for reason in reasons)
    stalled = len(reasons) - len(happened)  # a machine that stalls for 3 s makes a host silent, too
    assert 0 <= stalled <= silent - happened.count("block"), reasons
    assert max(verdict.attempt for verdict in verdicts.values()) >= 2


def test_a_worker_whose_device_is_lost_ends_and_returns_its_jobs(line, ascend_plant, sdk, monkeypatch):
    line.folder = ascend_plant
    worker = line.worker("--device", "ascend:0", **sdk_variables())
    sdk(1, ["die"] * 100)
    image = cv2.imencode(".png", next(different_images(1)))[1].tobytes()
    for number in range(12):
        line.send(image, f"j{number}")
    assert worker.wait(60) == 2
    answered, left = line.answered_and_left(12, JOBS_QUEUE, SUSPECTS_QUEUE)
    assert answered | {delivery.message.message_id for delivery in left} == {f"j{number}" for number in range(12)}


def sdk_variables():
    """Those of this process, for another one."""
    prefixes = ("MX_SDK_HOME", "STANDIN_", "PATCHLINE_MINDX")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


def different_images(count):
    """Crops of a wall with larger and larger blots, so that their scores differ."""
    wall = cv2.imread(str(TEXTURES / "brick.png"))
    rng = np.random.default_rng(3)
    for number in range(count):
        y, x = rng.integers(0, 512 - 128, 2)
        crop = wall[y : y + 128, x : x + 128].copy()
        cv2.circle(crop, (64, 64), 2 + number // 2, tuple(int(v) for v in rng.integers(0, 255, 3)), -1)
        yield crop


def test_patchline_om_compares_the_golden_images(ascend_plant, line, sdk):
    line.folder = ascend_plant
    path = f"{STANDIN / 'bin'}:{os.environ['PATH']}"
    process = line.run("om", "efficientnet_lite0", "--side", "128", PATH=path, **sdk_variables())
    assert process.returncode == 0, process.err
    assert "recorded in efficientnet_lite0_128.om.json" in process.out
    assert "efficientnet_lite0 in f32 on cpu:0 at fit time against efficientnet_lite0 in f16 here" in process.out


def test_an_evaluation_tries_an_image_three_times(ascend_plant, texture_folder, sdk):
    path = next((texture_folder / "test" / "good").iterdir())
    settings = config.load(ascend_plant / "config.yaml")
    with contextlib.closing(serving.Loader(settings, ASCEND, streams=1)) as loader:
        inspector = loader.load("brick")
        expected = evaluate.inspect_file(inspector, path)[0].score
        sdk(1, ["code", "die"])
        assert evaluate.inspect_file(inspector, path)[0].score == expected
        sdk(1, ["code"] * 3)
        with pytest.raises(SetupError, match=path.name):
            evaluate.inspect_file(inspector, path)


def test_doctor_loads_the_categories_on_a_device(ascend_plant, sdk):
    settings = config.load(ascend_plant / "config.yaml")
    (finding,) = doctor.categories(settings, ASCEND)
    assert finding.state == "ok"
    assert re.search(r"efficientnet_lite0 \([0-9a-f]{12}\) in f16 on ascend:0; ready$", finding.text)


def test_a_bank_can_be_fitted_on_the_device_that_serves(ascend_plant, texture_folder, line, sdk, tmp_path):
    folder = tmp_path / "plant"
    shutil.copytree(ascend_plant, folder, symlinks=True)
    line.folder = folder
    good = str(texture_folder / "train" / "good")
    fitted = line.run("fit", "--category", "brick", "--device", "ascend:0", good, **sdk_variables())
    assert fitted.returncode == 0, fitted.err
    manifest = store.load(folder / "faiss-index-precision" / "brick").manifest
    assert (manifest.device, manifest.precision) == ("ascend:0", "f16")
    source = model_manifest.read(folder / "models", "efficientnet_lite0")
    om = om_manifest.read(folder / "models", source, 128)
    assert (manifest.backbone_sha256, manifest.source_sha256) == (om.sha256, source.sha256)
    before = store.load(ascend_plant / "faiss-index-precision" / "brick").manifest
    # Of 24 images the threshold is the highest score, which the choice of the coreset's rows moves by some per cent.
    assert manifest.calibration.held_out_median == pytest.approx(before.calibration.held_out_median, rel=0.02)
    serving.load(config.load(folder / "config.yaml"), ["brick"], backbone.CPU, streams=1)  # of the same source

    compiled_again = folder / "models" / om.file
    compiled_again.write_text(compiled_again.read_text() + " ")
    digest = model_manifest.digest(compiled_again)
    om_manifest.write(folder / "models", source.name, om.model_copy(update={"sha256": digest}))
    worker = line.run("worker", "--device", "ascend:0", **sdk_variables())
    assert worker.returncode == 78
    errors = [text for text in worker.err.splitlines() if text.startswith("patchline: ")]
    assert errors == [
        f"patchline: memory bank of brick: the sha256 of its model was {om.sha256} and is {digest}; "
        "fit it again with: patchline fit --category brick FOLDER"
    ]
