"""What an image costs a machine: from the table of a benchmark, else measured here with golden images."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from patchline import config
from patchline.banks import golden, opening, serving
from patchline.devices import backbone
from patchline.inspection.inspector import untimed
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

AGAINST, BENCH = Path("out/bench-against.json"), Path("out/bench.json")
_WORKER, _RABBITMQ = ": worker, an image", ": RabbitMQ, an image"
_HOST = "CPU of the workers for an image, "
_PROBES = 30
_REST_MS = 3.0  # of a worker, beside the inspection: docs/operations.md says 2 to 3
_RABBITMQ_MS, _HOST_MS = 2.5, 17.0  # the highest of docs/performance.md


@dataclass(frozen=True)
class Cost:
    """Core-milliseconds of an image, rounded up, and where the number comes from."""

    ms: float
    source: str


@dataclass(frozen=True)
class Costs:
    """What an image costs.

    Attributes:
        worker: the process that judges on a CPU.
        host: the process that judges with a chip, without the chip.
        rabbitmq: the broker, from the publisher to the verdict.
        unmeasured: why banks could not be measured, by category. Of these nothing is known.
    """

    worker: Cost
    host: Cost
    rabbitmq: Cost
    unmeasured: Mapping[str, str] = field(default_factory=dict)


def read(path: Path | None, load: str | None, settings: config.Config, chips: bool = False) -> Costs:
    """Return the costs of a benchmark's table, or measure them.

    Args:
        path: as `make bench-against` writes it; by default its own file, if that is there.
        load: the name of a load in the table, such as `default, JPEG`; by default the first one.
        settings: of the plant that is measured if there is no table.
        chips: chips have the network. Without a table nothing is measured then.

    Raises:
        SetupError: the table or its load cannot be used, or there is nothing to probe.
    """
    host = _host()
    if path is None and not AGAINST.exists():
        if load is not None:
            raise SetupError(f"--load {load!r}: there is no table, neither --costs nor {AGAINST}")
        worker, unmeasured = (host, {}) if chips else _probe(settings)
        return Costs(worker, host, Cost(2 * _RABBITMQ_MS, "docs/performance.md, twice for the intake"), unmeasured)
    path = path or AGAINST
    values = rows(path)
    loads = [name.removesuffix(_WORKER) for name in values if name.endswith(_WORKER)]
    chosen = next(iter(loads), None) if load is None else load
    if chosen is None:
        raise SetupError(f"{path}: it has no load, no row '...{_WORKER}'")
    if chosen not in loads:
        raise SetupError(f"{path}: it has no load {chosen!r}; its loads: {'; '.join(loads) or 'none'}")
    if chosen + _RABBITMQ not in values:
        raise SetupError(f"{path}: no row '{chosen}{_RABBITMQ}'")
    source = f"{path}, {chosen}"
    rabbitmq = Cost(2 * values[chosen + _RABBITMQ], f"{source}; twice for the intake")
    return Costs(Cost(values[chosen + _WORKER], source), host, rabbitmq)


def rows(path: Path) -> dict[str, float]:
    """Return the values of a table by name, each with its spread added.

    Raises:
        SetupError: the file cannot be read, or is no such table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        values = {f"{row['name']}": float(row["ours"]) * (1 + float(row["spread"])) for row in table["rows"]}
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}; `make bench-against` writes such a file") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise SetupError(f"{path}: it is no table as `make bench-against` writes it") from error
    if bad := [name for name, value in values.items() if not 0 < value < math.inf]:
        raise SetupError(f"{path}: '{bad[0]}' is not above 0")
    return values


def describe(unmeasured: Mapping[str, str]) -> str:
    """Return which banks could not be measured, and why."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in unmeasured.items())
    return f"{len(unmeasured)} of the memory banks could not be measured: {reasons}"


def _host() -> Cost:
    values: Mapping[str, float] = rows(BENCH) if BENCH.exists() else {}
    measured = [value for name, value in values.items() if name.startswith(_HOST)]
    return Cost(max(measured), str(BENCH)) if measured else Cost(_HOST_MS, "docs/performance.md, the highest")


def _probe(settings: config.Config) -> tuple[Cost, dict[str, str]]:
    """Measure the CPU time of golden images. The slowest one counts.

    Returns:
        The cost, and why banks could not be measured, by category.

    Raises:
        SetupError: there is no bank, or none could be measured.
    """
    folders, unmeasured = _folders(settings)
    if not folders and not unmeasured:
        advice = "name a table with --costs, or fit a category"
        raise SetupError(f"no measured costs: {AGAINST} is not there, and no category has golden images; {advice}")
    exact_search.set_threads(1)  # as in a lane: threads that wait for each other also take CPU time
    measured = dict[str, float]()
    with closing(serving.Loader(settings, backbone.CPU, streams=1)) as loader, terminal.progress() as progress:
        for name, folder in progress.track(list(folders.items()), description="golden images"):
            try:
                measured[name] = max(_inspections_ms(loader, name, folder))
            except SetupError as error:
                unmeasured[name] = str(error)
    if not measured:
        raise SetupError(describe(unmeasured))
    slowest = max(measured, key=measured.__getitem__)
    source = f"measured now: golden image of {slowest}, the slowest, and {_REST_MS:g} ms"
    return Cost(measured[slowest] + _REST_MS, source), unmeasured


def _folders(settings: config.Config) -> tuple[dict[str, Path], dict[str, str]]:
    """Find the banks with golden images: the version that a worker of this host served last, or the fitted one.

    Returns:
        Their folders, and why one is not known, by category.
    """
    copies, found, unknown = opening.copies(settings), dict[str, Path](), dict[str, str]()
    served = [] if copies is None else [name for name in copies.categories() if settings.recipe(name) is not None]
    for name in dict.fromkeys([*settings.categories, *served]):
        try:
            version = copies.last(name) if copies is not None and name in served else None
            folder = version or settings.paths.memory_banks / name
            if (folder / golden.FILE).is_file():
                found[name] = folder
        except SetupError as error:
            unknown[name] = str(error)
        except OSError as error:
            unknown[name] = f"{error.filename}: cannot be read ({error.strerror}); run it as a user who may read it"
    return found, unknown


def _inspections_ms(loader: serving.Loader, name: str, folder: Path) -> Iterator[float]:
    """Yield the median CPU time of each golden image of a category, with its heat map."""
    recorded, images = golden.read(folder)
    inspector = loader.load_folder(name, folder)
    for reference, image in zip(recorded.images, images, strict=True):
        spent = []
        for _ in range(_PROBES):
            begin = time.process_time()
            inspector.inspect(image, reference.content_type, untimed, with_heat_map=True)
            spent.append(1000 * (time.process_time() - begin))
        yield statistics.median(spent)
