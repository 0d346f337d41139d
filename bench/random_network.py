"""WideResNet-101-2 up to its second or third layer, with random weights.

It is as fast as the real network, because weights do not change the speed. It is built with OpenVINO, so that the
benchmark does not need torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
from openvino import opset1 as ops

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.models import probes

_BLOCKS = ((3, 64, 1), (4, 128, 2), (23, 256, 2))  # blocks, planes, stride (Zagoruyko and Komodakis 2016)
_WIDEN, _EXPANSION = 2, 4
_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@dataclass(frozen=True)
class Network:
    """A network of the reference application: its number of layers, and the side of its images in pixels."""

    layers: int
    side: int

    @property
    def layer(self) -> str:
        """The layer that it returns the features of."""
        return f"layer{self.layers}"

    @property
    def name(self) -> str:
        """The backbone's name."""
        return f"wideresnet101_random_{self.layer}"


LAYER2, LAYER3 = Network(2, 224), Network(3, 320)


def write(models: Path, network: Network) -> None:
    """Write a backbone, its model and its manifest. An image has 784 x 512 features of layer2, 400 x 1024 of layer3."""
    models.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = ops.parameter([-1, 3, network.side, network.side], np.float32)
    features = _max_pool(_convolve_relu(rng, images, 64, 7, 2))
    for blocks, planes, stride in _BLOCKS[: network.layers]:
        for number in range(blocks):
            features = _bottleneck(rng, features, planes, stride if number == 0 else 1)
    pooled = ops.avg_pool(features, [1, 1], [1, 1], [1, 1], [3, 3], False)
    flat = ops.reshape(pooled, ops.constant(np.array([0, 0, -1])), True)
    patches = ops.transpose(flat, ops.constant(np.array([0, 2, 1])))
    path = models / f"{network.name}.xml"
    openvino.save_model(openvino.Model([patches], [images]), path, compress_to_fp16=False)
    sizes = {"stride": 2 ** (network.layers + 1), "dim": planes * _EXPANSION, "side": network.side}
    geometry = {"name": network.name, "file": path.name, "layer": network.layer, **sizes, **_IMAGENET}
    origin = {"weights": "random", "weights_sha256": "0" * 64, "licence": "none", "made_by": "the benchmark"}
    constants = {"side_multiple_of": 8, "input": "float32_nchw", "pools": True, "precision": "bf16"}
    manifest = ModelManifest.model_validate({**geometry, **origin, **constants, "sha256": model_manifest.digest(path)})
    model_manifest.write(models, probes.with_probes(path, manifest, [network.side]))


def _bottleneck(rng: np.random.Generator, inputs: openvino.Node, planes: int, stride: int) -> openvino.Node:
    width, outputs = planes * _WIDEN, planes * _EXPANSION
    x = _convolve_relu(rng, inputs, width, 1, 1)
    x = _convolve_relu(rng, x, width, 3, stride)
    x = _convolve(rng, x, outputs, 1, 1, gain=0.3)  # a small gain, or values would grow from block to block
    projected = inputs.get_output_partial_shape(0)[1].get_length() != outputs
    shortcut = _convolve(rng, inputs, outputs, 1, stride) if projected else inputs
    return ops.relu(ops.add(x, shortcut))


def _convolve_relu(
    rng: np.random.Generator, inputs: openvino.Node, outputs: int, size: int, stride: int
) -> openvino.Node:
    return ops.relu(_convolve(rng, inputs, outputs, size, stride))


def _convolve(
    rng: np.random.Generator, inputs: openvino.Node, outputs: int, size: int, stride: int, gain: float = 1.0
) -> openvino.Node:
    """Convolve with a bias. The real network has a batch normalisation, which compilation folds into a bias."""
    channels = inputs.get_output_partial_shape(0)[1].get_length()
    scale = gain * np.sqrt(2 / (channels * size * size))
    weights = (rng.standard_normal((outputs, channels, size, size)) * scale).astype(np.float32)
    bias = (rng.standard_normal((1, outputs, 1, 1)) * 0.1).astype(np.float32)
    padding = [size // 2, size // 2]
    convolved = ops.convolution(inputs, ops.constant(weights), [stride, stride], padding, padding, [1, 1])
    return ops.add(convolved, ops.constant(bias))


def _max_pool(inputs: openvino.Node) -> openvino.Node:
    return ops.max_pool(inputs, [2, 2], [1, 1], [1, 1], [3, 3])
