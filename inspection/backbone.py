"""What a backbone is, the manifest of a model, and the choice of the device that runs it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from inspection import message
from inspection.errors import SetupError

Precision = Literal["f32", "bf16", "f16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RIM_TOLERANCE = 0.1  # far above what a precision changes, far below the 5/9 that a missing 3x3 mean does
_DEVICE = re.compile(r"^(cpu|ascend)(?::(\d{1,2}))?$")
_GREY = 90


@dataclass(frozen=True, slots=True)
class Device:
    """`cpu`, `cpu:1`, `ascend:0`: a kind and the number of one of its kind."""

    kind: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Device:
        """Raises SetupError when `text` is no device."""
        match = _DEVICE.match(text)
        if match is None:
            raise SetupError(f"device {text!r} is not one of cpu, cpu:0, cpu:1, ..., ascend:0, ascend:1, ...")
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


class OfflineModel(message.Frozen):
    """The `.om` that atc made of a model, for one kind of chip; static batch 1, uint8 RGB in, FP16 features out."""

    file: message.FileName
    sha256: Sha256
    soc_version: str


class Manifest(message.Frozen):
    """`models/<name>.json`: what a model does, so that nothing is done twice or forgotten.

    `input` is what the ONNX file takes. `uint8_nhwc` normalises by itself. `float32_nchw` wants `(rgb - mean) / std`,
    which the compiled graph does on the CPU and AIPP on the Ascend. Either way a Backbone takes uint8 RGB.
    `rim` is how much weaker the corner of a constant image is than its centre: it shows that the 3x3 mean is inside.
    """

    name: str
    file: message.FileName
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
    def _normalised_once(self) -> Manifest:
        if (self.input == "float32_nchw") != (self.mean is not None and self.std is not None):
            raise ValueError("input float32_nchw needs mean and std, and uint8_nhwc, which normalises itself, has none")
        return self

    def grid(self, side: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of `side` pixels."""
        return (side // self.stride, side // self.stride)


class Backbone(Protocol):
    """The network that makes patch features. Normalisation, layout and the 3x3 mean are inside of it."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of one image."""
        ...

    @property
    def side(self) -> int:
        """Of its square input in pixels."""
        ...

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        ...

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, side, side, 3] RGB -> float32 [n, patches, dim]; safe to call from several threads at once.

        Raises:
            Retry: the device failed; the job may succeed elsewhere.
            DeviceLost: it failed too often; the process shall end.
        """
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


def load(
    models: Path,
    name: str,
    side: int,
    device: Device,
    streams: int,
    precision: Precision | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> Backbone:
    """Compile a model for images of `side` x `side` pixels on a device, and see that it pools as its manifest says.

    Args:
        models: the folder of models and their manifests.
        name: of the backbone.
        side: of its square input in pixels.
        device: where it runs.
        streams: how many threads will call `extract` at once.
        precision: on the CPU; the manifest's own where it is None.
        on_failure: is called whenever the device fails.

    Raises:
        SetupError: the model is missing, damaged, made for other sizes, or its device is not there.
    """
    manifest = read_manifest(models, name)
    if "int8" in (manifest.precision, precision) and precision not in (None, manifest.precision):
        raise SetupError(f"backbone {name} is made for {manifest.precision}, and the category asks for {precision}")
    if manifest.side not in (None, side) or side % manifest.side_multiple_of:
        takes = manifest.side or f"multiples of {manifest.side_multiple_of}"
        raise SetupError(f"backbone {name} takes images with sides of {takes}, not {side}")
    path = _model_file(models, manifest, device)
    loaded = compile_for(path, manifest, side, device, streams, precision or manifest.precision, on_failure)
    rim = rim_of(loaded)
    if abs(rim / manifest.rim - 1) > RIM_TOLERANCE:
        loaded.close()
        raise SetupError(
            f"{path}: the corner of a constant image is {rim:.3f} of its centre, by its manifest {manifest.rim:.3f}: "
            "the 3x3 mean or the normalisation is missing or done twice; convert the model again"
        )
    return loaded


def compile_for(
    path: Path,
    manifest: Manifest,
    side: int,
    device: Device,
    streams: int,
    precision: Precision,
    on_failure: Callable[[], None] = lambda: None,
) -> Backbone:
    """A backbone from its file, unchecked. Runtimes are imported here, so that no worker loads another device's."""
    if device.kind == "cpu":
        from inspection.backbone_openvino import OpenVinoBackbone

        return OpenVinoBackbone(path, manifest, side, streams, precision)
    from inspection.backbone_mindx import MindxBackbone

    return MindxBackbone(path, manifest, side, device.number, on_failure)


def rim_of(backbone: Backbone) -> float:
    """How strong the corner of a constant grey image is, relative to its centre (mean absolute feature)."""
    rows, columns = backbone.grid
    grey = np.full((1, backbone.side, backbone.side, 3), _GREY, np.uint8)
    strength = np.abs(backbone.extract(grey)[0]).mean(axis=1).reshape(rows, columns)
    return float(strength[0, 0] / strength[rows // 2, columns // 2])


def read_manifest(models: Path, name: str) -> Manifest:
    """A manifest. Raises SetupError where it is missing or wrong."""
    path = models / f"{name}.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {message.describe(error)}") from error
    except OSError as error:
        advice = f"the folder {models} needs {name}.json and its model; see models/README.md"
        raise SetupError(f"backbone {name}: {error.filename} cannot be read ({error.strerror}); {advice}") from error


def _model_file(models: Path, manifest: Manifest, device: Device) -> Path:
    """The file for a device, whole. Raises SetupError where it is missing or damaged."""
    wanted: Manifest | OfflineModel | None = manifest if device.kind == "cpu" else manifest.om
    if wanted is None:
        again = f"patchline om {manifest.name}"
        raise SetupError(f"backbone {manifest.name} has no .om for {device}; make it with: {again}")
    path = models / wanted.file
    try:
        found = digest(path)
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); see models/README.md") from error
    if found != wanted.sha256:
        raise SetupError(f"{path}: is not the model that {manifest.name}.json describes (its sha256 differs)")
    return path


def digest(path: Path) -> str:
    """SHA-256 of a model, in hexadecimal: of its file, and of the weights that lie beside an `.xml` of OpenVINO."""
    whole = hashlib.sha256(path.read_bytes())
    if path.suffix == ".xml":
        whole.update(path.with_suffix(".bin").read_bytes())
    return whole.hexdigest()


def write_manifest(models: Path, manifest: Manifest) -> None:
    """`models/<name>.json`."""
    path = models / f"{manifest.name}.json"
    path.write_text(manifest.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
