"""`python -m bench.scale`: many lines, categories and workers with simulated devices on one RabbitMQ.

Throughput and CPU time against one category, the longest wait of a quiet line while all others overload the workers,
and the p99 of the answer that `patchline size` predicts against the one that is seen. Prints a table.
"""

from __future__ import annotations

import argparse
import heapq
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import line as lines
from bench import plant, process_costs
from bench.line import Line, Worker
from bench.plant import DEFAULT
from bench.rows import JPEG
from bench.table import Row, of_this_machine, ratio_row
from patchline import config
from patchline.banks import store
from patchline.broker.base import Message, Outgoing
from patchline.operations import queueing, sizing
from patchline.protocol import messages, topology
from patchline.protocol.messages import Verdict
from patchline.runtime import connections, logs
from patchline.services import server

_PROGRAMS = {"workers": "python", "RabbitMQ": "beam.smp"}
_IMAGES_PER_WORKER, _BATCH, _PACED_S, _QUIET_PARTS, _QUIET_EVERY_S = 200, 32, 25.0, 20, 0.5
_UTILISATIONS = (0.5, 0.7)
_QUIET = "quiet"  # a line


@dataclass(frozen=True)
class Scale:
    """The plant under test."""

    lines: int
    categories: int
    workers: int

    @property
    def names(self) -> list[str]:
        """The categories."""
        return [f"part-{number:03}" for number in range(self.categories)]


@dataclass(frozen=True)
class Drained:
    """How fast a backlog was judged, and the CPU time of an image by `_PROGRAMS`."""

    rate: float
    core_ms: dict[str, float]


class Sender:
    """Sends one picture again and again, with a job id that no other job has."""

    def __init__(self, line: Line) -> None:
        self._broker, self._image, self._sent = line.broker, plant.pictures(1, JPEG)[0], 0

    def send(self, parts: Sequence[tuple[str, str]]) -> None:
        """Send parts that are captured now: the line and the category of each."""
        for first in range(0, len(parts), _BATCH):
            self._broker.publish_all([self._job(*part) for part in parts[first : first + _BATCH]])

    def _job(self, line: str, category: str) -> Outgoing:
        self._sent += 1
        headers: dict[str, str | int] = {"line": line, "part_id": f"p{self._sent}", "category": category}
        headers["captured_at"] = connections.now_ms()
        job = Message(self._image, f"{self._sent}", messages.JOB_TYPE, JPEG, headers)
        return Outgoing(topology.JOBS, f"{line}.{category}", job)


def main() -> int:
    """Measure and print. Returns the exit code: 2, with one line on stderr, if something is missing; 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--lines", type=int, default=16)
    parser.add_argument("--categories", type=int, default=40)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    logs.configure("error")
    scale = Scale(options.lines, options.categories, options.workers)
    try:
        with tempfile.TemporaryDirectory() as name, _running(Path(name), scale) as (line, workers):
            rows = list(_rows(line, workers, scale))
    except server.ServiceError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 2
    of_this_machine(rows).show()
    return 0


@contextmanager
def _running(folder: Path, scale: Scale) -> Iterator[tuple[Line, Sequence[Worker]]]:
    """Start the servers and the workers, each of which serves all categories."""
    settings = _plant(folder, scale)
    with lines.running(folder, settings) as line, ExitStack() as stack:
        urls = {"PATCHLINE_AMQP_URL": line.servers.amqp_url, "PATCHLINE_REDIS_URL": line.servers.redis_url}
        command = [sys.executable, "-m", "bench.simulated", "--config", str(folder / "config.yaml"), "--metrics-port"]
        log = stack.enter_context((folder / "worker.log").open("ab"))
        ports = server.free_ports(scale.workers)
        guards = [server.start_guarded([*command, str(port)], log, log, urls) for port in ports]
        for guard in guards:
            stack.callback(server.stop_guarded, guard)
        workers = [Worker(lines.only_child(guard.pid), port) for guard, port in zip(guards, ports, strict=True)]
        lines.wait_until_ready(workers)
        yield line, workers


def _plant(folder: Path, scale: Scale) -> config.Config:
    """Fit one bank, and give a copy to each category."""
    settings = plant.build(folder, Path("models"), (DEFAULT,))
    fitted = settings.paths.memory_banks / DEFAULT
    manifest = store.load(fitted).manifest
    for name in scale.names:
        shutil.copytree(fitted, fitted.with_name(name))
        store.replace_manifest(fitted.with_name(name), manifest.model_copy(update={"category": name}))
    settings = settings.model_copy(update={"categories": dict.fromkeys(scale.names, settings.category(DEFAULT))})
    config.save(settings, folder / "config.yaml")
    return settings


def _rows(line: Line, workers: Sequence[Worker], scale: Scale) -> Iterator[Row]:
    sender = Sender(line)
    one, many = (_drain(line, sender, workers, scale, names) for names in (scale.names[:1], scale.names))
    what = f"{scale.lines} lines, {scale.workers} workers, {scale.categories} categories : 1"
    yield ratio_row(f"{what}: throughput", "images/s", many.rate, one.rate)
    for name in _PROGRAMS:
        yield ratio_row(f"{what}: {name}, an image", "core-ms", many.core_ms[name], one.core_ms[name])
    service_ms = 1000 * scale.workers / many.rate
    for name, shared in (("its own category", False), ("a busy category", True)):
        wait_ms = max(_quiet_ms(line, sender, scale, shared))
        yield ratio_row(f"longest answer to the quiet line, {name} : one image", "ms", wait_ms, service_ms)
    for utilisation in _UTILISATIONS:
        seen_ms = lines.quantile(_paced_ms(line, sender, scale, utilisation * many.rate), 0.99)
        name = f"p99 at a utilisation of {utilisation}, predicted : seen"
        yield ratio_row(name, "ms", _predicted_ms(scale, utilisation, service_ms), seen_ms)


def _drain(line: Line, sender: Sender, workers: Sequence[Worker], scale: Scale, names: Sequence[str]) -> Drained:
    """Send faster than the workers judge, from all lines. Measure from the last one that is sent to nine tenths."""
    count = _IMAGES_PER_WORKER * scale.workers
    done = sum(worker.confirmed for worker in workers)
    sender.send([(f"line-{number % scale.lines}", names[number % len(names)]) for number in range(count)])
    begin, begin_s = lines.wait_for_verdicts(workers, done), process_costs.cpu_seconds(_PROGRAMS)
    end, end_s = lines.wait_for_verdicts(workers, done + count * 9 // 10), process_costs.cpu_seconds(_PROGRAMS)
    line.verdicts(count)
    images = end.confirmed - begin.confirmed
    if images < count // 4:
        raise server.ServiceError("the workers judge as fast as this benchmark sends: nothing is measured")
    core_ms = {name: 1000 * (end_s[name] - begin_s[name]) / images for name in _PROGRAMS}
    return Drained(end.per_second_since(begin), core_ms)


def _quiet_ms(line: Line, sender: Sender, scale: Scale, shared: bool) -> list[float]:
    """Overload all categories but the last one, and send a part of the quiet line now and then. Return its times."""
    busy, own = scale.names[:-1] or scale.names, scale.names[-1]
    burst = int(_QUIET_EVERY_S * 1000 / sizing.CHIP_MS * scale.workers)
    for number in range(_QUIET_PARTS):
        sent = range(number * burst, (number + 1) * burst)
        sender.send([(f"line-{part % scale.lines}", busy[part % len(busy)]) for part in sent])
        sender.send([(_QUIET, busy[number % len(busy)] if shared else own)])
    verdicts = line.verdicts(_QUIET_PARTS * (burst + 1))
    return _latencies_ms([verdict for verdict in verdicts if verdict.line == _QUIET])


def _paced_ms(line: Line, sender: Sender, scale: Scale, rate: float) -> list[float]:
    """Let each line send evenly, with a phase of its own. Return the time from capture to decision of all parts."""
    period_s, phases = scale.lines / rate, random.Random(0)
    due = [(phases.random() * period_s, number) for number in range(scale.lines)]
    heapq.heapify(due)
    started, sent = time.monotonic(), 0
    while due[0][0] < _PACED_S:
        at_s, number = heapq.heappop(due)
        time.sleep(max(0.0, started + at_s - time.monotonic()))
        sender.send([(f"line-{number}", scale.names[sent % scale.categories])])
        heapq.heappush(due, (at_s + period_s, number))
        sent += 1
    return _latencies_ms(line.verdicts(sent))


def _latencies_ms(verdicts: Sequence[Verdict]) -> list[float]:
    return [float(one.decided_at - one.captured_at) for one in verdicts if one.captured_at is not None]


def _predicted_ms(scale: Scale, utilisation: float, service_ms: float) -> float:
    """Return what `patchline size` says of the p99, with the service time that was measured at full load."""
    rate = utilisation / service_ms * 1000  # of one worker
    wait_ms = 1000 * queueing.wait_s(1, rate, service_ms / 1000, sizing.VARIATION)
    return service_ms + max(wait_ms, queueing.simultaneous_wait_s(scale.lines, scale.workers, service_ms))


if __name__ == "__main__":
    sys.exit(main())
