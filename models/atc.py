"""Compile `.om` files for the Ascend: write what atc reads, and run it or print its command line.

The options come from the documentation of CANN 5.0.4 (docs/ascend.md). They were never tried with a real atc.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from patchline import config
from patchline.devices import backbone, loading, model_manifest, om_manifest, sdk_environment
from patchline.devices.model_manifest import ModelManifest
from patchline.devices.om_manifest import OmManifest
from patchline.models import atc_operators, onnx_graph, static_onnx
from patchline.protocol.errors import SetupError

DEFAULT_SOC_VERSION = "Ascend310"
_TIMEOUT_S = 3600
_ONNX, _MINDSPORE = "5", "1"
_AIR_INPUT = "x"  # as in the manual of the reference
_TOLERANCE = 1e-5  # relative L2 between the features of the static model and of its source, both in f32


@dataclass(frozen=True)
class Target:
    """What to compile for: the chip as npu-smi names it, the CANN release of atc, and the folder of the files."""

    folder: Path
    soc_version: str = DEFAULT_SOC_VERSION
    cann: str = atc_operators.DEFAULT_CANN


class Result(NamedTuple):
    """A text for the user, and whether an `.om` has its manifest now."""

    text: str
    recorded: bool


@dataclass(frozen=True)
class _Job:
    """One `.om`: its backbone, the size of its images, and its files. `air` replaces the ONNX file."""

    models: Path
    manifest: ModelManifest
    side: int
    target: Target
    air: Path | None

    @property
    def stem(self) -> str:
        return om_manifest.stem(self.manifest.name, self.side)

    @property
    def om(self) -> Path:
        return self.target.folder / f"{self.stem}.om"

    @property
    def onnx(self) -> Path:
        return self.target.folder / f"{self.stem}.atc.onnx"

    @property
    def aipp(self) -> Path:
        return self.target.folder / f"{self.stem}.aipp.cfg"


def compile_om(models: Path, name: str, side: int | None, air: Path | None, target: Target) -> Result:
    """Compile the `.om` of a model and write its manifest, or return the command to do so elsewhere.

    The `.om` has a static batch of 1, takes uint8 RGB and gives FP16 features. AIPP normalises if the model does not.

    Args:
        models: folder of the models. It is only read, unless it is the target.
        name: of the model.
        side: of the image in pixels. None takes the one side of the manifest.
        air: an `.air` of MindSpore to convert in place of the ONNX file.
        target: the chip, the release and the folder of the `.om`.

    Returns:
        A sentence about the `.om`, or the command to run on a machine with atc.

    Raises:
        SetupError: the model is missing or changed, atc cannot read it, it does not take this size, or atc failed.
    """
    manifest = model_manifest.read(models, name)
    job = _Job(models, manifest, fixed_side(manifest, side), target, air)
    if air is None:
        loading.require_intact(models, manifest)
    elif manifest.input == "uint8_nhwc":
        raise SetupError(f"{name} normalises by itself; an .air has no place for that, so compile its ONNX file")
    program, environment = find()
    if program is None and _is_current(job):
        return Result(f"{job.om}: is up to date", recorded=True)
    _write_inputs(job)
    if program is not None:
        return _run(job, program, environment)
    return _record(job) if _is_new(job) else Result(_instructions(job), recorded=False)


def find() -> tuple[str | None, dict[str, str]]:
    """The path of atc, or None, and the environment that it needs: that of the set_env.sh of CANN.

    Raises:
        SetupError: a script of PATCHLINE_ASCEND_SET_ENV is missing or failed.
    """
    environment = sdk_environment.of_scripts(os.environ)
    return shutil.which("atc", path=environment.get("PATH")), environment


def sizes_in_use(settings: config.Config) -> list[tuple[str, int]]:
    """The models that the categories name, with the sizes of their images in pixels, each once."""
    return list({(each.backbone, each.imagesize): None for each in settings.categories.values()})


def require_readable(models: Path, name: str, side: int, cann: str) -> None:
    """Check that the ATC of a CANN release reads the static form of a model.

    Raises:
        SetupError: it does not, or the model is missing; the text names the operators.
    """
    manifest = model_manifest.read(models, name)
    graph = static_onnx.derive(loading.require_intact(models, manifest), manifest, fixed_side(manifest, side))
    atc_operators.require_readable(name, graph, atc_operators.release(cann))


def command_line(job: _Job) -> list[str]:
    """The command that compiles an `.om`, for the folder of the target."""
    manifest, side = job.manifest, job.side
    takes_floats = manifest.input == "float32_nchw"
    shape = f"1,3,{side},{side}" if takes_floats else f"1,{side},{side},3"
    command = [
        "atc",
        f"--framework={_ONNX if job.air is None else _MINDSPORE}",
        f"--model={job.onnx.name if job.air is None else job.air.resolve()}",
        f"--output={job.stem}",
        f"--input_format={'NCHW' if takes_floats else 'ND'}",
        f"--input_shape={'images' if job.air is None else _AIR_INPUT}:{shape}",
        f"--soc_version={job.target.soc_version}",
        "--output_type=FP16",
        "--log=error",
    ]
    if takes_floats:
        command += [f"--insert_op_conf={job.aipp.name}", "--enable_small_channel=1"]
    return command


def aipp(manifest: ModelManifest, side: int) -> str:
    """The AIPP configuration that normalises each channel: (value - min_chn) * var_reci_chn.

    `mean_chn` accepts integers only, so `min_chn` holds the mean.
    """
    normalisation = om_manifest.aipp_of(manifest)
    assert normalisation is not None, "the model normalises by itself"
    settings = [
        ("aipp_mode", "static"),
        ("related_input_rank", 0),
        ("input_format", "RGB888_U8"),
        ("src_image_size_w", side),
        ("src_image_size_h", side),
        ("csc_switch", "false"),
        ("rbuv_swap_switch", "false"),
        *((f"min_chn_{channel}", value) for channel, value in enumerate(normalisation.min_chn)),
        *((f"var_reci_chn_{channel}", value) for channel, value in enumerate(normalisation.var_reci_chn)),
    ]
    body = "\n".join(f"    {key}: {value}" for key, value in settings)
    return f"aipp_op {{\n{body}\n}}\n"


def _write_inputs(job: _Job) -> None:
    """Write the static model and the AIPP file."""
    try:
        job.target.folder.mkdir(parents=True, exist_ok=True)
        if job.air is None:
            _write_static(job)
        if job.manifest.input == "float32_nchw":
            job.aipp.write_text(aipp(job.manifest, job.side), encoding="utf-8")
    except OSError as error:
        advice = "name a folder that can be written with --out"
        raise SetupError(f"{job.target.folder}: cannot be written ({error.strerror}); {advice}") from error


def _write_static(job: _Job) -> None:
    """Write the static model, once the table has all of its operators and it computes what its source computes."""
    source = model_manifest.locate(job.models, job.manifest.name) / job.manifest.file
    graph = static_onnx.derive(source, job.manifest, job.side)
    atc_operators.require_readable(job.onnx.name, graph, atc_operators.release(job.target.cann))
    partial = job.onnx.with_name(f".partial.{job.onnx.name}")  # OpenVINO reads the format from the suffix
    partial.write_bytes(onnx_graph.encode(graph))
    try:
        difference = _difference(source, partial, job)
        if not difference < _TOLERANCE:
            raise SetupError(f"{source}: its static form gives other features (relative difference {difference:.1e})")
        partial.replace(job.onnx)
    finally:
        partial.unlink(missing_ok=True)


def _difference(source: Path, static: Path, job: _Job) -> float:
    """The relative L2 difference of the features of one random image."""
    image = np.random.default_rng(0).integers(0, 256, (1, job.side, job.side, 3), np.uint8)
    expected, features = (
        loading.compile_model(path, job.manifest, job.side, backbone.CPU, streams=1, precision="f32").extract(image)
        for path in (source, static)
    )
    return float(np.linalg.norm(features - expected) / np.linalg.norm(expected))


def _run(job: _Job, program: str, environment: dict[str, str]) -> Result:
    command = [program, *command_line(job)[1:]]
    process = subprocess.run(
        command,
        cwd=job.target.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if process.returncode != 0 or not job.om.exists():
        raise SetupError(f"atc ended with {process.returncode}: {(process.stdout + process.stderr).strip()[-500:]}")
    return _record(job)


def _is_current(job: _Job) -> bool:
    """Whether there is an `.om` of this very source for this chip."""
    try:
        recorded = om_manifest.read(job.target.folder, job.manifest, job.side)
    except SetupError:
        return False
    return job.air is None and recorded.source_sha256 is not None and recorded.soc_version == job.target.soc_version


def _is_new(job: _Job) -> bool:
    """Whether there is an `.om` that no manifest describes: one that was compiled elsewhere and copied here."""
    if not job.om.exists():
        return False
    recorded = om_manifest.find(job.target.folder, job.manifest.name, job.side)
    return recorded is None or recorded.sha256 != model_manifest.digest(job.om)


def _instructions(job: _Job) -> str:
    model = job.onnx.name if job.air is None else job.air.name
    files = [model, job.aipp.name] if job.manifest.input == "float32_nchw" else [model]
    again = ["patchline", "om", job.manifest.name, *_options(job)]
    return (
        f"atc is neither on the PATH nor on that of {sdk_environment.SCRIPTS_VARIABLE}. "
        f"Copy {' and '.join(files)} from {job.target.folder} to a machine with CANN and run "
        f"there, in their folder:\n{shlex.join(command_line(job))}\nThen copy {job.om.name} into {job.target.folder} "
        f"and run `{shlex.join(again)}` here again: it writes {job.om.name}.json"
    )


def _options(job: _Job) -> list[str]:
    """The options with which the `.om` of a job is recorded: those that are not the defaults."""
    options = {
        "--side": None if job.manifest.side is not None else job.side,
        "--air": job.air,
        "--soc-version": None if job.target.soc_version == DEFAULT_SOC_VERSION else job.target.soc_version,
        "--cann": None if job.target.cann == atc_operators.DEFAULT_CANN else job.target.cann,
        "--out": None if job.target.folder == job.models else job.target.folder,
    }
    return [word for name, value in options.items() if value is not None for word in (name, str(value))]


def _record(job: _Job) -> Result:
    output: Literal["patches", "nchw"] = "patches" if job.air is None else "nchw"
    om = OmManifest(
        file=job.om.name,
        sha256=model_manifest.digest(job.om),
        source_sha256=job.manifest.sha256 if job.air is None else None,
        soc_version=job.target.soc_version,
        side=job.side,
        input="uint8_nhwc",
        output=output,
        opset=static_onnx.OPSET if job.air is None else None,
        aipp=om_manifest.aipp_of(job.manifest),
        made_by=f"patchline om, for CANN {job.target.cann}",
    )
    om_manifest.write(job.target.folder, job.manifest.name, om)
    return Result(f"{job.om}: recorded in {job.om.name}.json", recorded=True)


def fixed_side(manifest: ModelManifest, side: int | None) -> int:
    """The side of the images of an `.om` in pixels; None takes the one side of the manifest.

    Raises:
        SetupError: the model does not take it, or takes several.
    """
    side = side or manifest.side
    if side is None or manifest.side not in (None, side) or side % manifest.side_multiple_of:
        allowed = manifest.side or f"multiples of {manifest.side_multiple_of}; choose one with --side"
        raise SetupError(f"{manifest.name} takes images with sides of {allowed}")
    return side
