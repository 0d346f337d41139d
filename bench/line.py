"""The whole line, measured from outside: a real worker, RabbitMQ and Redis on the same cores."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker import topology
from broker.base import Broker, Message
from inspection import config, message
from inspection.message import Verdict
from process import line as surroundings
from tools import server, services

_PATIENCE_S = 120.0
_WORKER = ("-m", "patchline", "worker")


@dataclass(frozen=True)
class Line:
    """A plant with its servers."""

    folder: Path
    settings: config.Config
    servers: services.Servers
    broker: Broker

    def send(self, category: str, images: Sequence[bytes], content_type: str) -> None:
        """Put images into the queue."""
        for number, image in enumerate(images):
            self.send_one(category, number, image, content_type)

    def send_one(self, category: str, number: int, image: bytes, content_type: str) -> None:
        """Put one image into the queue, captured now."""
        captured = {"line": "bench", "part_id": f"p{number}", "captured_at": surroundings.now_ms()}
        outgoing = Message(image, f"{number}", message.JOB_TYPE, content_type, {**captured, "category": category})
        self.broker.publish(topology.JOBS, f"bench.{category}", outgoing)

    @contextmanager
    def workers(self, category: str, count: int = 1, script: Sequence[str] = _WORKER) -> Iterator[list[int]]:
        """Worker processes of their own, at work; their process ids."""
        arguments = ["--category", category, "--metrics-port", "0", "--config", str(self.folder / "config.yaml")]
        environment = {"PATCHLINE_AMQP_URL": self.servers.amqp_url, "PATCHLINE_REDIS_URL": self.servers.redis_url}
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "worker.log").open("ab"))
            guards = [
                server.guarded([sys.executable, *script, *arguments], log, log, environment) for _ in range(count)
            ]
            for guard in guards:
                stack.callback(server.end, guard)
            yield [_only_child(guard.pid) for guard in guards]

    def verdicts(self, count: int) -> list[tuple[float, Verdict]]:
        """The next verdicts, with the wall-clock second at which each arrived here.

        Raises:
            ServiceError: they do not come.
        """
        consumer = self.broker.consume(topology.VERDICTS, prefetch=500)
        found: list[tuple[float, Verdict]] = []
        while len(found) < count:
            delivery = consumer.take(_PATIENCE_S)
            if delivery is None:
                raise server.ServiceError("the worker of the benchmark gives no verdicts; see its log")
            found.append((time.time(), message.parse_verdict(delivery.message)))
            delivery.ack()
        consumer.cancel()
        return found


@contextmanager
def running(folder: Path, settings: config.Config) -> Iterator[Line]:
    """The plant in `folder`, with private servers."""
    with services.running() as servers:
        own = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        with surroundings.connect(own, "bench") as broker:
            broker.declare(surroundings.plant(own))
            yield Line(folder, own, servers, broker)


def drained_per_second(line: Line, category: str, images: Sequence[bytes], content_type: str) -> float:
    """Fill the queue, start a worker, and count its verdicts from the first tenth to the last."""
    line.send(category, images, content_type)
    with line.workers(category):
        arrived = [at for at, _ in line.verdicts(len(images))]
    skipped = len(arrived) // 10
    return (len(arrived) - 1 - skipped) / (arrived[-1] - arrived[skipped])


def cpu_seconds(process_ids: Sequence[int]) -> float:
    """User and system time that processes have used so far (proc(5))."""
    ticks = 0
    for each in process_ids:
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(process_id: int) -> int:
    """Memory of a process (proc(5))."""
    pages = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _only_child(process_id: int) -> int:
    listing = Path(f"/proc/{process_id}/task/{process_id}/children")
    while not (children := listing.read_text(encoding="ascii").split()):
        time.sleep(0.01)
    return int(children[0])


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
