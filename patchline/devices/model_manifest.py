"""The manifest of a model: the facts about its file that its users rely on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from patchline.devices import onnx_file
from patchline.devices.probe import Probe
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

Precision = Literal["f32", "bf16", "f16", "int8"]
PACKAGED = Path(__file__).parents[1] / "models"  # the folder of the default backbone
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OfflineModel(messages.Frozen):
    """An `.om` as earlier builds recorded it. It is read and not used: see `om_manifest`."""

    file: messages.FileName
    sha256: Sha256
    soc_version: str


class ModelManifest(messages.Frozen):
    """`models/<name>.json`.

    Attributes:
        layer: the layers of the features, which a category names.
        stride: pixels per patch.
        dim: numbers per feature.
        side: the only side of the input in pixels; None if the model takes any multiple of `side_multiple_of`.
        input: the input of the model file. A `uint8_nhwc` model contains its normalisation. A `float32_nchw` model
            needs `(rgb - mean) / std`, which the compiled graph computes on the CPU and AIPP on the Ascend. A backbone
            takes uint8 RGB in both cases.
        inner_mean, inner_std: those of the normalisation inside a `uint8_nhwc` model, for pixels from 0 to 255. None if
            they are not known; then no probe of a wrong normalisation is in `probes`.
        pools: the 3x3 mean is inside.
        rim: the mean absolute feature at the corner of a constant image, relative to its centre. Without a probe, it
            shows that the 3x3 mean is inside.
        probes: the mean features of one image, by its side in pixels, which every device is compared with.
        om: left by an earlier build; an `.om` has a manifest of its own now.
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
    inner_mean: tuple[float, float, float] | None = None
    inner_std: tuple[float, float, float] | None = None
    pools: Literal[True]
    rim: Annotated[float, Field(gt=0)] | None = None
    probes: dict[int, Probe] = Field(default_factory=dict)
    precision: Precision
    weights: str
    weights_sha256: str
    licence: str
    made_by: str
    om: OfflineModel | None = None

    @pydantic.model_validator(mode="after")
    def _normalised_once(self) -> ModelManifest:
        if (self.input == "float32_nchw") != (self.mean is not None and self.std is not None):
            raise ValueError(
                "input float32_nchw needs mean and std, and uint8_nhwc, which normalises itself, must have none"
            )
        return self

    def grid(self, side: int) -> tuple[int, int]:
        """The rows and columns of patches of an image of `side` x `side` pixels."""
        return (side // self.stride, side // self.stride)


def locate(models: Path, name: str) -> Path:
    """The folder that contains a model: `models`, or the packaged folder if only that has its manifest."""
    # os.path and not Path: it answers False about a file that this process may not look at; `read` then says why.
    is_packaged = os.path.exists(_path(PACKAGED, name))  # noqa: PTH110
    return PACKAGED if is_packaged and not os.path.lexists(_path(models, name)) else models


def read(models: Path, name: str) -> ModelManifest:
    """Read the manifest of a model in `models` or among the packaged models.

    Raises:
        SetupError: it is missing or invalid.
    """
    path = _path(locate(models, name), name)
    try:
        return ModelManifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {messages.describe(error)}") from error
    except OSError as error:
        advice = f"put {name}.json and its model into {models}, or use efficientnet_lite0, which is packaged"
        raise SetupError(f"backbone {name}: {error.filename} cannot be read ({error.strerror}); {advice}") from error


def copy_packaged(models: Path, name: str) -> None:
    """Copy a packaged model into `models`, unless its manifest is there. The manifest comes last.

    Raises:
        SetupError: the folder cannot be written.
    """
    source = locate(models, name)
    if source == models:
        return
    try:
        models.mkdir(parents=True, exist_ok=True)
        for file in (read(source, name).file, f"{name}.json"):
            partial = models / f".{file}.partial"
            shutil.copyfile(source / file, partial)
            partial.replace(models / file)
    except OSError as error:
        raise SetupError(f"{models}: the packaged model cannot be copied here ({error.strerror})") from error


def write(models: Path, manifest: ModelManifest) -> None:
    """Write `<name>.json` into the folder of a model."""
    document = manifest.model_dump_json(indent=2, exclude_none=True)
    rows = re.sub(r"\[[^\[\]{}\"]*\]", lambda row: json.dumps(json.loads(row[0])), document)  # not a line each
    _path(models, manifest.name).write_text(rows + "\n", encoding="utf-8")


def _path(models: Path, name: str) -> Path:
    return models / f"{name}.json"


def digest(path: Path) -> str:
    """SHA-256 of a model file in hexadecimal. For an `.xml` of OpenVINO it includes the weights in the `.bin`."""
    sha256 = hashlib.sha256(path.read_bytes())
    if path.suffix == ".xml":
        sha256.update(path.with_suffix(".bin").read_bytes())
    return sha256.hexdigest()


def require_one_file(path: Path) -> None:
    """Check that an ONNX file contains its weights. Otherwise its digest would not change with them.

    Raises:
        SetupError: it keeps weights in other files, as torch writes large models.
    """
    files = onnx_file.external_files(path.read_bytes()) if path.suffix == ".onnx" else set()
    if files:
        raise SetupError(
            f"{path}: keeps weights in {', '.join(sorted(files))}, which its sha256 does not cover; write one file: "
            f"python -c \"import onnx; onnx.save(onnx.load('{path.name}'), 'merged.onnx')\", put it in the place of "
            f"{path.name}, and its sha256 into {path.stem}.json"
        )
