"""`make bench-against REV=5fd44a6`: this build and that of a revision in one run, A B A B.

Each measurement has a RabbitMQ and a Redis of its own, and the same images. The queue is filled before the worker
starts, and nobody reads the verdicts of the first part. Then images come evenly, 36 a second, for their latency.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np

from bench import builds, plant, process_costs
from bench import line as lines
from bench.builds import Build
from bench.line import Reading, Worker
from bench.plant import DEFAULT, WIDE
from bench.rows import JPEG, PNG, RATE
from bench.table import Row, Table, of_this_machine, ratio_row
from patchline.broker.base import Message
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import messages, topology
from patchline.runtime import connections, logs
from patchline.services import private_servers, server

_LATENCY_S = 10
_LARGE_SIDES = (3648, 5472)  # 20 megapixels
_PROGRAMS = {"worker": "python", "RabbitMQ": "beam.smp", "Redis": "redis-server"}


@dataclass(frozen=True)
class Load:
    """Images of one kind for one category."""

    name: str
    category: str
    content_type: str
    images: Sequence[bytes]
    is_paced: bool = True


@dataclass(frozen=True)
class Measured:
    """What one build has done with a load.

    Attributes:
        rate: images per second.
        core_ms: CPU time of each process for an image, by `_PROGRAMS`.
        resident_mb: memory of the worker at the end.
        latencies_ms: from capture to decision; empty if the images were not paced.
    """

    rate: float
    core_ms: dict[str, float]
    resident_mb: float
    latencies_ms: list[float]


def main() -> int:
    """Measure, print, and write `out/bench-against.json`.

    Returns:
        The exit code: 2, with one line on stderr, if something is missing; 0 otherwise.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("revision", help="of git, such as 5fd44a6")
    parser.add_argument("--rounds", type=int, default=2, help="of both builds (2)")
    parser.add_argument("--loads", nargs="*", help="names of loads; all by default")
    options = parser.parse_args()
    logs.configure("error")
    try:
        table = compare(options.revision, options.rounds, options.loads)
    except server.ServiceError as error:
        print(f"bench-against: {error}", file=sys.stderr)
        return 2
    table.show()
    table.write(Path("out/bench-against.json"))
    return 0


def compare(revision: str, rounds: int, names: Sequence[str] | None) -> Table:
    """Measure all loads, or those with some names, on both builds.

    Raises:
        ServiceError: a build cannot be installed or does not answer.
    """
    chosen = [load for load in _loads() if not names or load.name in names]
    categories = tuple({load.category: None for load in chosen})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, builds.build_of(revision, Path(name)) as other:
        both = (builds.this_build(Path(name)), other)
        for build in both:
            build.make_plant(categories)
        for load in chosen:
            pairs = [[measure(build, load) for build in both] for _ in range(rounds)]
            rows += _rows(load, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return of_this_machine(rows)


def measure(build: Build, load: Load) -> Measured:
    """Let one build judge a load.

    Raises:
        ServiceError: verdicts are missing.
    """
    with private_servers.running() as servers, RabbitBroker(servers.amqp_url) as broker:
        with build.worker(servers, load.category) as worker:
            lines.wait_until_ready([worker])  # it has made its queues
        _send(broker, load, range(len(load.images)))
        with build.worker(servers, load.category) as worker:
            begin = _reading(worker, len(load.images) // 10)
            end = _reading(worker, len(load.images) * 9 // 10)
            lines.wait_for_verdicts([worker], len(load.images))
            latencies_ms = _latencies_ms(broker, load) if load.is_paced else []
            resident_mb = lines.resident_bytes(worker.process_id) / 1e6
    images = end[0].confirmed - begin[0].confirmed
    core_ms = {name: 1000 * (end[1][name] - begin[1][name]) / images for name in _PROGRAMS}
    return Measured(end[0].per_second_since(begin[0]), core_ms, resident_mb, latencies_ms)


def _reading(worker: Worker, count: int) -> tuple[Reading, dict[str, float]]:
    """Return the time of some verdicts, and the CPU seconds of each program then."""
    return lines.wait_for_verdicts([worker], count), process_costs.cpu_seconds(_PROGRAMS)


def _latencies_ms(broker: RabbitBroker, load: Load) -> list[float]:
    """Send images evenly. Return the time from capture to decision of each."""
    consumer = broker.consume(topology.VERDICTS, prefetch=500)
    count = int(_LATENCY_S * RATE)
    numbers = range(len(load.images), len(load.images) + count)
    started, wanted = time.monotonic(), {f"{number}" for number in numbers}
    for index, number in enumerate(numbers):
        time.sleep(max(0.0, started + index / RATE - time.monotonic()))
        _send(broker, load, [number])
    latencies: dict[str, float] = {}
    while wanted - latencies.keys():
        delivery = consumer.take(30.0)
        if delivery is None:
            raise server.ServiceError("a verdict of the benchmark does not come; see the worker's log")
        verdict = messages.parse_verdict(delivery.message)
        delivery.ack()
        if verdict.job_id in wanted and verdict.captured_at is not None:
            latencies[verdict.job_id] = float(verdict.decided_at - verdict.captured_at)
    consumer.cancel()
    return list(latencies.values())


def _send(broker: RabbitBroker, load: Load, numbers: Sequence[int]) -> None:
    for number in numbers:
        headers: dict[str, str | int] = {"line": "bench", "part_id": f"p{number}", "category": load.category}
        image = load.images[number % len(load.images)]
        job = Message(
            image, f"{number}", messages.JOB_TYPE, load.content_type, headers | {"captured_at": connections.now_ms()}
        )
        broker.publish(topology.JOBS, f"bench.{load.category}", job)


def _loads() -> Iterator[Load]:
    yield Load("default, JPEG", DEFAULT, JPEG, plant.pictures(900, JPEG))
    yield Load("default, PNG", DEFAULT, PNG, plant.pictures(900, PNG))
    yield Load("wide, JPEG", WIDE, JPEG, plant.pictures(300, JPEG), is_paced=False)
    yield Load("default, grey JPEG of 20 megapixels", DEFAULT, JPEG, [_large_picture()] * 60, is_paced=False)


def _large_picture() -> bytes:
    grain = np.random.default_rng(0).integers(0, 255, _LARGE_SIDES, dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(grain, (0, 0), 4))[1].tobytes()


def _rows(load: Load, ours: Sequence[Measured], other: Sequence[Measured]) -> Iterator[Row]:
    def row(what: str, unit: str, value: Callable[[Measured], float]) -> Row:
        columns = [[value(measured) for measured in side] for side in (ours, other)]
        median, other_median = map(statistics.median, columns)
        spread = max((max(column) - min(column)) / statistics.median(column) for column in columns)
        return ratio_row(f"{load.name}: {what}", unit, median, other_median, spread)

    yield row("end to end", "images/s", attrgetter("rate"))
    for process in _PROGRAMS:
        yield row(f"{process}, an image", "core-ms", partial(_core_ms, process))
    yield row("memory of the worker", "MB", attrgetter("resident_mb"))
    for name, share in (("median", 0.5), ("p99", 0.99)) if load.is_paced else ():
        yield row(f"capture to verdict at {RATE:.0f}/s, {name}", "ms", partial(_latency_ms, share))


def _core_ms(program: str, measured: Measured) -> float:
    return measured.core_ms[program]


def _latency_ms(share: float, measured: Measured) -> float:
    return lines.quantile(measured.latencies_ms, share)


if __name__ == "__main__":
    sys.exit(main())
