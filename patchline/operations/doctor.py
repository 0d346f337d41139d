"""What this machine can run, and what to do about the rest."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from patchline import config
from patchline.banks import opening, serving
from patchline.banks.objects import StoreUnavailable
from patchline.banks.served_banks import ServedBanks
from patchline.banks.version_log import SHORT
from patchline.devices import backbone, model_manifest, om_manifest
from patchline.evaluation.ran_on import RanOn
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.models import atc, atc_operators
from patchline.operations import ascend_checks, message_size, store_checks
from patchline.operations.findings import Finding, State
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal
from patchline.services import private_servers
from patchline.worker.bank_source import BankSource

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


def run(settings: config.Config, device: backbone.Device = backbone.CPU) -> bool:
    """Look at everything, print a table, and tell whether there is no problem. Categories are loaded on the device."""
    findings = [
        *_processor(),
        *_faster_precision(settings, instructions()),
        *_servers(settings),
        *store_checks.run(settings),
        *_ascend_models(settings),
        *ascend_checks.run(settings),
        *categories(settings, device),
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


def _faster_precision(settings: config.Config, flags: list[str]) -> Iterator[Finding]:
    """Which categories compute in f32 on a CPU that is much faster in bf16. Their banks have to be fitted again."""
    if "amx_bf16" not in flags:
        return
    names = [name for name, category in settings.categories.items() if _precision(settings, category) == "f32"]
    if names:
        advice = "set precision: bf16 and fit again, and the network takes about 0.6 of the time"
        yield Finding("cpu", State.NOTE, f"in f32: {', '.join(names)}; {advice}")


def _precision(settings: config.Config, category: config.Category) -> str | None:
    """The precision of a category, or that of its model; None if there is no model."""
    try:
        return category.precision or model_manifest.read(settings.paths.models, category.backbone).precision
    except SetupError:
        return None


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


def _ascend_models(settings: config.Config) -> Iterator[Finding]:
    """With CANN: whether ATC reads the models of the categories, and their `.om` files belong to them."""
    if not ascend_checks.has_sdk() and shutil.which("atc") is None:
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


def categories(settings: config.Config, device: backbone.Device) -> Iterator[Finding]:
    """Whether the model and bank of each category are there, match, and score their golden images as they should.

    The bank is the one that a worker of this host would serve. What is copied from a store for that is deleted.
    """
    if host := ascend_checks.unusable_host(device):
        yield Finding("categories", host.state, f"not loaded on {device}: {host.text}")
        return
    with (
        closing(serving.Loader(settings, device, streams=1)) as loader,
        tempfile.TemporaryDirectory(prefix="patchline-banks-") as folder,
    ):
        copies = None if settings.banks.store is None else ServedBanks(Path(folder), opening.versions(settings))
        for name in settings.categories:
            yield _category(settings, name, BankSource(loader, copies))


def _category(settings: config.Config, name: str, source: BankSource) -> Finding:
    try:
        loaded = _load(settings, name, source)
    except SetupError as error:
        return Finding(name, State.PROBLEM, str(error))
    if loaded is None:
        backbone_name = settings.category(name).backbone
        try:
            model_manifest.read(settings.paths.models, backbone_name)
            return Finding(name, State.NOTE, f"no memory bank; patchline fit --category {name} FOLDER")
        except SetupError:
            return Finding(name, State.NOTE, f"no memory bank, and no model {backbone_name} in paths.models")
    inspector, origin = loaded
    ran_on = RanOn.of(inspector.backbone, source.loader.device)
    return Finding(name, State.OK, f"{inspector.bank.name}{origin}: {inspector.bank.search}; {ran_on}; ready")


def _load(settings: config.Config, name: str, source: BankSource) -> tuple[Inspector, str] | None:
    """Load the bank that a worker would serve, and say where it is from. None if the category has no bank.

    Raises:
        SetupError: it cannot be served here.
    """
    has_own = (settings.paths.memory_banks / name).is_dir()
    if source.copies is None:
        return (source.loader.load(name), "") if has_own else None
    try:
        state = source.copies.versions.state(name)
        if state.active is None and not has_own:
            return None
        origin = "" if state.active is None else f", version {state.active[:SHORT]} of the store"
        return source.load_active(name, state), origin
    except StoreUnavailable as error:
        folder = ServedBanks(settings.paths.served_banks, source.copies.versions).last(name)
        served = source.loader.load(name) if folder is None else source.loader.load_folder(name, folder)
        return served, f", which this host served last, because the store cannot be read ({error})"
