"""What this machine can run on Ascend chips: chips, the SDK and its files, and a model on each chip.

The SDK refuses files of another owner or with more rights than it allows, and says only "1001". The same rules are
checked here (VisionSDK: MxStreamManagerDptr.cpp and FileUtils.cpp; docs/ascend.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from patchline import config
from patchline.devices import backbone, child_process, loading, mindx_link, npu, om_manifest, sdk_environment
from patchline.devices.child_process import UnkillableProcesses
from patchline.devices.mindx_sdk import Sdk
from patchline.devices.om_manifest import OmManifest
from patchline.models import atc
from patchline.operations.findings import Finding, State
from patchline.protocol.errors import DeviceStuckError, PatchlineError, SetupError

_SDK = "mindx sdk"
_PLUGIN_MODE, _SCANNER_MODE, _MODEL_MODE = 0o640, 0o550, 0o640
_PYTHON_TIMEOUT_S = 60.0
# Runs in the interpreter of the SDK, and prints what it lacks.
_PYTHON_CHECK = """
import ctypes, importlib, json, sys
missing, library = {}, "libpython%d.%d.so.1.0" % sys.version_info[:2]
try:
    ctypes.CDLL(library)
except OSError as error:
    missing[library] = str(error)
for name in ("numpy", "StreamManagerApi", "MxpiDataType_pb2", "mindx.sdk"):
    try:
        importlib.import_module(name)
    except Exception as error:
        missing[name] = "%s: %s" % (type(error).__name__, error)
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "missing": missing}))
"""


def run(settings: config.Config) -> Iterator[Finding]:
    """Look at the chips and, on a machine with the SDK, at the SDK, and try a model on each chip."""
    chips, findings = _chips()
    yield from findings
    yield from _other_chips(settings, chips)
    if sockets := os.environ.get("PATCHLINE_MINDX_SOCKETS"):  # the SDK is on another system
        hosts = {number: unusable_host(backbone.Device("ascend", number)) for number in _listening(Path(sockets))}
        yield from filter(None, hosts.values())
        yield from _tries(settings, chips, [number for number, finding in hosts.items() if finding is None])
        return
    if not has_sdk():
        text = "MX_SDK_HOME is not set, nor PATCHLINE_ASCEND_SET_ENV: needed for --device ascend:N only"
        yield Finding(_SDK, State.NOTE, text)
        return
    found = list(sdk())
    yield from found
    yield from _models(settings)
    if all(finding.state is not State.PROBLEM for finding in found):
        # Without npu-smi the first chip is tried. One that reports a fault is left alone: it can hang.
        yield from _tries(settings, chips, [chip.device for chip in chips if chip.healthy] if chips else [0])


def unusable_host(device: backbone.Device) -> Finding | None:
    """Why no model can be loaded on a device behind a socket at the moment; None if nothing is in the way.

    A worker waits for a host that is absent, or that still serves the worker before it. A check must not.
    """
    sockets = os.environ.get("PATCHLINE_MINDX_SOCKETS")
    if not sockets or device.kind != "ascend":
        return None
    try:
        mindx_link.require_free(mindx_link.socket_path(Path(sockets), device.number), device.number)
    except mindx_link.HostBusyError as error:
        return Finding(str(device), State.NOTE, f"in use by a running worker, so no model is tried on it ({error})")
    except (mindx_link.HostFailedError, DeviceStuckError) as error:
        return Finding(str(device), State.PROBLEM, str(error))
    return None


def has_sdk() -> bool:
    """Return True if the environment names the SDK."""
    return any(os.environ.get(name) for name in (sdk_environment.HOME_VARIABLE, sdk_environment.SCRIPTS_VARIABLE))


def _listening(sockets: Path) -> list[int]:
    """The chips whose hosts listen, or the first one, so that the lack of a host is reported."""
    numbers = [path.stem.removeprefix("ascend") for path in sockets.glob("ascend*.sock")]
    return sorted(int(number) for number in numbers if number.isdecimal()) or [0]


def _chips() -> tuple[list[npu.Chip], list[Finding]]:
    try:
        chips = npu.read()
    except npu.NpuError as error:
        return [], [Finding("ascend", State.NOTE, str(error))]
    return chips, [_chip(chip) for chip in chips]


def _chip(chip: npu.Chip) -> Finding:
    state = State.OK if chip.healthy else State.PROBLEM
    advice = "" if chip.healthy else "; leave this chip out until its card is mended: it can hang a process for good"
    used, total = (value // 1_000_000 for value in (chip.memory_used_bytes, chip.memory_total_bytes))
    text = f"{chip.name}, {chip.health}, {chip.temperature_celsius:g} degrees, {used} of {total} MB used{advice}"
    return Finding(f"ascend:{chip.device}", state, text)


def _other_chips(settings: config.Config, chips: list[npu.Chip]) -> Iterator[Finding]:
    """One line for each kind of chip that the `.om` files are not made for; without any, that `patchline om` is not."""
    models = _offline_models(settings).values()
    option = os.environ.get("PATCHLINE_SOC_VERSION", atc.DEFAULT_SOC_VERSION)
    for soc_version in dict.fromkeys(chip.soc_version for chip in chips):
        subject = ", ".join(f"ascend:{chip.device}" for chip in chips if chip.soc_version == soc_version)
        wrong = [f"{om.file} for {om.soc_version}" for om in models if om.soc_version != soc_version]
        if wrong:
            advice = f"make them again with: patchline om --all --soc-version {soc_version}"
            yield Finding(subject, State.PROBLEM, f"is {soc_version}, but {', '.join(wrong)}; {advice}")
        elif not models and option != soc_version:
            advice = f"set PATCHLINE_SOC_VERSION={soc_version}"
            yield Finding(subject, State.NOTE, f"is {soc_version}, but patchline om compiles for {option}; {advice}")


def sdk() -> Iterator[Finding]:
    """The SDK: its environment, interpreter, and the owner and mode of its files."""
    try:
        environment, python = sdk_environment.read(os.environ), Sdk.from_environment().python
    except SetupError as error:
        yield Finding(_SDK, State.PROBLEM, str(error))
        return
    home = environment[sdk_environment.HOME_VARIABLE]
    version = Path(home) / "version.info"
    if not version.is_file():
        yield Finding(_SDK, State.PROBLEM, f"{version} is not there: is MX_SDK_HOME the folder of the SDK?")
        return
    yield Finding(_SDK, State.OK, f"{' '.join(version.read_text(encoding='utf-8').split())} in {home}")
    for name in ("GST_PLUGIN_SCANNER", "GST_PLUGIN_PATH"):
        if not environment.get(name):
            advice = "list the set_env.sh of mxVision in PATCHLINE_ASCEND_SET_ENV"
            yield Finding(_SDK, State.PROBLEM, f"{name} is not set; {advice}")
    problems = (*_file_problems(environment, Path(home)), *_python_problems(python, environment))
    yield from (Finding(_SDK, State.PROBLEM, problem) for problem in problems)


def _file_problems(environment: Mapping[str, str], home: Path) -> Iterator[str]:
    """Every fault of the scanner; of the plugins and libraries the first, since they tend to have the same one."""
    if scanner := environment.get("GST_PLUGIN_SCANNER"):
        yield from _fault(Path(scanner), _SCANNER_MODE)
    defaults = f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins"  # the SDK adds them
    folders = dict.fromkeys([*defaults.split(":"), *environment.get("GST_PLUGIN_PATH", "").split(":")])
    plugins = [path for name in folders if name for path in sorted(Path(name).rglob("*")) if not path.is_dir()]
    if not plugins:
        yield f"GST_PLUGIN_PATH: no plugin is in {', '.join(filter(None, folders))}"
    library = home / "lib" / "libmxbase.so"
    faults = (fault for path in (*plugins, library) for fault in _fault(path, _PLUGIN_MODE))
    if first := next(faults, None):
        others = sum(1 for _ in faults)
        yield f"{first}{f' (and {others} more files)' if others else ''}"


def _fault(path: Path, mode: int) -> Iterator[str]:
    try:
        status = path.stat()
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror})"
        return
    if status.st_uid != os.getuid():
        yield f"{path}: belongs to user {status.st_uid}, and InitManager accepts this user only, {os.getuid()}"
    elif stat.S_IMODE(status.st_mode) & ~mode:
        yield f"{path}: has mode {stat.S_IMODE(status.st_mode):04o}, and InitManager accepts {mode:04o} or less"


def _python_problems(python: str, environment: Mapping[str, str]) -> Iterator[str]:
    path = shutil.which(python, path=environment.get("PATH"))
    if path is None:
        yield f"{python} is not there; PATCHLINE_MINDX_PYTHON names the interpreter of the SDK"
        return
    try:
        command = [path, "-c", _PYTHON_CHECK]
        process = child_process.run(command, _PYTHON_TIMEOUT_S, UnkillableProcesses(), environment)
        missing: dict[str, str] = json.loads(process.stdout.strip().rpartition(b"\n")[2])["missing"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        yield f"{path}: cannot run a script in the environment of the SDK ({error})"
        return
    surfaces = [missing.pop("StreamManagerApi", ""), missing.pop("mindx.sdk", "")]
    if all(surfaces):
        yield f"{path}: imports neither StreamManagerApi ({surfaces[0]}) nor mindx.sdk ({surfaces[1]})"
    for name, reason in missing.items():
        if not (name == "MxpiDataType_pb2" and surfaces[0]):
            yield f"{path}: {name} is missing ({reason}); the SDK needs it"


def _models(settings: config.Config) -> Iterator[Finding]:
    for (name, side), om in _offline_models(settings).items():
        for fault in _fault(settings.paths.models / om.file, _MODEL_MODE):
            text = f"{fault.replace('InitManager accepts', 'the documents ask for')}; SDK 7.3 only logs it"
            yield Finding(om_manifest.stem(name, side), State.NOTE, text)


def _offline_models(settings: config.Config) -> dict[tuple[str, int], OmManifest]:
    """The `.om` files of the categories, by backbone and side."""
    found = {}
    for name, side in atc.sizes_in_use(settings):
        with contextlib.suppress(SetupError):
            om = om_manifest.find(settings.paths.models, name, side)
            if om is not None:
                found[name, side] = om
    return found


def _tries(settings: config.Config, chips: list[npu.Chip], numbers: list[int]) -> Iterator[Finding]:
    """Run the first `.om` for its kind of chip on each device."""
    models = _offline_models(settings)
    if not models:
        yield Finding("ascend", State.NOTE, "no category has an .om to try; make one with: patchline om BACKBONE")
        return
    kinds = {chip.device: chip.soc_version for chip in chips}
    for number in numbers:
        device = backbone.Device("ascend", number)
        fitting = [key for key, om in models.items() if om.soc_version == kinds.get(number, om.soc_version)]
        try:
            if fitting:
                yield _try(settings.paths.models, *fitting[0], device)
        except PatchlineError as error:
            yield Finding(str(device), State.PROBLEM, str(error))


def _try(models: Path, name: str, side: int, device: backbone.Device) -> Finding:
    loaded = loading.load(models, name, side, device, streams=1)
    with contextlib.closing(loaded):
        image = np.zeros((1, loaded.side, loaded.side, 3), np.uint8)
        started = time.monotonic()
        loaded.extract(image)
        elapsed_ms = (time.monotonic() - started) * 1000
    return Finding(str(device), State.OK, f"runs {om_manifest.stem(name, side)} in {elapsed_ms:.1f} ms an image")
