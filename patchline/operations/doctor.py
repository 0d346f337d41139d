"""What this machine can run, and what to do about the rest."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from patchline import config
from patchline.banks import serving
from patchline.devices import backbone, model_manifest, npu, om_manifest
from patchline.inspection.search import exact_search
from patchline.models import atc, atc_operators
from patchline.operations import message_size
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal
from patchline.services import private_servers

_CPU_FEATURES = {
    "avx2": "f32",
    "avx512f": "f32, wider",
    "avx512_vnni": "int8",
    "avx512_bf16": "bf16",
    "amx_int8": "int8, several times faster",
    "amx_bf16": "bf16, several times faster",
    "asimd": "f32",
    "i8mm": "int8",
    "bf16": "bf16",
}
_CONNECT_TIMEOUT_S = 2.0
_NARROW_KERNELS = (":Prescott", ":Core2", ":Nehalem", ":Barcelona")  # of OpenBLAS, for a CPU that it does not know


class State(StrEnum):
    """How good a finding is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "PROBLEM"


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    state: State
    text: str


def run(settings: config.Config) -> bool:
    """Look at everything, print a table, and tell whether there is no problem."""
    findings = [
        *_processor(),
        *_servers(settings),
        *_chips(),
        *_sdk(),
        *_ascend_models(settings),
        *_categories(settings),
    ]
    terminal.table("what this machine can run", ("subject", "state", "finding"), findings, text=True)
    return all(finding.state is not State.PROBLEM for finding in findings)


def instructions() -> list[str]:
    """What the CPU has of the instructions that decide how fast it is (proc(5); `Features` on an Arm host)."""
    flags = set()
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            break
    return [flag for flag in _CPU_FEATURES if flag in flags]


def _processor() -> Iterator[Finding]:
    flags = instructions()
    found = [f"{flag} ({_CPU_FEATURES[flag]})" for flag in flags]
    cores = len(os.sched_getaffinity(0))
    yield Finding("cpu", State.OK, f"{cores} cores; {', '.join(found) or 'no wide vectors: expect it to be slow'}")
    if not {"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags):
        yield Finding("cpu", State.NOTE, "no bf16: models in bf16 run in f32; set precision: f32 and fit again")
    yield from _products(flags)


def better_kernels(flags: list[str]) -> str | None:
    """Of OpenBLAS, where a package takes this CPU for an older one without wide vectors; None elsewhere."""
    if "avx2" not in flags or not any(kernel.endswith(_NARROW_KERNELS) for kernel in exact_search.blas_kernels()):
        return None
    return "SkylakeX" if "avx512f" in flags else "Haswell"


def _products(flags: list[str]) -> Iterator[Finding]:
    better = better_kernels(flags)
    if better is not None:
        used = ", ".join(exact_search.blas_kernels())
        advice = f"set OPENBLAS_CORETYPE={better}, or products with narrow ones take several times as long"
        yield Finding("blas", State.NOTE, f"kernels in use are {used}; {advice}")


def _servers(settings: config.Config) -> Iterator[Finding]:
    for name, url in (("broker", settings.broker.url), ("redis", settings.redis.url)):
        if not url:
            yield Finding(name, State.NOTE, "switched off by an empty url")
            continue
        servers = [_server(name, node) for node in server_url.nodes(url)]
        yield from servers
        if name == "broker" and any(finding.state is State.OK for finding in servers):
            matches, text = message_size.describe(settings)
            yield Finding(name, State.OK if matches else State.PROBLEM, text)
    if missing := private_servers.missing_packages():
        yield Finding("demo", State.NOTE, f"for private servers: apt-get install {' '.join(missing)}")


def _server(name: str, node: str) -> Finding:
    """Whether one node of a server answers. No finding quotes the url, which may contain a password."""
    state, advice = State.NOTE, "verdicts go on without it"
    if name == "broker":
        state, advice = State.PROBLEM, "start it, or set PATCHLINE_AMQP_URL"
    try:
        scheme, host, port = server_url.address(node)
    except SetupError as error:
        return Finding(name, State.PROBLEM, str(error))
    shown = host if scheme == "unix" else f"{host}:{port}"
    try:
        with _connected(scheme, host, port):
            return Finding(name, State.OK, f"answers at {shown}")
    except OSError as error:
        return Finding(name, state, f"{shown} does not answer ({error.strerror or error}); {advice}")


def _connected(scheme: str, host: str, port: int) -> socket.socket:
    if scheme != "unix":
        return socket.create_connection((host, port), _CONNECT_TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    connection.connect(host)
    return connection


def _chips() -> Iterator[Finding]:
    try:
        chips = npu.read()
    except npu.NpuError as error:
        yield Finding("ascend", State.NOTE, str(error))
        return
    for chip in chips:
        state = State.OK if chip.healthy else State.PROBLEM
        advice = (
            "" if chip.healthy else "; leave this chip out until its card is mended: it can hang a process for good"
        )
        used, total = (value // 1_000_000 for value in (chip.memory_used_bytes, chip.memory_total_bytes))
        text = f"{chip.name}, {chip.health}, {chip.temperature_celsius:g} degrees, {used} of {total} MB used{advice}"
        yield Finding(f"ascend:{chip.device}", state, text)


def _sdk() -> Iterator[Finding]:
    home = os.environ.get("MX_SDK_HOME")
    if home is None:
        yield Finding("mindx sdk", State.NOTE, "MX_SDK_HOME is not set: needed for --device ascend:N only")
        return
    version = Path(home) / "version.info"
    if not version.is_file():
        yield Finding("mindx sdk", State.PROBLEM, f"{version} is not there: is MX_SDK_HOME the folder of the SDK?")
        return
    yield Finding("mindx sdk", State.OK, f"{' '.join(version.read_text(encoding='utf-8').split())} in {home}")
    python = os.environ.get("PATCHLINE_MINDX_PYTHON", "python3.9")
    if shutil.which(python) is None:
        yield Finding(
            "mindx sdk", State.PROBLEM, f"{python} is not there; PATCHLINE_MINDX_PYTHON names its interpreter"
        )
    # InitManager refuses files of another owner, or that others may write (docs/ascend.md).
    folders = [Path(home) / "lib" / "plugins", Path(home) / "opensource" / "lib" / "gstreamer-1.0"]
    for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        status = path.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & ~0o640:
            yield Finding("mindx sdk", State.PROBLEM, f"{path}: must be owned by this user, with mode 0640 or less")
            return


def _ascend_models(settings: config.Config) -> Iterator[Finding]:
    """Whether ATC reads the models of the categories and their `.om` files belong to them, where there is CANN."""
    if "MX_SDK_HOME" not in os.environ and shutil.which("atc") is None:
        return
    models, cann = settings.paths.models, os.environ.get("PATCHLINE_CANN", atc_operators.DEFAULT_CANN)
    for name, side in atc.sizes_in_use(settings):
        subject = om_manifest.stem(name, side)
        try:
            atc.require_readable(models, name, side, cann)
            yield Finding(subject, State.OK, f"the ATC of CANN {cann} has all of its operators")
            om = om_manifest.read(models, model_manifest.read(models, name), side)
            yield Finding(subject, State.OK, f"{om.file} for {om.soc_version}, features {om.output}")
        except SetupError as error:
            yield Finding(
                subject, State.PROBLEM if om_manifest.path_of(models, name, side).exists() else State.NOTE, str(error)
            )


def _categories(settings: config.Config) -> Iterator[Finding]:
    """Whether the model and bank of each category are there, match, and score their golden images as they should."""
    for name, category in settings.categories.items():
        if not (settings.paths.memory_banks / name).is_dir():
            try:
                model_manifest.read(settings.paths.models, category.backbone)
                yield Finding(name, State.NOTE, f"no memory bank; patchline fit --category {name} FOLDER")
            except SetupError:
                yield Finding(
                    name,
                    State.NOTE,
                    f"no memory bank, and no model {category.backbone} in paths.models",
                )
            continue
        try:
            inspect = serving.load(settings, [name], backbone.CPU, streams=1)[name]
            yield Finding(name, State.OK, f"{inspect.bank.version}: {inspect.bank.search}; ready")
        except SetupError as error:
            yield Finding(name, State.PROBLEM, str(error))
