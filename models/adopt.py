"""Take an `.om` of the reference application, which its users already have."""

from __future__ import annotations

import shutil
from pathlib import Path

from patchline.devices import model_manifest, om_manifest
from patchline.devices.om_manifest import OmManifest
from patchline.models import atc
from patchline.protocol.errors import SetupError


def adopt(models: Path, name: str, side: int | None, file: Path, soc_version: str) -> str:
    """Write the manifest of an `.om` that users of the reference have: float32 NCHW in and out, no normalisation.

    Args:
        models: folder of the models; the `.om` is copied into it if it is elsewhere.
        name: of the model that the `.om` stands for.
        side: of the image in pixels. None takes the one side of the manifest.
        file: the `.om`.
        soc_version: the chip that it was compiled for.

    Returns:
        A sentence about the `.om`.

    Raises:
        SetupError: the model is missing or normalises by itself, or the file cannot be read.
    """
    manifest = model_manifest.read(models, name)
    side = atc.fixed_side(manifest, side)
    if manifest.input != "float32_nchw":
        raise SetupError(f"{name} normalises by itself; an .om of the reference takes normalised floats")
    try:
        if file.resolve().parent != models.resolve():
            shutil.copyfile(file, models / file.name)
        om = OmManifest(
            file=file.name,
            sha256=model_manifest.digest(models / file.name),
            source_sha256=None,
            soc_version=soc_version,
            side=side,
            input="float32_nchw",
            output="nchw",
            opset=None,
            aipp=None,
            made_by="elsewhere; adopted by patchline om --adopt",
        )
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be used ({error.strerror})") from error
    om_manifest.write(models, name, om)
    return f"{models / file.name}: adopted in {om_manifest.path_of(models, name, side).name}"
