"""Load a model as a backbone on a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from patchline.devices import model_manifest, om_manifest, probe_check
from patchline.devices.backbone import Backbone, Device
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.devices.om_manifest import OmManifest
from patchline.protocol.errors import DeviceLostError, DeviceStuckError, JobError, MismatchError, SetupError


def load(
    models: Path,
    name: str,
    side: int,
    device: Device,
    streams: int,
    precision: Precision | None = None,
    cpus: int | None = None,
    on_failure: Callable[[], None] = lambda: None,
    hosts: int = 1,
) -> Backbone:
    """Compile a model for a device, and check that it gives the features that its manifest says.

    Args:
        models: the folder of models and their manifests. A model that is missing there comes from the package.
        name: of the backbone.
        side: of its square input in pixels.
        device: the device to run on.
        streams: the number of threads that call `extract` at the same time.
        precision: of the computation on the CPU. None takes that of the manifest.
        cpus: that the computation on the CPU may use. None takes all.
        on_failure: called whenever the device fails.
        hosts: processes that use an Ascend chip at the same time.

    Raises:
        SetupError: the model is missing or damaged, it does not take this size or precision, or the device is missing.
    """
    manifest = model_manifest.read(models, name)
    if "int8" in (manifest.precision, precision) and precision not in (None, manifest.precision):
        raise SetupError(f"backbone {name} is made for {manifest.precision}, and the category asks for {precision}")
    require_side(manifest, side)
    om = om_manifest.read(models, manifest, side) if device.kind == "ascend" else None
    path = require_intact(models, manifest) if om is None else models / om.file
    precision = precision or manifest.precision
    backbone = compile_model(path, manifest, side, device, streams, precision, cpus, on_failure, om, hosts)
    try:
        probe_check.require_match(backbone, path)
    except (SetupError, DeviceStuckError):
        backbone.close()
        raise
    except (JobError, DeviceLostError) as error:
        backbone.close()
        raise SetupError(f"{path}: {error}; run `patchline doctor` for the cause") from error
    return backbone


def compile_model(
    path: Path,
    manifest: ModelManifest,
    side: int,
    device: Device,
    streams: int,
    precision: Precision,
    cpus: int | None = None,
    on_failure: Callable[[], None] = lambda: None,
    om: OmManifest | None = None,
    hosts: int = 1,
) -> Backbone:
    """Compile a model without any check. The Ascend needs the manifest of its `.om`.

    The runtime is imported here, so that a worker loads only that of its device.
    """
    if device.kind == "cpu":
        try:
            from patchline.devices.openvino_backbone import OpenVinoBackbone
        except ModuleNotFoundError as error:  # a machine on which only the Ascend serves needs no OpenVINO
            raise SetupError(f"device {device} needs the package {error.name}: pip install {error.name}") from error

        return OpenVinoBackbone(path, manifest, side, streams, precision, cpus)
    from patchline.devices.host_pool import HostPool
    from patchline.devices.mindx_backbone import MindxBackbone

    assert om is not None
    start = partial(MindxBackbone, path, manifest, om, device.number, on_failure)
    return start() if hosts == 1 else HostPool(start, hosts)


def require_side(manifest: ModelManifest, side: int) -> None:
    """Raise SetupError if the model does not take images of this side."""
    if manifest.side not in (None, side) or side % manifest.side_multiple_of:
        allowed = manifest.side or f"multiples of {manifest.side_multiple_of}"
        raise SetupError(f"backbone {manifest.name} takes images with sides of {allowed}, not {side}")


def require_intact(models: Path, manifest: ModelManifest) -> Path:
    """The file of a model, checked against its digest.

    Raises:
        SetupError: the file is missing or damaged, or keeps weights in other files, which its digest does not cover.
    """
    path = model_manifest.locate(models, manifest.name) / manifest.file
    try:
        digest = model_manifest.digest(path)
    except OSError as error:
        raise SetupError(
            f"{error.filename}: cannot be read ({error.strerror}); it belongs to the manifest beside it"
        ) from error
    if digest != manifest.sha256:
        raise MismatchError(f"{path}: is not the model that {manifest.name}.json describes (its sha256 differs)")
    model_manifest.require_one_file(path)
    return path
