"""The reference's four models, from a checkpoint in torchvision's format; where torch is installed."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `convert` is not installed")
pytest.importorskip("onnxscript", reason="the extra `convert` is not installed")

from patchline.devices import backbone, loading, model_manifest  # noqa: E402
from patchline.models import atc, convert, networks  # noqa: E402
from patchline.protocol.errors import SetupError  # noqa: E402

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # torch's own warnings
STANDIN = Path(__file__).parents[1] / "standin"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """WideResNet-101-2 with random weights, as torchvision would save it as far as it is read."""
    torch.manual_seed(0)
    state = networks.ResNetPatches(networks.RESNETS["wideresnet101"], "layer3").state_dict()
    path = tmp_path_factory.mktemp("weights") / "wide_random.pth"
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048), "layer4.0.conv1.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="module")
def models(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for side, layer in convert.REFERENCE_MODELS:
        convert.resnet(folder, "wideresnet101", side, layer, checkpoint)
    return folder


def pictures(side):
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
    found = model.extract(pictures(side))
    assert found.shape[1:] == shape
    normalised = (pictures(side) - np.array(convert.IMAGENET_MEAN)) / np.array(convert.IMAGENET_STD)
    with torch.no_grad():
        tensor = torch.from_numpy(normalised.astype(np.float32).transpose(0, 3, 1, 2).copy())
        expected = networks.resnet("wideresnet101", layer, checkpoint)(tensor).numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_model_that_does_not_pool_is_refused(models, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "patch_mean", lambda features: features)
    made = convert.resnet(tmp_path, "wideresnet101", 224, "layer2", checkpoint)
    pooled = model_manifest.read(models, "wideresnet101_224_layer2")
    model_manifest.write(tmp_path, made.model_copy(update={"rim": pooled.rim}))
    with pytest.raises(SetupError, match="3x3 mean or the normalisation is missing"):
        loading.load(tmp_path, "wideresnet101_224_layer2", 224, backbone.CPU, streams=1)


def test_normalisation_in_aipp_gives_what_normalisation_in_the_graph_gives(models, monkeypatch):
    name = "wideresnet101_224_layer2"
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("MX_SDK_HOME", str(STANDIN))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", os.sys.executable)
    assert "recorded" in atc.compile_om(models, name, None, None, "Ascend310")
    on_cpu = loading.load(models, name, 224, backbone.CPU, streams=1, precision="f32").extract(pictures(224))
    device = loading.load(models, name, 224, backbone.Device("ascend", 0), streams=1)
    found = device.extract(pictures(224))
    device.close()
    assert np.abs(found - on_cpu).max() < 2e-3 * np.abs(on_cpu).max()


def test_another_networks_checkpoint_is_refused(checkpoint, tmp_path):
    with pytest.raises(SetupError, match="no torchvision checkpoint of resnet50"):
        networks.resnet("resnet50", "layer2", checkpoint)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(SetupError, match=r"junk\.pth"):
        networks.resnet("wideresnet101", "layer2", tmp_path / "junk.pth")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SetupError):
        networks.resnet("wideresnet101", "layer2", tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()
