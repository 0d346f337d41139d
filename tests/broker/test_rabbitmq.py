"""Tests that need a real connection to RabbitMQ."""

import struct
import sys
import threading
import time
import urllib.parse
from contextlib import closing

import pika
import pytest

from patchline.broker import headers
from patchline.broker.base import BrokerError, Message, NotConfirmed, Outgoing, TopologyMismatch
from patchline.broker.memory import _matches
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology
from patchline.services import server
from tests.proxy import Proxy


def test_a_consumer_that_computes_for_several_heartbeats_keeps_its_connection(servers):
    with RabbitBroker(servers.amqp_url, heartbeat_s=1) as broker:
        broker.declare(topology.gate("slow"))
        broker.publish(topology.PARTS, "slow", _message())
        delivery = broker.consume(topology.gate_queue("slow"), 1).take(10)
        ends = time.monotonic() + 4
        while time.monotonic() < ends:  # holds the GIL as Python code does
            sum(range(10_000))
        assert not delivery.stale
        delivery.ack()
        broker.publish(topology.PARTS, "slow", _message())


def test_an_idle_publisher_keeps_its_connection(servers):
    with RabbitBroker(servers.amqp_url, heartbeat_s=1) as broker:
        broker.declare(topology.gate("idle"))
        broker.publish(topology.PARTS, "idle", _message())
        time.sleep(4)
        broker.publish(topology.PARTS, "idle", _message(), timeout_s=1)


def test_queues_can_be_declared_again_and_a_mismatch_says_what_to_do(servers):
    with RabbitBroker(servers.amqp_url) as broker:
        limits = {"jobs_max_length": 10, "jobs_max_bytes": 10**6, "verdicts_max_length": 10, "dead_max_length": 10}
        plant = topology.plant(**limits)
        renamed = topology.Topology(
            plant.exchanges, tuple(topology.Queue(f"again.{q.name}", (), q.arguments) for q in plant.queues)
        )
        broker.declare(renamed)
        broker.declare(renamed)
        other = topology.plant(**limits | {"jobs_max_length": 11})
        changed = topology.Queue("again.patchline.jobs", (), other.queues[-1].arguments)
        with pytest.raises(TopologyMismatch, match=r"x-max-length.*rabbitmqctl delete_queue.*configuration"):
            broker.declare(topology.Topology((), (changed,)))


def test_a_broker_that_does_not_listen_raises_a_clear_error():
    (port,) = server.free_ports(1)
    with RabbitBroker(f"amqp://127.0.0.1:{port}") as broker:
        with pytest.raises(BrokerError, match="is it running"):
            broker.declare(topology.gate("l"))
        with pytest.raises(NotConfirmed, match=r"within 0\.2 s"):
            broker.publish(topology.PARTS, "l", _message(), timeout_s=0.2)
        assert not broker.connected


def test_nothing_that_was_given_up_is_kept_while_the_broker_is_away():
    (port,) = server.free_ports(1)
    images = [bytes([number]) * 500_000 for number in range(20)]
    references = [sys.getrefcount(image) for image in images]
    with RabbitBroker(f"amqp://127.0.0.1:{port}") as broker:
        for image in images[:10]:
            with pytest.raises(NotConfirmed):
                broker.publish(topology.JOBS, "l.c", Message(image), timeout_s=0.01)
        confirmations = [broker.publish_nowait([Outgoing(topology.JOBS, "l.c", Message(im))]) for im in images[10:]]
        assert all(confirmation.cancel() for confirmation in confirmations)
        del image
        wait_until(lambda: [sys.getrefcount(image) for image in images] == references)


def test_what_was_sent_is_running_until_it_is_confirmed_and_is_not_kept(servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    with closing(Proxy(url.port)) as proxy:
        proxy_url = f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"
        with RabbitBroker(proxy_url, heartbeat_s=20) as broker:
            broker.declare(topology.gate("pending"))
            broker.publish(topology.PARTS, "pending", _message())
            proxy.delay_s = 1.0
            confirmation = broker.publish_nowait([Outgoing(topology.PARTS, "pending", _message())])
            wait_until(confirmation.running)
            assert not confirmation.cancel()
            assert confirmation.result(20) is None


@pytest.mark.parametrize("url", ["localhost:5672:x", "amqp://host:notaport"])
def test_an_invalid_url_is_refused(url):
    with pytest.raises(BrokerError, match="amqp://user:password@host:port/vhost"):
        RabbitBroker(url)


class Raw:
    """A value in its encoded form."""

    def __init__(self, wire):
        self.wire = wire


STRANGE = {
    "a double": Raw(b"d" + struct.pack(">d", 1.5)),
    "a float": Raw(b"f" + struct.pack(">f", 1.5)),
    "a timestamp": Raw(b"T" + struct.pack(">Q", 1_700_000_000)),
    "a timestamp after the year 9999": Raw(b"T" + struct.pack(">Q", 2**63)),
    "a decimal": Raw(b"D" + struct.pack(">Bi", 200, -5)),
    "text that is not UTF-8": Raw(b"S" + struct.pack(">I", 2) + b"\xff\xfe"),
    "bytes": Raw(b"x" + struct.pack(">I", 2) + b"\xff\xfe"),
    "a table of a timestamp": Raw(b"F" + struct.pack(">I", 11) + b"\x01a" + b"T" + struct.pack(">Q", 2**62)),
    "nothing": Raw(b"V"),
}


@pytest.fixture
def raw(monkeypatch):
    """Let pika send Raw values unchanged."""
    encode = pika.data.encode_value

    def encode_value(pieces, value):
        if not isinstance(value, Raw):
            return encode(pieces, value)
        pieces.append(value.wire)
        return len(value.wire)

    monkeypatch.setattr(pika.data, "encode_value", encode_value)


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("strange", STRANGE)
def test_unusual_headers_arrive_and_can_be_published_again(servers, strange):
    with RabbitBroker(servers.amqp_url) as broker:
        queue = topology.Queue("strange", (("strange", "#"),), {"x-queue-type": "quorum"})
        broker.declare(topology.Topology(("strange",), (queue,)))
        with pika.BlockingConnection(pika.URLParameters(servers.amqp_url)) as stranger:
            properties = pika.BasicProperties(headers={"odd": STRANGE[strange], "even": 2}, message_id="id")
            stranger.channel().basic_publish("strange", "key", b"body", properties)
        consumer = broker.consume("strange", prefetch=1)
        for _ in range(2):
            delivery = consumer.take(10)
            assert (delivery.message.body, delivery.message.headers["even"]) == (b"body", 2)
            assert "odd" in delivery.message.headers
            broker.publish("strange", "key", delivery.message)
            delivery.ack()
        consumer.take(10).ack()


def test_names_that_are_not_utf_8_are_decoded():
    assert headers.decode_headers({b"\xff": 1, "line": "l"}) == {"\ufffd": 1, "line": "l"}
    assert headers.decode_text(b"\xffid") == "\ufffdid"


def test_closing_leaves_no_thread(servers):
    def io_threads():
        return [thread for thread in threading.enumerate() if thread.name == "broker-io"]

    with RabbitBroker(servers.amqp_url):
        assert len(io_threads()) == 1
    assert io_threads() == []


def test_closing_during_the_handshake_ends_the_io_thread(servers):
    for number in range(60):
        broker = RabbitBroker(servers.amqp_url)
        time.sleep(number * 0.0002)
        broker.close()
        assert not broker._thread.is_alive()


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("#", "a.b.c", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("*.b.#", "a.b", True),
    ],
)
def test_the_memory_broker_matches_topics_like_amqp(pattern, key, matches):
    assert _matches(pattern, key) is matches


def _message():
    return Message(b"x", "id")


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
