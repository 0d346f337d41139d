"""A model becomes a backbone on a device. Runtimes are imported where they are needed: no worker loads another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from patchline.devices import model_manifest
from patchline.devices.backbone import Backbone, Device
from patchline.devices.model_manifest import ModelManifest, OfflineModel, Precision
from patchline.protocol.errors import SetupError

RIM_TOLERANCE = 0.1  # far above what a precision changes, far below the 5/9 that a missing 3x3 mean does
_GREY = 90


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
        models: the folder of models and their manifests; a model that it does not hold comes from the package.
        name: of the backbone.
        side: of its square input in pixels.
        device: where it runs.
        streams: how many threads will call `extract` at once.
        precision: on the CPU; the manifest's own where it is None.
        on_failure: is called whenever the device fails.

    Raises:
        SetupError: the model is missing, damaged, made for other sizes, or its device is not there.
    """
    manifest = model_manifest.read(models, name)
    if "int8" in (manifest.precision, precision) and precision not in (None, manifest.precision):
        raise SetupError(f"backbone {name} is made for {manifest.precision}, and the category asks for {precision}")
    if manifest.side not in (None, side) or side % manifest.side_multiple_of:
        takes = manifest.side or f"multiples of {manifest.side_multiple_of}"
        raise SetupError(f"backbone {name} takes images with sides of {takes}, not {side}")
    path = _model_file(models, manifest, device)
    loaded = compile_model(path, manifest, side, device, streams, precision or manifest.precision, on_failure)
    rim = measure_rim(loaded)
    if abs(rim / manifest.rim - 1) > RIM_TOLERANCE:
        loaded.close()
        raise SetupError(
            f"{path}: the corner of a constant image is {rim:.3f} of its centre, by its manifest {manifest.rim:.3f}: "
            "the 3x3 mean or the normalisation is missing or done twice; convert the model again"
        )
    return loaded


def compile_model(
    path: Path,
    manifest: ModelManifest,
    side: int,
    device: Device,
    streams: int,
    precision: Precision,
    on_failure: Callable[[], None] = lambda: None,
) -> Backbone:
    """A backbone from its file, unchecked. Runtimes are imported here, so that no worker loads another device's."""
    if device.kind == "cpu":
        from patchline.devices.openvino_backbone import OpenVinoBackbone

        return OpenVinoBackbone(path, manifest, side, streams, precision)
    from patchline.devices.mindx_backbone import MindxBackbone

    return MindxBackbone(path, manifest, side, device.number, on_failure)


def measure_rim(backbone: Backbone) -> float:
    """How strong the corner of a constant grey image is, relative to its centre (mean absolute feature)."""
    rows, columns = backbone.grid
    grey = np.full((1, backbone.side, backbone.side, 3), _GREY, np.uint8)
    strength = np.abs(backbone.extract(grey)[0]).mean(axis=1).reshape(rows, columns)
    return float(strength[0, 0] / strength[rows // 2, columns // 2])


def _model_file(models: Path, manifest: ModelManifest, device: Device) -> Path:
    """The file for a device, whole. Raises SetupError where it is missing or damaged."""
    wanted: ModelManifest | OfflineModel | None = manifest if device.kind == "cpu" else manifest.om
    if wanted is None:
        again = f"patchline om {manifest.name}"
        raise SetupError(f"backbone {manifest.name} has no .om for {device}; make it with: {again}")
    path = model_manifest.locate(models, manifest.name) / wanted.file
    try:
        found = model_manifest.digest(path)
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); see models/README.md") from error
    if found != wanted.sha256:
        raise SetupError(f"{path}: is not the model that {manifest.name}.json describes (its sha256 differs)")
    return path
