"""The four models of the reference, from a checkpoint in the format of torchvision. Needs torch."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `convert` is not installed")
pytest.importorskip("onnxscript", reason="the extra `convert` is not installed")

from patchline.devices import backbone, loading, model_manifest  # noqa: E402
from patchline.models import atc, convert, networks  # noqa: E402
from patchline.protocol.errors import SetupError  # noqa: E402
from tests.standin import installation  # noqa: E402

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # warnings of torch
STANDIN = Path(__file__).parents[1] / "standin"


@pytest.fixture
def models(random_wideresnets):
    """The folder of the four models."""
    return random_wideresnets


def random_images(side):
    return np.random.default_rng(side).integers(0, 255, (2, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("side", "layer", "shape"),
    [
        (224, "layer2", (784, 512)),
        (280, "layer2", (1225, 512)),
        (320, "layer2", (1600, 512)),
        (320, "layer3", (400, 1024)),
    ],
)
def test_the_compiled_model_agrees_with_torch(models, checkpoint, side, layer, shape):
    model = loading.load(models, f"wideresnet101_{side}_{layer}", side, backbone.CPU, streams=1, precision="f32")
    features = model.extract(random_images(side))
    assert features.shape[1:] == shape
    normalised = (random_images(side) - np.array(convert.IMAGENET_MEAN)) / np.array(convert.IMAGENET_STD)
    with torch.no_grad():
        tensor = torch.from_numpy(normalised.astype(np.float32).transpose(0, 3, 1, 2).copy())
        expected = networks.resnet("wideresnet101", layer, checkpoint)(tensor).numpy()
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_model_without_the_3x3_mean_is_refused(models, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "patch_mean", lambda features: features)
    manifest = convert.resnet(tmp_path, "wideresnet101", 224, "layer2", checkpoint)
    pooled = model_manifest.read(models, "wideresnet101_224_layer2")
    model_manifest.write(tmp_path, manifest.model_copy(update={"probes": pooled.probes}))
    with pytest.raises(SetupError, match="probably the 3x3 mean is missing"):
        loading.load(tmp_path, "wideresnet101_224_layer2", 224, backbone.CPU, streams=1)


def test_normalisation_in_aipp_agrees_with_normalisation_in_the_graph(models, monkeypatch, tmp_path):
    name = "wideresnet101_224_layer2"
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("MX_SDK_HOME", str(installation.install(tmp_path)))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", os.sys.executable)
    assert atc.compile_om(models, name, None, None, atc.Target(models)).recorded
    on_cpu = loading.load(models, name, 224, backbone.CPU, streams=1, precision="f32").extract(random_images(224))
    device = loading.load(models, name, 224, backbone.Device("ascend", 0), streams=1)
    on_ascend = device.extract(random_images(224))
    device.close()
    assert np.abs(on_ascend - on_cpu).max() < 2e-3 * np.abs(on_cpu).max()


@pytest.mark.parametrize(("side", "layer"), convert.REFERENCE_MODELS)
def test_atc_reads_the_static_form_of_each_model_and_so_does_the_checker_of_onnx(models, monkeypatch, side, layer):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    name = f"wideresnet101_{side}_{layer}"
    assert atc.compile_om(models, name, None, None, atc.Target(models)).recorded
    static = onnx.load(models / f"{name}_{side}.atc.onnx")
    onnx.checker.check_model(static, full_check=True)
    assert [entry.version for entry in static.opset_import] == [11]


def test_the_checkpoint_of_another_network_is_refused(checkpoint, tmp_path):
    with pytest.raises(SetupError, match="no torchvision checkpoint of resnet50"):
        networks.resnet("resnet50", "layer2", checkpoint)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(SetupError, match=r"junk\.pth"):
        networks.resnet("wideresnet101", "layer2", tmp_path / "junk.pth")


def test_a_checkpoint_with_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"conv1.weight": Malicious()}, tmp_path / "malicious.pth")
    with pytest.raises(SetupError):
        networks.resnet("wideresnet101", "layer2", tmp_path / "malicious.pth")
    assert not (tmp_path / "owned").exists()
