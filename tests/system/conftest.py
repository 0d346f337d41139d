"""A line of real processes: workers, publishers and gates, started like in a plant."""

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
import redis
import sqlalchemy as sa

from patchline import config
from patchline.broker.base import Message, Refused
from patchline.broker.rabbitmq import RabbitBroker
from patchline.gate.instance import default_name
from patchline.protocol import messages, topology
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests import forked, gate_input, postgresql_server
from tests.stuck_file import StuckFile

TIMEOUT_S = 40.0
_SHOWN_LOG = 4000  # characters
HEARTBEAT_S = 2  # of a line with short timeouts
LINES = ("l1", "l2")
CATEGORIES = ("brick", "brick_two", "cup", "grass", "gravel")
GATES = (default_name(), f"{default_name()}-2")  # of each line
BY_CATEGORY = (topology.JOBS, topology.BACKLOG, topology.SUSPECTS)


class Line:
    """One plant on real servers. All processes that it starts end with it."""

    def __init__(self, folder, servers, stack):
        self.folder = folder
        self.command = None  # another way to start Patchline, such as by another user
        self.environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
        self.settings = config.with_urls(config.load(folder / "config.yaml"), servers.amqp_url, servers.redis_url)
        self._stack = stack
        self._url = servers.amqp_url
        self.broker = stack.enter_context(RabbitBroker(servers.amqp_url))
        self._consumers = {}
        self._declare()

    def reconfigure(self, folder):
        """Use the configuration in `folder`. Delete and declare the queues."""
        self.folder = folder
        self.settings = config.load(folder / "config.yaml")
        delete_queues(self._url)
        self._declare()

    def _declare(self):
        for wanted in (connections.plant(self.settings), *(topology.gate(name, GATES) for name in LINES)):
            self.broker.declare(wanted)

    def start(self, *arguments, **environment):
        """Start a patchline command in the background. It is terminated at the end of the test."""
        words, variables = [*arguments, "--config", str(self.folder / "config.yaml")], os.environ | self.environment
        if self.command is None:
            process = forked.start(words, variables | environment)
        else:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen([*self.command, *words], env=variables | environment, **pipes)
        self.on_exit(process)
        return process

    def on_exit(self, process):
        """Terminate a process at the end of the test."""
        self._stack.callback(_terminate, process)

    def run(self, *arguments, **environment):
        """Run a patchline command and wait for its end. Return the process, with its output in `out` and `err`."""
        process = self.start(*arguments, **environment)
        process.out, process.err = process.communicate(timeout=TIMEOUT_S)
        return process

    def worker(self, *arguments, **environment):
        """Start a worker and wait until it is ready. Its port is in `metrics_port`."""
        (port,) = server.free_ports(1)
        process = self.start("worker", "--metrics-port", str(port), *arguments, **environment)
        process.metrics_port = port
        wait_for(lambda: server.responds(f"http://127.0.0.1:{port}/readyz") or _raise_if_ended(process))
        return process

    def send(
        self,
        image,
        job_id,
        content_type="image/png",
        type_=messages.JOB_TYPE,
        key="l1.brick",
        exchange=topology.JOBS,
        **headers,
    ):
        """Publish a job, valid or not, without a publisher. A header with the value None is left out."""
        defaults = {"line": "l1", "category": "brick", "part_id": "p", "captured_at": connections.now_ms()}
        headers = {name: value for name, value in (defaults | headers).items() if value is not None}
        self.broker.publish(exchange, key, Message(image, job_id, type_, content_type, headers))

    def send_many(self, images, count):
        """Publish `count` jobs, cycling through the images. Return the job ids."""
        for number in range(count):
            self.send(images[number % len(images)].read_bytes(), f"job-{number}")
        return {f"job-{number}" for number in range(count)}

    def fill(self, image, category="brick"):
        """Send jobs until their queue refuses one. Return the ids of the others.

        One after the other: of those that come together RabbitMQ takes more than fit.
        """
        job_ids = [f"fills-{number}" for number in range(50)]
        for number, job_id in enumerate(job_ids):
            try:
                self.send(image, job_id, key=f"l1.{category}", category=category)
            except Refused:
                return set(job_ids[:number])
        return pytest.fail("the queue has no limit")

    def answered_and_left(self, count, *queues):
        """Take the verdicts of `count` jobs that a worker had, and what it has left in the queues.

        Returns:
            The ids of the jobs with a verdict, and the deliveries.
        """
        answered, left, deadline = set(), [], time.monotonic() + TIMEOUT_S

        def take(timeout_s):
            answered.update(verdict.job_id for verdict in self.verdicts(count, timeout_s))
            for queue in queues:
                left.extend(self.deliveries(queue, count, timeout_s))

        while len(answered | {one.message.message_id for one in left}) < count and time.monotonic() < deadline:
            take(0.2)
        take(1.0)  # what is there twice
        return answered, left

    def assert_judged_at_first_attempt(self, job_ids, worker):
        """Assert that every job has a verdict and none became a suspect. Return the verdicts.

        A job may have two verdicts, if RabbitMQ did not confirm for three confirm timeouts.
        """
        verdicts = []
        while {verdict.job_id for verdict in verdicts} < job_ids:
            verdicts += self.verdicts(1) or pytest.fail("a verdict is missing")
        assert {verdict.decision for verdict in verdicts} <= {Decision.PASS, Decision.REVIEW, Decision.FAIL}
        assert {verdict.attempt for verdict in verdicts} == {1}
        assert self.metric(worker.metrics_port, "patchline_jobs_set_apart_total") == 0
        return verdicts

    def publish_part_and_verdict(self, job_id, decision=Decision.PASS):
        """Publish an announcement and a verdict for the gate of the first line, without a worker."""
        now = connections.now_ms()
        ids = {"line": "l1", "category": "brick"}
        part = gate_input.announcement(job_id, now, 60_000, **ids)
        verdict = gate_input.verdict(job_id, now, decision, captured_at=now, **ids)
        self.broker.publish(topology.PARTS, "l1", gate_input.message_of(part))
        self.broker.publish(topology.VERDICTS, verdict.routing_key, gate_input.message_of(verdict))

    def messages(self, queue, count, timeout_s=TIMEOUT_S):
        """Take up to `count` messages from a queue, within the timeout."""
        return [delivery.message for delivery in self.deliveries(queue, count, timeout_s)]

    def all_messages(self, queue, count):
        """Take `count` messages from a queue as they come, and those that follow within a second."""
        return self.messages(queue, count) + self.messages(queue, 1000, timeout_s=1.0)

    def deliveries(self, queue, count, timeout_s=TIMEOUT_S):
        """Take and acknowledge up to `count` deliveries from a queue, within the timeout."""
        if queue not in self._consumers:
            self._consumers[queue] = self.broker.consume(queue, prefetch=1000)
        taken, deadline = [], time.monotonic() + timeout_s
        while len(taken) < count and time.monotonic() < deadline:
            delivery = self._consumers[queue].take(0.1)
            if delivery is not None:
                delivery.ack()
                taken.append(delivery)
        return taken

    def verdicts(self, count, timeout_s=TIMEOUT_S):
        return [messages.parse_verdict(message) for message in self.messages(topology.VERDICTS, count, timeout_s)]

    def metric(self, port, name):
        """Return the sum of a metric's samples."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextmanager
def line_with_short_timeouts(plant, folder, amqp_url, redis_url):
    """Run the plant on another RabbitMQ, with short broker timeouts and its spool in `folder`."""
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


@pytest.fixture(scope="module")
def postgres():
    """A private PostgreSQL."""
    with postgresql_server.running() as running:
        yield running


def emptied(postgres):
    """Delete all tables of a PostgreSQL. Return its url."""
    engine = sa.create_engine(postgres.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres.url


@pytest.fixture
def empty_servers(servers):
    """The servers without the queues of earlier tests, whose arguments may differ, and without their verdicts."""
    delete_queues(servers.amqp_url)
    with redis.Redis.from_url(servers.redis_url) as cache:
        cache.flushdb()
    return servers


@pytest.fixture
def line(plant, empty_servers):
    for name in ("gate-memory", "spool"):
        shutil.rmtree(plant / name, ignore_errors=True)
    with ExitStack() as stack:
        yield Line(plant, empty_servers, stack)


@pytest.fixture
def stuck_file(tmp_path):
    """A file that puts a process which opens it to sleep in the kernel."""
    file = StuckFile(tmp_path)
    yield file
    file.close()


def delete_queues(url):
    """Delete the queues of earlier tests, whose arguments may differ."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    for queue in [
        *(queue.name for queue in topology.RETIRED),
        *(topology.category_queue(exchange, name) for exchange in BY_CATEGORY for name in CATEGORIES),
        topology.VERDICTS,
        topology.LEDGER,
        topology.PICTURES,
        topology.DEAD,
        topology.TRACES,
        *(topology.gate_queue(line, gate) for line in LINES for gate in GATES),
        *map(topology.lease_queue, LINES),
    ]:
        connection.channel().queue_delete(queue)
    connection.close()


def wait_for(condition, timeout_s=TIMEOUT_S):
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def records(text):
    """Parse lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def _raise_if_ended(process):
    assert process.poll() is None, process.communicate()
    return False


def _terminate(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
    _, log = process.communicate()
    sys.stderr.write((log or "")[-_SHOWN_LOG:])  # pytest shows it if the test failed
