"""A line of real processes: workers, publishers and gates as a plant starts them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager

import pika
import pytest

from patchline import config
from patchline.broker.base import Message
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import messages, topology
from patchline.protocol.messages import Announcement, Decision, Verdict
from patchline.runtime import connections
from patchline.services import private_servers, server

PATIENCE_S = 40.0
HEARTBEAT_S = 2  # of an impatient line
LINES = ("l1", "l2")


class Line:
    """One plant on real servers; everything it starts ends with it."""

    def __init__(self, folder, servers, stack):
        self.folder = folder
        self.environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
        self.settings = config.with_urls(config.load(folder / "config.yaml"), servers.amqp_url, servers.redis_url)
        self._stack = stack
        self._url = servers.amqp_url
        self.broker = stack.enter_context(RabbitBroker(servers.amqp_url))
        self._consumers = {}
        self._declare()

    def reset(self, folder):
        """The queues anew, as the configuration in `folder` wants them."""
        self.folder = folder
        self.settings = config.load(folder / "config.yaml")
        _delete_queues(self._url)
        self._declare()

    def _declare(self):
        self.broker.declare(connections.plant(self.settings))
        for each in LINES:
            self.broker.declare(topology.gate(each))

    def start(self, *arguments, **environment):
        """A patchline process in the background; it is killed at the end if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "patchline", *arguments, "--config", str(self.folder / "config.yaml")],
            env=os.environ | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(_end, process)
        return process

    def run(self, *arguments, **environment):
        """A patchline command, to its end."""
        process = self.start(*arguments, **environment)
        process.out, process.err = process.communicate(timeout=PATIENCE_S)
        return process

    def worker(self, *arguments, **environment):
        """A worker that serves; its `metrics_port` is known."""
        (port,) = server.free_ports(1)
        process = self.start("worker", "--metrics-port", str(port), *arguments, **environment)
        process.metrics_port = port
        wait_for(lambda: server.responds(f"http://127.0.0.1:{port}/readyz") or _raise_if_ended(process))
        return process

    def send(self, image, job_id, content_type="image/png", type_=messages.JOB_TYPE, key="l1.brick", **headers):
        """A job, right or wrong, straight onto the exchange; a header of None is left out."""
        ordinary = {"line": "l1", "category": "brick", "part_id": "p", "captured_at": connections.now_ms()}
        kept = {name: value for name, value in (ordinary | headers).items() if value is not None}
        self.broker.publish(topology.JOBS, key, Message(image, job_id, type_, content_type, kept))

    def send_many(self, images, count):
        """So many jobs, of pictures in turn; their ids."""
        for number in range(count):
            self.send(images[number % len(images)].read_bytes(), f"job-{number}")
        return {f"job-{number}" for number in range(count)}

    def require_first_attempts(self, job_ids, worker):
        """Every job is judged, and none was suspected. Some have two verdicts: one waited for its confirmation."""
        verdicts = []
        while {each.job_id for each in verdicts} < job_ids:
            verdicts += self.verdicts(1) or pytest.fail("a verdict is missing")
        assert {each.decision for each in verdicts} <= {Decision.PASS, Decision.REVIEW, Decision.FAIL}
        assert {each.attempt for each in verdicts} == {1}
        assert self.metric(worker.metrics_port, "patchline_jobs_set_apart_total") == 0

    def announce_and_decide(self, job_id, decision=Decision.PASS):
        """What the gate of the first line hears of a part, without a worker."""
        now = connections.now_ms()
        common = {"job_id": job_id, "line": "l1", "category": "brick", "part_id": "p", "captured_at": now}
        part = Announcement(deadline=now + 60_000, **common)
        verdict = Verdict(
            decision=decision, device="cpu:0", worker="w", attempt=1, received_at=now, decided_at=now, **common
        )
        announced = Message(b"", job_id, messages.PART_TYPE, None, part.headers())
        decided = Message(verdict.to_json(), job_id, messages.VERDICT_TYPE)
        self.broker.publish(topology.PARTS, "l1", announced)
        self.broker.publish(topology.VERDICTS, verdict.routing_key, decided)

    def messages(self, queue, count, timeout_s=PATIENCE_S):
        """The next messages of a queue, at most `count`, in time."""
        if queue not in self._consumers:
            self._consumers[queue] = self.broker.consume(queue, prefetch=1000)
        found, deadline = [], time.monotonic() + timeout_s
        while len(found) < count and time.monotonic() < deadline:
            delivery = self._consumers[queue].take(0.1)
            if delivery is not None:
                delivery.ack()
                found.append(delivery.message)
        return found

    def verdicts(self, count, timeout_s=PATIENCE_S):
        return [messages.parse_verdict(each) for each in self.messages(topology.VERDICTS, count, timeout_s)]

    def metric(self, port, name):
        """The sum of a metric's samples."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(each.rsplit(" ", 1)[1]) for each in lines if each.split("{")[0].split(" ")[0] == name)


@contextmanager
def impatient(plant, folder, amqp_url, redis_url):
    """The plant on another RabbitMQ, with little patience for it; its spool is in `folder`."""
    settings = config.load(plant / "config.yaml")
    changes = {
        "paths": {"spool": folder / "spool"},
        "broker": {"heartbeat_s": HEARTBEAT_S, "confirm_timeout_s": 1.0},
        "publisher": {"confirm_timeout_s": 1.0, "deadline_ms": 100_000},
    }
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in changes.items()}
    config.save(settings.model_copy(update=changed), folder / "config.yaml")
    with ExitStack() as stack:
        yield Line(folder, private_servers.Servers(amqp_url, redis_url, None, None), stack)


@pytest.fixture
def line(plant, servers):
    _delete_queues(servers.amqp_url)
    for kept in ("gate-memory", "spool"):
        shutil.rmtree(plant / kept, ignore_errors=True)
    with ExitStack() as stack:
        yield Line(plant, servers, stack)


def _delete_queues(url):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    for queue in [
        topology.JOBS,
        topology.SUSPECTS,
        topology.VERDICTS,
        topology.DEAD,
        topology.TRACES,
        *map(topology.gate_queue, LINES),
    ]:
        connection.channel().queue_delete(queue)
    connection.close()


def wait_for(condition, timeout_s=PATIENCE_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def records(text):
    return [json.loads(each) for each in text.splitlines()]


def _raise_if_ended(process):
    assert process.poll() is None, process.communicate()
    return False


def _end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
    process.communicate()
