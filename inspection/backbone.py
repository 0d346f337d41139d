"""What a backbone is, the manifest of a model, and the choice of the device that runs it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from inspection import message
from inspection.errors import SetupError

_DEVICE = re.compile(r"^(cpu|ascend)(?::(\d{1,2}))?$")


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


class Manifest(message.Frozen):
    """`models/<name>.json`: what a compiled model does, so that nothing is done twice or forgotten."""

    name: str
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layer: str
    stride: int
    dim: int
    side_multiple_of: int
    normalises: Literal[True]
    pools: Literal[True]
    precision: Literal["f32", "bf16", "f16"]
    weights: str
    weights_sha256: str
    licence: str
    made_by: str


class Backbone(Protocol):
    """The network that makes patch features. Normalisation, layout and the 3x3 mean are inside of it."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of one image."""
        ...

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, side, side, 3] RGB -> float32 [n, patches, dim]; safe to call from several threads at once.

        Raises:
            Retry: the device failed; the job may succeed elsewhere.
        """
        ...


def load(models: Path, name: str, side: int, device: Device, streams: int) -> Backbone:
    """Compile a model for images of `side` x `side` pixels on a device.

    Args:
        models: the folder of models and their manifests.
        name: of the backbone.
        side: of its square input in pixels.
        device: where it runs.
        streams: how many threads will call `extract` at once.

    Raises:
        SetupError: the model is missing, damaged, made for other sizes, or its device is not there.
    """
    manifest = read_manifest(models, name)
    if side % manifest.side_multiple_of:
        raise SetupError(f"backbone {name} takes sides that are multiples of {manifest.side_multiple_of}, not {side}")
    if device.kind != "cpu":
        raise SetupError(f"device {device}: this version runs on cpu only; give --device cpu")
    # Imported here, so that a worker of one device never loads the runtime of another.
    from inspection.backbone_openvino import OpenVinoBackbone

    return OpenVinoBackbone(models / manifest.file, manifest, side, streams)


def read_manifest(models: Path, name: str) -> Manifest:
    """The manifest of a model whose file is there and whole. Raises SetupError where that is not so."""
    path = models / f"{name}.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        content = (models / manifest.file).read_bytes()
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {message.describe(error)}") from error
    except OSError as error:
        advice = f"the folder {models} needs {name}.json and its model; see models/README.md"
        raise SetupError(f"backbone {name}: {error.filename} cannot be read ({error.strerror}); {advice}") from error
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise SetupError(f"{models / manifest.file}: is not the model that {path.name} describes (its sha256 differs)")
    return manifest
