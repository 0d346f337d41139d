"""The manifest of an `.om`, a model that was compiled for the Ascend and one size of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest, Sha256
from patchline.protocol import messages
from patchline.protocol.errors import MismatchError, SetupError


class Aipp(messages.Frozen):
    """The normalisation that was compiled into an `.om`: (value - min_chn) * var_reci_chn for R, G and B."""

    min_chn: tuple[float, float, float]
    var_reci_chn: tuple[float, float, float]


class OmManifest(messages.Frozen):
    """`models/<name>_<side>.om.json`.

    Attributes:
        source_sha256: the digest of the backbone that it was compiled from, as in the manifest of the backbone. None if
            it was compiled elsewhere from another file, an `.air`.
        soc_version: the chip that it was compiled for, as npu-smi names it.
        side: of the image in pixels. The batch is 1.
        input: uint8 [1, side, side, 3], or float32 [1, 3, side, side] that the host normalises.
        output: `patches` is [1, patches, dim], `nchw` is [1, dim, rows, columns].
        opset: of the ONNX file that ATC read.
        aipp: None if the `.om` does not normalise its input.
    """

    format: Literal["patchline.om.v1"] = "patchline.om.v1"
    file: messages.FileName
    sha256: Sha256
    source_sha256: Sha256 | None
    soc_version: str
    side: int
    input: Literal["uint8_nhwc", "float32_nchw"]
    output: Literal["patches", "nchw"]
    opset: int | None
    aipp: Aipp | None
    made_by: str


def stem(name: str, side: int) -> str:
    """The name of the files of an `.om`, without suffix."""
    return f"{name}_{side}"


def path_of(models: Path, name: str, side: int) -> Path:
    """The path of a manifest."""
    return models / f"{stem(name, side)}.om.json"


def aipp_of(manifest: ModelManifest) -> Aipp | None:
    """The normalisation that the `.om` of a backbone must contain; None if the backbone normalises by itself."""
    if manifest.mean is None or manifest.std is None:
        return None
    red, green, blue = (float(f"{1 / value:.15g}") for value in manifest.std)
    return Aipp(min_chn=manifest.mean, var_reci_chn=(red, green, blue))


def find(models: Path, name: str, side: int) -> OmManifest | None:
    """Read a manifest, or return None if there is none.

    Raises:
        MismatchError: it is invalid.
        SetupError: it cannot be read.
    """
    path = path_of(models, name, side)
    try:
        return OmManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        advice = f"delete it, and write it again with: patchline om {name} --side {side}"
        raise MismatchError(f"{path}: is no manifest of an .om ({messages.describe(error)}); {advice}") from error
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error


def read(models: Path, manifest: ModelManifest, side: int) -> OmManifest:
    """Read the manifest of the `.om` of a backbone, and check that it belongs to this backbone and to its file.

    Raises:
        MismatchError: there is no `.om` for this size, or it is stale, foreign or damaged.
        SetupError: a file cannot be read.
    """
    name, path = manifest.name, path_of(models, manifest.name, side)
    advice = f"make it with: patchline om {name} --side {side}"
    om = find(models, name, side)
    if om is None:
        earlier = f" (that of {name}.json is of an earlier build, which did not name its size)" if manifest.om else ""
        raise MismatchError(f"backbone {name} has no .om for {side} x {side} images in {models}{earlier}; {advice}")
    if om.side != side:
        raise MismatchError(f"{path}: is for {om.side} x {om.side} images; {advice}")
    if om.source_sha256 not in (None, manifest.sha256):
        raise MismatchError(f"{path}: its .om was compiled from another {name}, which has changed since; {advice}")
    if om.aipp != (aipp_of(manifest) if om.input == "uint8_nhwc" else None):
        raise MismatchError(f"{path}: its .om normalises with another mean or std than {name}.json says; {advice}")
    if om.input == "float32_nchw" and manifest.mean is None:
        raise MismatchError(f"{path}: its .om takes normalised floats, but {name} normalises by itself; {advice}")
    _require_file(models / om.file, om, advice)
    return om


def write(folder: Path, name: str, om: OmManifest) -> None:
    """Write a manifest.

    Raises:
        SetupError: the folder cannot be written.
    """
    path = path_of(folder, name, om.side)
    try:
        path.write_text(om.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path}: cannot be written ({error.strerror})") from error


def _require_file(path: Path, om: OmManifest, advice: str) -> None:
    try:
        digest = model_manifest.digest(path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    if digest != om.sha256:
        raise MismatchError(f"{path}: is not the file that its manifest describes (its sha256 differs); {advice}")
