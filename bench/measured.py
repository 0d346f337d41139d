"""What one build does with a load, or with simulated chips: the two sides of `bench.against`.

Each measurement has a RabbitMQ and a Redis of its own. The queue is filled before the workers start, and nobody reads
the verdicts of that part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import line as lines
from bench import plant, process_costs
from bench.builds import Build
from bench.line import Reading, Worker
from bench.loads import Load
from bench.plant import WIDE
from bench.rows import JPEG, RATE
from patchline.broker.base import Broker, Consumer
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import messages, topology
from patchline.services import private_servers, server

PROGRAMS = {"worker": "python", "RabbitMQ": "beam.smp", "Redis": "redis-server"}
_ALONE = 100  # parts that have the line for themselves
_ALONE_PAUSE_S = 0.03
_SIMULATED = ("-m", "bench.simulated")
_IMAGES_PER_CHIP = 300


@dataclass(frozen=True)
class Measured:
    """What one build has done with a load.

    Attributes:
        rate: images per second.
        core_ms: CPU time of each process for an image, by `PROGRAMS`.
        resident_mb: memory of the worker at the end.
        alone_ms: from capture to decision of parts that came one at a time; empty if the images were not paced.
        latencies_ms: the same of images that came evenly, 36 a second.
    """

    rate: float
    core_ms: dict[str, float]
    resident_mb: float
    alone_ms: list[float]
    latencies_ms: list[float]


def measure(build: Build, load: Load, paced_s: float) -> Measured:
    """Let one build judge a load.

    Raises:
        ServiceError: verdicts are missing.
    """
    with private_servers.running() as servers, RabbitBroker(servers.amqp_url) as broker:
        with build.workers(servers, [load.category]) as workers:
            lines.wait_until_ready(workers)  # it has made its queues
        load.send(broker, range(len(load.images)))
        with build.workers(servers, [load.category]) as workers:
            begin = _reading(workers, len(load.images) // 10)
            end = _reading(workers, len(load.images) * 9 // 10)
            lines.wait_for_verdicts(workers, len(load.images))
            alone_ms, latencies_ms = _latencies_ms(broker, load, int(paced_s * RATE)) if load.is_paced else ([], [])
            resident_mb = lines.resident_bytes(workers[0].process_id) / 1e6
    return Measured(end[0].per_second_since(begin[0]), _core_ms(begin, end), resident_mb, alone_ms, latencies_ms)


def chips(build: Build, count: int) -> tuple[float, dict[str, float]]:
    """Let workers with a simulated chip each judge JPEG images of WIDE.

    Returns:
        Images a second of all, and the CPU time of each of `PROGRAMS` for an image, in ms.

    Raises:
        ServiceError: verdicts are missing.
    """
    load = Load("simulated chips", WIDE, JPEG, plant.pictures(_IMAGES_PER_CHIP * count, JPEG))
    with private_servers.running() as servers, RabbitBroker(servers.amqp_url) as broker:
        with build.workers(servers, [load.category]) as workers:
            lines.wait_until_ready(workers)
        load.send(broker, range(len(load.images)))
        with build.workers(servers, [load.category], count, _SIMULATED) as workers:
            lines.wait_until_ready(workers)
            begin = _reading(workers, 1)
            end = _reading(workers, len(load.images) * 9 // 10)
    return end[0].per_second_since(begin[0]), _core_ms(begin, end)


def _reading(workers: Sequence[Worker], count: int) -> tuple[Reading, dict[str, float]]:
    """Return the time of some verdicts, and the CPU seconds of each program then."""
    return lines.wait_for_verdicts(workers, count), process_costs.cpu_seconds(PROGRAMS)


def _core_ms(begin: tuple[Reading, dict[str, float]], end: tuple[Reading, dict[str, float]]) -> dict[str, float]:
    images = end[0].confirmed - begin[0].confirmed
    return {name: 1000 * (end[1][name] - begin[1][name]) / images for name in PROGRAMS}


def _latencies_ms(broker: Broker, load: Load, count: int) -> tuple[list[float], list[float]]:
    """Send images one at a time, each after the verdict of the one before; then `count` evenly.

    Returns:
        The times from capture to decision of both.
    """
    consumer = broker.consume(topology.VERDICTS, prefetch=500)
    first = len(load.images)
    alone_ms = []
    for number in range(first, first + _ALONE):
        load.send(broker, [number])
        alone_ms += _times_ms(consumer, {f"{number}"})
        time.sleep(_ALONE_PAUSE_S)
    numbers, started = range(first + _ALONE, first + _ALONE + count), time.monotonic()
    for index, number in enumerate(numbers):
        time.sleep(max(0.0, started + index / RATE - time.monotonic()))
        load.send(broker, [number])
    latencies_ms = _times_ms(consumer, {f"{number}" for number in numbers})
    consumer.cancel()
    return alone_ms, latencies_ms


def _times_ms(consumer: Consumer, wanted: set[str]) -> list[float]:
    """Read verdicts until some jobs have theirs. Return the times from capture to decision."""
    times: dict[str, float] = {}
    while wanted - times.keys():
        delivery = consumer.take(30.0)
        if delivery is None:
            raise server.ServiceError("a verdict of the benchmark does not come; see the worker's log")
        verdict = messages.parse_verdict(delivery.message)
        delivery.ack()
        if verdict.job_id in wanted and verdict.captured_at is not None:
            times[verdict.job_id] = float(verdict.decided_at - verdict.captured_at)
    return list(times.values())
