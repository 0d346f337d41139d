"""Compile `.om` files for the Ascend: write the AIPP file, and run atc or print its command line.

The options come from the documentation of CANN 5.0.4 (docs/ascend.md). They were never tried with a real atc.
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

_TIMEOUT_S = 3600
_ONNX, _MINDSPORE = "5", "1"


def compile_om(models: Path, name: str, side: int | None, air: Path | None, soc_version: str) -> str:
    """Compile the `.om` of a model and record it in its manifest, or return the command to do so elsewhere.

    The `.om` has a static batch of 1, takes uint8 RGB and gives FP16 features. AIPP normalises if the model does not.

    Args:
        models: folder of the models.
        name: of the model.
        side: of the image in pixels. None takes the one side of the manifest.
        air: an `.air` of MindSpore to convert in place of the ONNX file.
        soc_version: the chip, as npu-smi names it.

    Returns:
        A sentence about the `.om`, or the command to run on a machine with atc.

    Raises:
        SetupError: the model is missing, it does not take this size, or atc failed.
    """
    manifest = model_manifest.read(models, name)
    side = _side(manifest, side)
    model_manifest.copy_packaged(models, name)  # an `.om` must be in the same folder as its model
    target = models / f"{name}.om"
    command = command_line(models, manifest, side, air, soc_version)
    if manifest.input == "float32_nchw":
        aipp_path(models, name).write_text(aipp(manifest, side), encoding="utf-8")
    if shutil.which("atc") is None:
        return (
            f"atc is not on the PATH: run this command on a machine with CANN, in this folder, then run `patchline om` "
            f"here again to record the file in {name}.json\n{shlex.join(command)}"
            if not target.exists()
            else _record_om(models, manifest, target, soc_version)
        )
    process = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if process.returncode != 0 or not target.exists():
        raise SetupError(f"atc ended with {process.returncode}: {(process.stdout + process.stderr).strip()[-500:]}")
    return _record_om(models, manifest, target, soc_version)


def command_line(models: Path, manifest: ModelManifest, side: int, air: Path | None, soc_version: str) -> list[str]:
    """The command that compiles `<name>.om`."""
    input_name = "images" if air is None else "x"
    takes_floats = manifest.input == "float32_nchw"
    shape = f"1,3,{side},{side}" if takes_floats else f"1,{side},{side},3"
    command = [
        "atc",
        f"--framework={_ONNX if air is None else _MINDSPORE}",
        f"--model={models / manifest.file if air is None else air}",
        f"--output={models / manifest.name}",
        f"--input_format={'NCHW' if takes_floats else 'ND'}",
        f"--input_shape={input_name}:{shape}",
        f"--soc_version={soc_version}",
        "--output_type=FP16",
        "--log=error",
    ]
    if takes_floats:
        command += [f"--insert_op_conf={aipp_path(models, manifest.name)}", "--enable_small_channel=1"]
    return command


def aipp_path(models: Path, name: str) -> Path:
    """The path of the AIPP configuration of a model."""
    return models / f"{name}.aipp.cfg"


def aipp(manifest: ModelManifest, side: int) -> str:
    """The AIPP configuration that normalises each channel: (value - min_chn) * var_reci_chn.

    `mean_chn` accepts integers only, so `min_chn` holds the mean.
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


def _side(manifest: ModelManifest, side: int | None) -> int:
    side = side or manifest.side
    if side is None or manifest.side not in (None, side) or side % manifest.side_multiple_of:
        allowed = manifest.side or f"multiples of {manifest.side_multiple_of}; choose one with --side"
        raise SetupError(f"{manifest.name} takes images with sides of {allowed}")
    return side


def _record_om(models: Path, manifest: ModelManifest, target: Path, soc_version: str) -> str:
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    om = model_manifest.OfflineModel(file=target.name, sha256=digest, soc_version=soc_version)
    model_manifest.write(models, manifest.model_copy(update={"om": om}))
    return f"{target}: recorded in {manifest.name}.json"
