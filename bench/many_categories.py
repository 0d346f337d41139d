"""`python -m bench.many_categories`: start-up and memory of the workers of a host that serves many categories.

All categories have copies of one bank, in files of their own. Workers whose banks are prepared once and shared are
compared with workers that have them in their own memory, because the folder for prepared banks cannot be written.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from bench import line as lines
from bench import plant
from bench.line import Worker
from bench.plant import DEFAULT
from bench.table import Row, of_this_machine, ratio_row
from patchline import config
from patchline.banks import store
from patchline.runtime import logs
from patchline.services import private_servers, server

_READY_S = 600.0


@dataclass(frozen=True)
class Started:
    """What workers need that have just become ready.

    Attributes:
        ready_s: from their start until all are ready.
        shared_mb: memory of all of them, in which a page that several processes have mapped counts once.
        resident_mb: of one worker, with all pages that it has mapped.
    """

    ready_s: float
    shared_mb: float
    resident_mb: float


def main() -> int:
    """Measure and print. Returns the exit code: 2, with one line on stderr, if something is missing; 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench.many_categories", description=__doc__)
    parser.add_argument("--categories", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logs.configure("error")
    try:
        with tempfile.TemporaryDirectory() as name, private_servers.running() as servers:
            settings = _plant(Path(name), options.categories)
            rows = list(_rows(Path(name), settings, servers, options.workers, options.rounds))
    except server.ServiceError as error:
        print(f"many_categories: {error}", file=sys.stderr)
        return 2
    of_this_machine(rows).show()
    return 0


def _plant(folder: Path, count: int) -> config.Config:
    """Fit one bank, and give it to `count` categories."""
    settings = plant.build(folder, Path("models"), (DEFAULT,))
    fitted, names = settings.paths.memory_banks / DEFAULT, [f"part-{number:03}" for number in range(count)]
    manifest = store.load(fitted).manifest
    for name in names:
        shutil.copytree(fitted, fitted.with_name(name))
        store.replace_manifest(fitted.with_name(name), manifest.model_copy(update={"category": name}))
    return settings.model_copy(update={"categories": dict.fromkeys(names, settings.category(DEFAULT))})


def _rows(
    folder: Path, settings: config.Config, servers: private_servers.Servers, workers: int, rounds: int
) -> Iterator[Row]:
    (folder / "file").touch()  # in the place of a folder
    shared, private = (_with_copies(settings, folder / name) for name in ("served-banks", "file"))
    first = _start(folder, shared, servers, workers)
    pairs = [
        (_start(folder, shared, servers, workers), _start(folder, private, servers, workers)) for _ in range(rounds)
    ]
    what = f"{workers} workers, {len(settings.categories)} categories, shared banks : private"
    for name, unit, value in (
        ("start", "s", attrgetter("ready_s")),
        ("memory of all", "MB", attrgetter("shared_mb")),
        ("resident memory of one", "MB", attrgetter("resident_mb")),
    ):
        columns = [[value(started) for started in column] for column in zip(*pairs, strict=True)]
        spread = max((max(column) - min(column)) / statistics.median(column) for column in columns)
        ours, other = map(statistics.median, columns)
        yield ratio_row(f"{what}: {name}", unit, ours, other, spread)
        if name == "start":
            yield ratio_row(f"{what}: first start, which prepares them", unit, first.ready_s, other)


def _with_copies(settings: config.Config, folder: Path) -> config.Config:
    return settings.model_copy(update={"paths": settings.paths.model_copy(update={"served_banks": folder})})


def _start(folder: Path, settings: config.Config, servers: private_servers.Servers, count: int) -> Started:
    config.save(settings, folder / "config.yaml")
    began = time.monotonic()
    with _workers(folder, servers, count) as workers:
        while not all(worker.ready for worker in workers):
            if time.monotonic() - began > _READY_S:
                raise server.ServiceError("a worker is not ready in time; see its log")
            time.sleep(0.2)
        ready_s = time.monotonic() - began
        resident = [lines.resident_bytes(worker.process_id) for worker in workers]
        return Started(ready_s, sum(_proportional_mb(worker) for worker in workers), statistics.mean(resident) / 1e6)


@contextmanager
def _workers(folder: Path, servers: private_servers.Servers, count: int) -> Iterator[Sequence[Worker]]:
    """Start workers of all categories, and end them with the block."""
    urls = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    command = [sys.executable, "-m", "patchline", "worker", "--config", str(folder / "config.yaml"), "--metrics-port"]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "worker.log").open("ab"))
        ports = server.free_ports(count)
        guards = [server.start_guarded([*command, str(port)], log, log, urls) for port in ports]
        for guard in guards:
            stack.callback(server.stop_guarded, guard)
        yield [Worker(lines.only_child(guard.pid), port) for guard, port in zip(guards, ports, strict=True)]


def _proportional_mb(worker: Worker) -> float:
    """Return the memory of a process, of a shared page its share of it (proc(5))."""
    for line in Path(f"/proc/{worker.process_id}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise server.ServiceError("this kernel does not say how much memory a process shares")


if __name__ == "__main__":
    sys.exit(main())
