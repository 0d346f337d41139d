"""The line under test: real workers, RabbitMQ and Redis on the same cores, measured from outside."""

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

_TIMEOUT_S = 120.0
_POLL_S = 0.25  # a scrape of its metrics costs a worker a millisecond
_VERDICTS_METRIC = "patchline_images_total"
_WORKER = ("-m", "patchline", "worker")


@dataclass(frozen=True)
class Worker:
    """A worker process and its metrics port."""

    process_id: int
    metrics_port: int

    @property
    def ready(self) -> bool:
        """True if the worker consumes jobs."""
        return server.responds(f"{self._url}/readyz")

    @property
    def confirmed(self) -> int:
        """The number of its verdicts that RabbitMQ has confirmed; 0 while its metrics are not served yet."""
        return int(self.metric(_VERDICTS_METRIC))

    def metric(self, name: str) -> float:
        """The sum of the values of a metric; 0 while its metrics are not served yet."""
        try:
            with urllib.request.urlopen(f"{self._url}/metrics", timeout=_TIMEOUT_S) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return 0
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    @property
    def _url(self) -> str:
        return f"http://{server.HOST}:{self.metrics_port}"


@dataclass(frozen=True)
class Reading:
    """The verdicts and the CPU time of all workers at one time (seconds of `time.perf_counter`)."""

    confirmed: int
    time_s: float
    cpu_s: float

    def per_second_since(self, earlier: Reading) -> float:
        """Return the verdicts per second since an earlier reading."""
        return (self.confirmed - earlier.confirmed) / (self.time_s - earlier.time_s)

    def cpu_ms_since(self, earlier: Reading) -> float:
        """Return the workers' CPU time per verdict, in milliseconds, since an earlier reading."""
        return (self.cpu_s - earlier.cpu_s) / (self.confirmed - earlier.confirmed) * 1000


@dataclass(frozen=True)
class Line:
    """A plant and its servers."""

    folder: Path
    settings: config.Config
    servers: private_servers.Servers
    broker: Broker

    def send(self, category: str, images: Sequence[bytes], content_type: str) -> None:
        """Publish images as jobs."""
        for number, image in enumerate(images):
            self.send_one(category, number, image, content_type)

    def send_one(self, category: str, number: int, image: bytes, content_type: str) -> None:
        """Publish one image as a job that is captured now."""
        headers = {"line": "bench", "part_id": f"p{number}", "captured_at": connections.now_ms(), "category": category}
        job = Message(image, f"{number}", messages.JOB_TYPE, content_type, headers)
        self.broker.publish(topology.JOBS, f"bench.{category}", job)

    def drain_jobs(self, category: str) -> None:
        """Remove the jobs that wait in the queue of a category."""
        consumer = self.broker.consume(topology.category_queue(topology.JOBS, category), prefetch=500)
        while (delivery := consumer.take(0.5)) is not None:
            delivery.ack()
        consumer.cancel()

    @contextmanager
    def workers(self, category: str, count: int = 1, script: Sequence[str] = _WORKER) -> Iterator[list[Worker]]:
        """Start worker processes and yield them; stop them at the end of the block."""
        arguments = ["--category", category, "--config", str(self.folder / "config.yaml"), "--metrics-port"]
        environment = {"PATCHLINE_AMQP_URL": self.servers.amqp_url, "PATCHLINE_REDIS_URL": self.servers.redis_url}
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "worker.log").open("ab"))
            guards = []
            for port in server.free_ports(count):
                guard = server.start_guarded([sys.executable, *script, *arguments, str(port)], log, log, environment)
                stack.callback(server.stop_guarded, guard)
                guards.append((guard, port))
            yield [Worker(only_child(guard.pid), port) for guard, port in guards]

    def verdicts(self, count: int) -> list[Verdict]:
        """Return the next `count` verdicts.

        Raises:
            ServiceError: no verdict arrived in time.
        """
        consumer = self.broker.consume(topology.VERDICTS, prefetch=500)
        verdicts: list[Verdict] = []
        while len(verdicts) < count:
            delivery = consumer.take(_TIMEOUT_S)
            if delivery is None:
                raise server.ServiceError("the worker of the benchmark sends no verdicts; see its log")
            verdicts.append(messages.parse_verdict(delivery.message))
            delivery.ack()
        consumer.cancel()
        return verdicts


@contextmanager
def running(folder: Path, settings: config.Config) -> Iterator[Line]:
    """Start private servers for the plant in `folder` and yield the line."""
    with private_servers.running() as servers:
        connected = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        with connections.connect(connected, "bench") as broker:
            broker.declare(connections.plant(connected))
            yield Line(folder, connected, servers, broker)


def drained_per_second(line: Line, category: str, images: Sequence[bytes], content_type: str) -> float:
    """Fill the queue, start a worker and return its verdicts per second, without the first and the last tenth.

    Nobody consumes the verdicts during the measurement: in a plant, the gate runs on another machine. Afterwards
    every image must have a verdict.

    Raises:
        ServiceError: a verdict is missing.
    """
    line.send(category, images, content_type)
    with line.workers(category) as workers:
        begin = wait_for_verdicts(workers, len(images) // 10)
        end = wait_for_verdicts(workers, len(images) * 9 // 10)
        job_ids = {verdict.job_id for verdict in line.verdicts(len(images))}
    if job_ids != {str(number) for number in range(len(images))}:
        raise server.ServiceError("an image of the benchmark has no verdict")
    return end.per_second_since(begin)


def wait_until_ready(workers: Sequence[Worker]) -> None:
    """Wait until all workers consume jobs.

    Raises:
        ServiceError: a worker is not ready in time.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while not all(worker.ready for worker in workers):
        if time.monotonic() > deadline:
            raise server.ServiceError("a worker of the benchmark is not ready in time; see its log")
        time.sleep(_POLL_S)


def wait_for_verdicts(workers: Sequence[Worker], count: int) -> Reading:
    """Wait until the workers have at least `count` confirmed verdicts, then take a reading.

    Raises:
        ServiceError: there are fewer verdicts in time.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while (confirmed := sum(worker.confirmed for worker in workers)) < count:
        if time.monotonic() > deadline:
            raise server.ServiceError(f"{confirmed} of {count} images have a verdict; see the worker's log")
        time.sleep(_POLL_S)
    return Reading(confirmed, time.perf_counter(), sum(cpu_seconds(worker.process_id) for worker in workers))


def cpu_seconds(process_id: int) -> float:
    """Return the user and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(process_id: int) -> int:
    """Return the resident memory of a process (proc(5))."""
    pages = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def only_child(process_id: int) -> int:
    """Return the one child of a process, once there is one (proc(5))."""
    listing = Path(f"/proc/{process_id}/task/{process_id}/children")
    while not (children := listing.read_text(encoding="ascii").split()):
        time.sleep(0.01)
    return int(children[0])


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of the values; a share of 0.5 is the median."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
