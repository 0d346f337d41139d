"""The four models of the reference in their real size, with random weights. Needs torch."""

import pytest

from patchline.models import convert


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A checkpoint of WideResNet-101-2 with random weights, with the parameters that are read and two more."""
    torch = pytest.importorskip("torch", reason="the extra `convert` is not installed")
    from patchline.models import networks

    torch.manual_seed(0)
    state = networks.ResNetPatches(networks.RESNETS["wideresnet101"], "layer3").state_dict()
    path = tmp_path_factory.mktemp("weights") / "wide_random.pth"
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048), "layer4.0.conv1.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="session")
def random_wideresnets(checkpoint, tmp_path_factory):
    """A folder with the four models."""
    pytest.importorskip("onnxscript", reason="the extra `convert` is not installed")
    folder = tmp_path_factory.mktemp("models")
    for side, layer in convert.REFERENCE_MODELS:
        convert.resnet(folder, "wideresnet101", side, layer, checkpoint)
    return folder
