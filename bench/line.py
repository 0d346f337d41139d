"""The whole line, measured from outside: a real worker, RabbitMQ and Redis on the same cores."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.broker.base import Broker, Message
from patchline.protocol import messages, topology
from patchline.protocol.messages import Verdict
from patchline.runtime import connections
from patchline.services import private_servers, server

_PATIENCE_S = 120.0
_LOOK_S = 0.25  # a look at its counters costs a worker a millisecond
_ANSWERED = "patchline_images_total"
_WORKER = ("-m", "patchline", "worker")


@dataclass(frozen=True)
class Worker:
    """A worker process, and the port that shows what it counts."""

    process_id: int
    metrics_port: int

    @property
    def ready(self) -> bool:
        """It judges what is published now."""
        return server.responds(f"{self._shown}/readyz")

    @property
    def answered(self) -> int:
        """Verdicts of its own that RabbitMQ has confirmed; 0 where it shows nothing yet."""
        try:
            with urllib.request.urlopen(f"{self._shown}/metrics", timeout=_PATIENCE_S) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return 0
        return int(sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(_ANSWERED)))

    @property
    def _shown(self) -> str:
        return f"http://{server.HOST}:{self.metrics_port}"


@dataclass(frozen=True)
class Reading:
    """So many verdicts at a time, in seconds of `time.perf_counter`, and the processor time used up to then."""

    answered: int
    at: float
    cpu_s: float

    def per_second_since(self, earlier: Reading) -> float:
        """Verdicts a second."""
        return (self.answered - earlier.answered) / (self.at - earlier.at)

    def cpu_ms_since(self, earlier: Reading) -> float:
        """Of the workers, for a verdict."""
        return (self.cpu_s - earlier.cpu_s) / (self.answered - earlier.answered) * 1000


@dataclass(frozen=True)
class Line:
    """A plant with its servers."""

    folder: Path
    settings: config.Config
    servers: private_servers.Servers
    broker: Broker

    def send(self, category: str, images: Sequence[bytes], content_type: str) -> None:
        """Put images into the queue."""
        for number, image in enumerate(images):
            self.send_one(category, number, image, content_type)

    def send_one(self, category: str, number: int, image: bytes, content_type: str) -> None:
        """Put one image into the queue, captured now."""
        captured = {"line": "bench", "part_id": f"p{number}", "captured_at": connections.now_ms()}
        outgoing = Message(image, f"{number}", messages.JOB_TYPE, content_type, {**captured, "category": category})
        self.broker.publish(topology.JOBS, f"bench.{category}", outgoing)

    @contextmanager
    def workers(self, category: str, count: int = 1, script: Sequence[str] = _WORKER) -> Iterator[list[Worker]]:
        """Worker processes of their own, at work."""
        arguments = ["--category", category, "--config", str(self.folder / "config.yaml"), "--metrics-port"]
        environment = {"PATCHLINE_AMQP_URL": self.servers.amqp_url, "PATCHLINE_REDIS_URL": self.servers.redis_url}
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "worker.log").open("ab"))
            started = []
            for port in server.free_ports(count):
                guard = server.start_guarded([sys.executable, *script, *arguments, str(port)], log, log, environment)
                stack.callback(server.stop_guarded, guard)
                started.append((guard, port))
            yield [Worker(_only_child(guard.pid), port) for guard, port in started]

    def verdicts(self, count: int) -> list[Verdict]:
        """The next verdicts. Raises ServiceError where they do not come."""
        consumer = self.broker.consume(topology.VERDICTS, prefetch=500)
        found: list[Verdict] = []
        while len(found) < count:
            delivery = consumer.take(_PATIENCE_S)
            if delivery is None:
                raise server.ServiceError("the worker of the benchmark gives no verdicts; see its log")
            found.append(messages.parse_verdict(delivery.message))
            delivery.ack()
        consumer.cancel()
        return found


@contextmanager
def running(folder: Path, settings: config.Config) -> Iterator[Line]:
    """The plant in `folder`, with private servers."""
    with private_servers.running() as servers:
        own = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        with connections.connect(own, "bench") as broker:
            broker.declare(connections.plant(own))
            yield Line(folder, own, servers, broker)


def drained_per_second(line: Line, category: str, images: Sequence[bytes], content_type: str) -> float:
    """Fill the queue, start a worker, and count its verdicts between the first tenth and the last.

    Nobody reads the verdicts meanwhile: who does has a machine of its own. Afterwards each image must have one.

    Raises:
        ServiceError: a verdict is missing.
    """
    line.send(category, images, content_type)
    with line.workers(category) as workers:
        begin = reading(workers, len(images) // 10)
        end = reading(workers, len(images) * 9 // 10)
        answered = {verdict.job_id for verdict in line.verdicts(len(images))}
    if answered != {str(number) for number in range(len(images))}:
        raise server.ServiceError("an image of the benchmark has no verdict of its own")
    return end.per_second_since(begin)


def wait_until_ready(workers: Sequence[Worker]) -> None:
    """Until all of them judge. Raises ServiceError where they do not."""
    deadline = time.monotonic() + _PATIENCE_S
    while not all(each.ready for each in workers):
        if time.monotonic() > deadline:
            raise server.ServiceError("a worker of the benchmark does not get ready; see its log")
        time.sleep(_LOOK_S)


def reading(workers: Sequence[Worker], count: int) -> Reading:
    """Once they have answered so many. Raises ServiceError where they do not."""
    deadline = time.monotonic() + _PATIENCE_S
    while (answered := sum(each.answered for each in workers)) < count:
        if time.monotonic() > deadline:
            raise server.ServiceError(f"{answered} of {count} images have a verdict; see the worker's log")
        time.sleep(_LOOK_S)
    return Reading(answered, time.perf_counter(), sum(_cpu_seconds(each.process_id) for each in workers))


def _cpu_seconds(process_id: int) -> float:
    """User and system time that a process has used so far (proc(5))."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
