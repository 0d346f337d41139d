"""The cost of the queues of many categories: python -m bench.queue_cost. Prints a table."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline.broker.base import Message, Outgoing
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology
from patchline.services import private_servers
from patchline.worker import supply

LINES = 50
CATEGORIES = (1, 20, 200)
_MESSAGES, _ROUNDS, _BODY = 2000, 5, b"x" * 100_000
_BATCH = 16


@dataclass(frozen=True)
class Cost:
    """One row of the table."""

    categories: int
    declare_s: float
    memory_mb: float
    disk_mb: float
    consume_s: float
    rates: Sequence[float]


@contextmanager
def _broker() -> Iterator[tuple[Path, private_servers.Node, RabbitBroker]]:
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        with private_servers.start_all([node.server]), RabbitBroker(node.url) as broker:
            yield home, node, broker


def measure(categories: int) -> Cost:
    """Declare the queues of some categories, and move messages of all lines through one worker's supply."""
    names = [f"c{number}" for number in range(categories)]
    with _broker() as (home, node, broker):
        started = time.monotonic()
        broker.declare(topology.plant(names, 5000, 2 * 10**9, 1_000_000, 10_000))
        declare_s = time.monotonic() - started
        time.sleep(5.0)
        memory_mb, disk_mb = _memory_mb(node), _disk_mb(home)
        started = time.monotonic()
        jobs = supply.of_jobs(broker, names, prefetch=16)
        while not jobs.subscribed:
            time.sleep(0.01)
        consume_s = time.monotonic() - started
        rates = [_rate(broker, jobs, names) for _ in range(_ROUNDS)]
    return Cost(categories, declare_s, memory_mb, disk_mb, consume_s, rates)


def _rate(broker: RabbitBroker, jobs: supply.Supply, names: Sequence[str]) -> float:
    """Return the messages per second, published in batches and taken, spread over lines and categories."""
    started = time.monotonic()
    for first in range(0, _MESSAGES, _BATCH):
        numbers = range(first, first + _BATCH)
        keys = [f"l{number % LINES}.{names[number % len(names)]}" for number in numbers]
        broker.publish_all([Outgoing(topology.JOBS, key, Message(_BODY)) for key in keys])
        taken = 0
        while taken < _BATCH:
            if (delivery := jobs.take(1.0)) is not None:
                delivery.ack()
                taken += 1
    return _MESSAGES / (time.monotonic() - started)


def _memory_mb(node: private_servers.Node) -> float:
    return float(private_servers.rabbitmqctl(node, "eval", "erlang:memory(total).")) / 1e6


def _disk_mb(folder: Path) -> float:
    size = subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout
    return float(size.split()[0])


def main() -> None:
    """Measure each number of categories in turn."""
    print("| categories | declare, s | RabbitMQ's memory, MB | disk, MB | subscribe, s | jobs/s (median) |")
    for categories in CATEGORIES:
        cost = measure(categories)
        values = [cost.declare_s, cost.memory_mb, cost.disk_mb, cost.consume_s, statistics.median(cost.rates)]
        print("|", cost.categories, "|", " | ".join(f"{value:.1f}" for value in values), "|", flush=True)


if __name__ == "__main__":
    main()
