"""The manifest of a model: what it does, so that nothing is done twice or forgotten."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from patchline.protocol import messages
from patchline.protocol.errors import SetupError

Precision = Literal["f32", "bf16", "f16", "int8"]
PACKAGED = Path(__file__).parents[1] / "models"  # the default backbone comes with this package
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OfflineModel(messages.Frozen):
    """The `.om` that atc made of a model, for one kind of chip; static batch 1, uint8 RGB in, FP16 features out."""

    file: messages.FileName
    sha256: Sha256
    soc_version: str


class ModelManifest(messages.Frozen):
    """`models/<name>.json`: what a model does, so that nothing is done twice or forgotten.

    `input` is what the ONNX file takes. `uint8_nhwc` normalises by itself. `float32_nchw` wants `(rgb - mean) / std`,
    which the compiled graph does on the CPU and AIPP on the Ascend. Either way a Backbone takes uint8 RGB.
    `rim` is how much weaker the corner of a constant image is than its centre: it shows that the 3x3 mean is inside.
    """

    name: str
    file: messages.FileName
    sha256: Sha256
    layer: str
    stride: Annotated[int, Field(ge=1)]
    dim: Annotated[int, Field(ge=1)]
    side: int | None = None
    side_multiple_of: Annotated[int, Field(ge=1)] = 1
    input: Literal["uint8_nhwc", "float32_nchw"]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pools: Literal[True]
    rim: Annotated[float, Field(gt=0)]
    precision: Precision
    weights: str
    weights_sha256: str
    licence: str
    made_by: str
    om: OfflineModel | None = None

    @pydantic.model_validator(mode="after")
    def _normalised_once(self) -> ModelManifest:
        if (self.input == "float32_nchw") != (self.mean is not None and self.std is not None):
            raise ValueError("input float32_nchw needs mean and std, and uint8_nhwc, which normalises itself, has none")
        return self

    def grid(self, side: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of `side` pixels."""
        return (side // self.stride, side // self.stride)


def locate(models: Path, name: str) -> Path:
    """The folder that holds a model: `models`, or that of the packaged models if `models` has no such manifest."""
    return PACKAGED if not _path(models, name).exists() and _path(PACKAGED, name).exists() else models


def read(models: Path, name: str) -> ModelManifest:
    """The manifest of a model in `models` or among the packaged models.

    Raises:
        SetupError: it is missing or wrong.
    """
    path = _path(locate(models, name), name)
    try:
        return ModelManifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {messages.describe(error)}") from error
    except OSError as error:
        advice = f"the folder {models} needs {name}.json and its model; see models/README.md"
        raise SetupError(f"backbone {name}: {error.filename} cannot be read ({error.strerror}); {advice}") from error


def write(models: Path, manifest: ModelManifest) -> None:
    """`models/<name>.json`."""
    _path(models, manifest.name).write_text(
        manifest.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8"
    )


def _path(models: Path, name: str) -> Path:
    return models / f"{name}.json"


def digest(path: Path) -> str:
    """SHA-256 of a model, in hexadecimal: of its file, and of the weights that lie beside an `.xml` of OpenVINO."""
    whole = hashlib.sha256(path.read_bytes())
    if path.suffix == ".xml":
        whole.update(path.with_suffix(".bin").read_bytes())
    return whole.hexdigest()
