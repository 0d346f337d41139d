"""`.om` files for the Ascend: the AIPP file and the exact command line of atc, run where atc is there.

Nothing here has met a real atc: the options are those of CANN 5.0.4's documents (docs/ascend.md).
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.protocol.errors import SetupError

_ATC_S = 3600
_ONNX, _MINDSPORE = "5", "1"


def compile_om(models: Path, name: str, side: int | None, air: Path | None, soc_version: str) -> str:
    """Make the `.om` of a model, and enter it in the model's manifest; or say how.

    Static batch 1; uint8 RGB in, normalised by AIPP where the model does not do so itself; FP16 features out.

    Args:
        models: folder of the models.
        name: of the model.
        side: of the image in pixels, for a model that takes several.
        air: an `.air` of MindSpore that is converted instead of the ONNX file.
        soc_version: the chip, as npu-smi names it.

    Returns:
        What was made, or the command to run where atc is at hand.

    Raises:
        SetupError: the model is missing, the size is not one of its, or atc failed.
    """
    _copy_packaged(models, name)
    manifest = model_manifest.read(models, name)
    side = _side(manifest, side)
    target = models / f"{name}.om"
    command = command_line(models, manifest, side, air, soc_version)
    if manifest.input == "float32_nchw":
        aipp_path(models, name).write_text(aipp(manifest, side), encoding="utf-8")
    if shutil.which("atc") is None:
        return (
            f"atc is not on the PATH: run this where CANN is installed, from this folder, then again here to enter the "
            f"file in {name}.json\n{shlex.join(command)}"
            if not target.exists()
            else _enter(models, manifest, target, soc_version)
        )
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ATC_S, check=False)
    if done.returncode != 0 or not target.exists():
        raise SetupError(f"atc ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}")
    return _enter(models, manifest, target, soc_version)


def command_line(models: Path, manifest: ModelManifest, side: int, air: Path | None, soc_version: str) -> list[str]:
    """The command that makes `<name>.om`: each model has an output name of its own."""
    name_of_input = "images" if air is None else "x"
    floats = manifest.input == "float32_nchw"
    shape = f"1,3,{side},{side}" if floats else f"1,{side},{side},3"
    command = [
        "atc",
        f"--framework={_ONNX if air is None else _MINDSPORE}",
        f"--model={models / manifest.file if air is None else air}",
        f"--output={models / manifest.name}",
        f"--input_format={'NCHW' if floats else 'ND'}",
        f"--input_shape={name_of_input}:{shape}",
        f"--soc_version={soc_version}",
        "--output_type=FP16",
        "--log=error",
    ]
    if floats:
        command += [f"--insert_op_conf={aipp_path(models, manifest.name)}", "--enable_small_channel=1"]
    return command


def aipp_path(models: Path, name: str) -> Path:
    """Where the AIPP configuration of a model stands."""
    return models / f"{name}.aipp.cfg"


def aipp(manifest: ModelManifest, side: int) -> str:
    """The normalisation of a model as AIPP does it: (value - min_chn) * var_reci_chn, for each channel.

    `mean_chn` takes whole numbers only, so the mean goes into `min_chn`.
    """
    settings = [
        ("aipp_mode", "static"),
        ("related_input_rank", 0),
        ("input_format", "RGB888_U8"),
        ("src_image_size_w", side),
        ("src_image_size_h", side),
        ("csc_switch", "false"),
        ("rbuv_swap_switch", "false"),
        *((f"min_chn_{channel}", value) for channel, value in enumerate(manifest.mean or ())),
        *((f"var_reci_chn_{channel}", f"{1 / value:.15g}") for channel, value in enumerate(manifest.std or ())),
    ]
    body = "\n".join(f"    {key}: {value}" for key, value in settings)
    return f"aipp_op {{\n{body}\n}}\n"


def _copy_packaged(models: Path, name: str) -> None:
    """An `.om` and the model that it is made from lie in one folder, which the package's own need not be."""
    source = model_manifest.locate(models, name)
    if source != models:
        models.mkdir(parents=True, exist_ok=True)
        for file in (f"{name}.json", model_manifest.read(source, name).file):
            shutil.copy(source / file, models)


def _side(manifest: ModelManifest, side: int | None) -> int:
    wanted = side or manifest.side
    if wanted is None or manifest.side not in (None, wanted) or wanted % manifest.side_multiple_of:
        takes = manifest.side or f"multiples of {manifest.side_multiple_of}; say one with --side"
        raise SetupError(f"{manifest.name} takes images with sides of {takes}")
    return wanted


def _enter(models: Path, manifest: ModelManifest, target: Path, soc_version: str) -> str:
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    made = model_manifest.OfflineModel(file=target.name, sha256=digest, soc_version=soc_version)
    model_manifest.write(models, manifest.model_copy(update={"om": made}))
    return f"{target}: entered in {manifest.name}.json"
