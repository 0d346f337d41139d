"""The scene of a storm: real servers, workers, a publisher and a gate, each behind proxies, and their output."""

import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.parse
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pika
import psutil
import yaml

from patchline import config
from patchline.broker.rabbitmq import RabbitBroker
from patchline.gate.instance import default_name
from patchline.protocol import messages, topology
from patchline.runtime import connections
from patchline.services import server
from tests.chaos import archived
from tests.proxy import Proxy

LINE, CATEGORY = "l1", "brick"
FAULTS = Path(__file__).with_name("faults")
# The storm kills a worker every second or two. With three attempts, an ordinary job could by chance be in three workers
# that are killed, and would then rightly get the decision `error`.
CHANGES = {
    "worker": {"start_s": 20.0, "stuck_s": 5.0, "restart_pause_s": 0.2, "restart_pause_max_s": 0.5, "metrics_port": 0},
    "broker": {"confirm_timeout_s": 3.0, "max_attempts": 5, "jobs_max_length": 150},
    "publisher": {"confirm_timeout_s": 3.0},
    "gate": {"max_wait_ms": 3_600_000},
}


@dataclass
class Scene:
    """A line at work, and handles on everything that a storm can disturb."""

    folder: Path
    settings: config.Config
    proxies: dict[str, list[Proxy]]
    amqp_urls: dict[str, str]
    environment: dict[str, str]
    verdicts: dict[str, list[messages.Verdict]] = field(default_factory=dict)
    last_verdict_at: float = 0.0
    supervisor: object = None
    publisher: object = None
    gate: object = None
    archive: archived.Archive | None = None

    @property
    def failpoints(self):
        return self.folder / "failpoints"

    def start(self, name, *arguments):
        """Start a process of the line. Its output goes to files with its name."""
        variables = {"PATCHLINE_AMQP_URL": self.amqp_urls[name]}
        if name != "gate":
            variables["PYTHONPATH"] = f"{FAULTS}{os.pathsep}{Path.cwd()}"
        if name == "archive":
            variables["PATCHLINE_FAILPOINTS"] = str(self.archive.failpoints)
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            command = [sys.executable, "-m", "patchline", *arguments, "--config", str(self.folder / "config.yaml")]
            return server.start_guarded(command, out, err, self.environment | variables)

    def output(self, name):
        return (self.folder / f"{name}.out").read_text()

    def last_log_lines(self, count=8):
        """Return the end of the log of each process, for the message of a failed test."""
        logs = sorted(self.folder.glob("*.err"))
        return "\n".join(f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-count:])

    def workers(self):
        """Return the running worker processes, without their supervisor."""
        return worker_processes(self.supervisor.pid)

    @property
    def queues(self):
        """The names of the queues of the plant and of its gate."""
        parts = connections.plant(self.settings), topology.gate(LINE, [default_name()])
        return [queue.name for part in parts for queue in part.queues]

    def decided(self):
        return len(self.verdicts)

    def accepted(self):
        """The part ids of the jobs that the publisher has reported, by job id."""
        return {
            record["job_id"]: record["part_id"] for record in map(json.loads, self.output("publisher").splitlines())
        }

    def acted(self):
        """The ids of the jobs on which the gate has acted, once for each act."""
        lines = self.output("gate").splitlines(keepends=True)
        return [json.loads(line)["job_id"] for line in lines if line.endswith("\n")]

    def is_complete(self):
        """Return True if the publisher has ended and each job has its verdict: no more will come."""
        return self.publisher.poll() is not None and self.accepted().keys() <= self.verdicts.keys()


@contextmanager
def set_up(plant, folder, amqp_urls, redis_url, images, rate, broken=None, disk=None, archive=None):
    """Start a line: two workers, a gate, and a publisher that sends `images` at `rate` per second.

    With an archive, an `archived.Archive`, workers send the pictures of rejects.
    """
    settings = configured(plant, folder, CHANGES | ({"archive": archived.CHANGES} if archive else {}))
    with ExitStack() as stack:
        proxies, proxied_urls = {}, {}
        for name in ("worker", "publisher", "gate", "archive"):
            proxies[name], proxied_urls[name] = behind_proxies(amqp_urls, stack)
        proxies["redis"], proxied_redis_url = behind_proxies([redis_url], stack)
        environment = {"PATCHLINE_REDIS_URL": proxied_redis_url, "PATCHLINE_BROKEN": broken or ""}
        environment["PATCHLINE_FAILPOINTS"] = str(folder / "failpoints")
        environment |= disk.environment if disk else {}
        environment |= {"PATCHLINE_ARCHIVE_URL": archive.postgres.url} if archive else {}
        scene = Scene(folder, settings, proxies, proxied_urls, environment, archive=archive)
        scene.failpoints.mkdir()
        broker = stack.enter_context(RabbitBroker(",".join(amqp_urls)))
        broker.declare(connections.plant(settings))
        broker.declare(topology.gate(LINE, [default_name()]))
        done = threading.Event()
        if archive:
            _start_archive(scene, amqp_urls[0], stack)
        audited = archived.AUDIT if archive else topology.VERDICTS
        auditor = threading.Thread(target=_audit, args=(scene, broker, audited, done))
        auditor.start()
        stack.callback(auditor.join)
        stack.callback(done.set)
        for name, arguments in _processes(images, rate).items():
            process = scene.start(name, *arguments)
            stack.callback(server.stop_guarded, process)
            setattr(scene, "supervisor" if name == "worker" else name, process)
        yield scene


def _start_archive(scene, amqp_url, stack):
    scene.archive.scene = scene
    for queue in (topology.VERDICTS, topology.PICTURES):
        purge(amqp_url, queue)
    scene.archive.declare_audit(amqp_url)
    stack.callback(delete_queue, amqp_url, archived.AUDIT)
    scene.archive.start()
    stack.callback(scene.archive.stop)


def _processes(images, rate):
    deadline = ("--deadline-ms", "3600000")
    return {
        "gate": ("gate", "--line", LINE, "--dry-run"),
        "worker": ("worker", "--devices", "cpu:0,cpu:1"),
        "publisher": ("publish", "--line", LINE, "--category", CATEGORY, "--rate", str(rate), *deadline, str(images)),
    }


def configured(plant, folder, sections):
    """Copy a plant, and change sections of its configuration. Return the settings."""
    shutil.copytree(plant, folder, symlinks=True, ignore=shutil.ignore_patterns("spool", "gate-memory"))
    document = yaml.safe_load((folder / "config.yaml").read_text())
    for section, changes in sections.items():
        document[section] = document.get(section, {}) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    return config.load(folder / "config.yaml")


def behind_proxies(urls, stack):
    proxies, proxied_urls = [], []
    for url in urls:
        parts = urllib.parse.urlsplit(url)
        proxies.append(Proxy(parts.port))
        stack.callback(proxies[-1].close)
        proxied_urls.append(url.replace(f":{parts.port}", f":{proxies[-1].port}"))
    return proxies, ",".join(proxied_urls)


def _audit(scene, broker, queue, done):
    """Record every verdict."""
    consumer = broker.consume(queue, prefetch=500)
    while not done.is_set():
        delivery = consumer.take(0.2)
        if delivery is not None:
            verdict = messages.parse_verdict(delivery.message)
            scene.verdicts.setdefault(verdict.job_id, []).append(verdict)
            scene.last_verdict_at = time.monotonic()
            delivery.ack()


def worker_processes(supervisor_pid):
    """Return the running worker processes below a supervisor."""
    workers = []
    for child in psutil.Process(supervisor_pid).children(recursive=True):
        try:
            if "--device" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                workers.append(child)
        except psutil.Error:
            continue
    return workers


def dead_letters(url):
    """Consume the queue of the dead letters."""
    letters = []
    with RabbitBroker(url) as broker:
        consumer = broker.consume(topology.DEAD, prefetch=500)
        while (delivery := consumer.take(3.0)) is not None:
            delivery.ack()
            letters.append(delivery.message)
    return letters


def terminate(guard):
    """Send SIGTERM to the process under a guard, and wait until it ends."""
    for child in psutil.Process(guard.pid).children():
        child.send_signal(signal.SIGTERM)
    guard.wait(60)


def purge(url, queue):
    """Drop the ready messages of a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_purge(queue)
    connection.close()


def delete_queue(url, queue):
    """Delete a queue with its messages, like an operator's mistake."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_delete(queue)
    connection.close()
