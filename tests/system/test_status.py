"""Publishers and workers say every second who they are and what they do. No job depends on it."""

import json
import threading
import urllib.parse
from contextlib import closing, contextmanager

import pika
import pytest

from patchline.protocol import status_message, topology
from patchline.protocol.status_message import Status
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE, delete_if_read
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(180)


@contextmanager
def statuses(line, routing_key):
    """A function that returns the statuses that have come since its last call."""
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, topology.STATUS, routing_key)

    def take():
        taken = []
        while (message := channel.basic_get(queue, auto_ack=True))[2] is not None:
            assert message[1].type == status_message.STATUS_TYPE
            taken.append(Status.model_validate_json(message[2]))
        return taken

    try:
        yield take
    finally:
        connection.close()


@pytest.fixture
def image(texture_folder):
    return next((texture_folder / "test" / "good").glob("*.png"))


def test_a_worker_sends_its_status(line):
    with statuses(line, "worker.all") as take:
        worker = line.worker("--device", "cpu")
        received = []
        wait_for(lambda: received.extend(take()) or (received and received[-1].state == "serving"))
        assert received[-1].name.endswith(f":cpu:0:{worker.pid}")
        assert received[-1].holds == {"in_hand": 0, "refused_lanes": 0, "categories": 1}

        def is_blind():
            delete_if_read(line.environment["PATCHLINE_AMQP_URL"], JOBS_QUEUE)
            return any(status.state == "blind" for status in take())

        wait_for(is_blind)  # the worker makes the queue again, maybe before its next status


def test_a_publisher_sends_its_status_and_spools_without_one(line, image, tmp_path):
    url = urllib.parse.urlsplit(line.environment["PATCHLINE_AMQP_URL"])
    proxy = Proxy(url.port)
    behind = {"PATCHLINE_AMQP_URL": f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"}
    arguments = ("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    with statuses(line, "publisher.l1") as take:
        publisher = line.start(*arguments, **behind)
        received = []
        wait_for(lambda: received.extend(take()) or received)
        assert (received[0].state, received[0].holds) == ("serving", {"window": 0, "spooled": 0})
        assert received[0].name.endswith(f":brick:{publisher.pid}")
        proxy.close()
        (tmp_path / "part.png").write_bytes(image.read_bytes())
        assert json.loads(publisher.stdout.readline())["state"] == "spooled"
        received += take()
        before = received[-1]
        proxy = Proxy(url.port, proxy.port)
        wait_for(lambda: any(status.since > before.since for status in take()))
    proxy.close()


def test_a_publisher_needs_no_exchange_of_statuses_and_says_once_that_it_is_missing(line, image, tmp_path):
    publisher = line.start("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    with statuses(line, "publisher.l1") as take:
        wait_for(take)
    (tmp_path / "first.png").write_bytes(image.read_bytes())
    assert json.loads(publisher.stdout.readline())["state"] == "confirmed"  # the exchange is declared
    log = []
    reader = threading.Thread(target=lambda: log.extend(iter(publisher.stderr.readline, "")), daemon=True)
    reader.start()
    with closing(pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))) as connection:
        channel = connection.channel()
        # Its watch of the exchanges makes it again, maybe before the next status.
        wait_for(lambda: said(log, "status not sent") or not channel.exchange_delete(topology.STATUS))
    (tmp_path / "part.png").write_bytes(image.read_bytes())
    assert json.loads(publisher.stdout.readline())["state"] == "confirmed"
    line.broker.declare(topology.Topology((topology.STATUS,), ()))
    wait_for(lambda: said(log, "status sent again"))
    publisher.terminate()
    reader.join(30)
    assert said(log, "status not sent") == said(log, "status sent again") == 1


def said(log, event):
    return sum(event in entry for entry in list(log))


def test_jobs_need_no_exchange_of_statuses(line, image):
    line.worker("--device", "cpu")
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    connection.channel().exchange_delete(topology.STATUS)
    connection.close()
    line.send_many([image], 20)
    assert {verdict.job_id for verdict in line.verdicts(20)} == {f"job-{number}" for number in range(20)}
