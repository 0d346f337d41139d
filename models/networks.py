"""The networks of backbones in torch, up to the layers of their features. Only `convert` imports this file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from patchline.protocol.errors import SetupError


@dataclass(frozen=True)
class Architecture:
    """A torchvision ResNet: blocks per layer, width of the bottleneck, and the file of its published weights."""

    blocks: tuple[int, int, int, int]
    base_width: int
    weights: str


# Block counts and widths: He et al., 2015, and Zagoruyko and Komodakis, 2016. Weights: torchvision.
RESNETS = {
    "resnet50": Architecture((3, 4, 6, 3), 64, "resnet50-0676ba61.pth"),
    "resnet101": Architecture((3, 4, 23, 3), 64, "resnet101-63fe2227.pth"),
    "resnet152": Architecture((3, 8, 36, 3), 64, "resnet152-394f9c45.pth"),
    "wideresnet50": Architecture((3, 4, 6, 3), 128, "wide_resnet50_2-95faca4d.pth"),
    "wideresnet101": Architecture((3, 4, 23, 3), 128, "wide_resnet101_2-32ee1156.pth"),
}
OPSET = 18
LAYERS = ("layer1", "layer2", "layer3")


def patch_mean(features: torch.Tensor) -> torch.Tensor:
    """Mean over 3x3 neighbours with zero padding, [n, channels, h, w] (PatchCore, Roth et al., 2022, section 3.1)."""
    return functional.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def as_patches(features: torch.Tensor) -> torch.Tensor:
    """[n, channels, h, w] -> [n, h * w, channels]."""
    return features.flatten(2).transpose(1, 2)


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut. Parameters have their names in torchvision."""

    def __init__(self, inputs: int, planes: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = planes * 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, inputs, h, w] -> float32 [n, planes * 4, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetPatches(nn.Module):  # type: ignore[misc]
    """Normalised RGB, float32 [n, 3, h, w] -> features of one layer, float32 [n, patches, channels]."""

    def __init__(self, architecture: Architecture, layer: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layers = LAYERS[: LAYERS.index(layer) + 1]
        inputs = 64
        for number, name in enumerate(self.layers):
            planes, stride = 64 * 2**number, 1 if number == 0 else 2
            width = planes * architecture.base_width // 64
            blocks = [Bottleneck(inputs, planes, width, stride)]
            inputs = planes * 4
            blocks += [Bottleneck(inputs, planes, width, 1) for _ in range(architecture.blocks[number] - 1)]
            setattr(self, name, nn.Sequential(*blocks))
        self.channels = inputs
        self.stride = 4 * 2 ** (len(self.layers) - 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The stem, the layers, the 3x3 mean."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for name in self.layers:
            x = getattr(self, name)(x)
        return as_patches(patch_mean(x))


def resnet(name: str, layer: str, weights: Path) -> ResNetPatches:
    """A ResNet up to one layer, with the weights of a torchvision checkpoint.

    Raises:
        SetupError: the file is no checkpoint of this architecture.
    """
    network = ResNetPatches(RESNETS[name], layer)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        needed = {key: value for key, value in state.items() if key in network.state_dict()}
        network.load_state_dict(needed)
    except (RuntimeError, OSError, ValueError, AttributeError, EOFError, KeyError) as error:
        raise SetupError(f"{weights}: is no torchvision checkpoint of {name}: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise SetupError(
            f"{weights}: is no torch checkpoint that holds weights only ({type(error).__name__})"
        ) from error
    network.eval()
    return network


class EfficientNetLite0Patches(nn.Module):  # type: ignore[misc]
    """The default backbone with its normalisation: RGB, uint8 [n, h, w, 3] -> float32 [n, h / 8 * w / 8, 152]."""

    LAST_BLOCK = 10
    TAPS = (4, 10)  # stride 8 with 40 channels, stride 16 with 112

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[: self.LAST_BLOCK + 1])

    def forward(self, images: Any) -> Any:
        """Normalise as in training, average the tapped blocks, upsample the coarse one bilinearly, and concatenate."""
        x = self.stem((images.permute(0, 3, 1, 2).float() / 255.0 - 0.498) / 0.502)
        taps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.TAPS:
                taps.append(patch_mean(x))
        fine, coarse = taps
        coarse = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return as_patches(torch.cat([fine, coarse], dim=1))


def export(network: nn.Module, path: Path, side: int | None) -> None:
    """Write a network as ONNX, for any number of images of one size, or of any size if `side` is None."""
    any_size = torch.export.Dim.DYNAMIC
    if side is None:
        example = torch.zeros(2, 256, 256, 3, dtype=torch.uint8)
        dynamic = {0: any_size, 1: any_size, 2: any_size}
    else:
        example, dynamic = torch.zeros(2, 3, side, side), {0: any_size}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["patches"],
            dynamic_shapes={"images": dynamic},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
