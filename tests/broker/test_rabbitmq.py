"""Tests that need a real connection to RabbitMQ."""

import struct
import sys
import threading
import time
import urllib.parse
from contextlib import closing

import pika
import pytest

from patchline.broker import headers, rabbit_consumer
from patchline.broker.base import BrokerError, Message, NotConfirmed, Outgoing, TopologyMismatch
from patchline.broker.confirms import PublisherConfirms
from patchline.broker.memory import _matches
from patchline.broker.rabbit_publisher import _TOO_LARGE
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology
from patchline.services import server
from tests.proxy import Proxy
from tests.system.conftest import wait_for


def test_a_consumer_that_computes_for_several_heartbeats_keeps_its_connection(servers):
    with RabbitBroker(servers.amqp_url, heartbeat_s=1) as broker:
        broker.declare(topology.gate("slow", ["g"]))
        broker.publish(topology.PARTS, "slow", _message())
        delivery = broker.consume(topology.gate_queue("slow", "g"), 1).take(10)
        ends = time.monotonic() + 4
        while time.monotonic() < ends:  # holds the GIL as Python code does
            sum(range(10_000))
        assert not delivery.stale
        delivery.ack()
        broker.publish(topology.PARTS, "slow", _message())


def test_of_exclusive_consumers_one_gets_every_message_and_the_next_one_what_it_has_left(servers):
    queue = topology.gate_queue("exclusive", "g")
    with RabbitBroker(servers.amqp_url) as publisher:
        publisher.declare(topology.gate("exclusive", ["g"]))
        with RabbitBroker(servers.amqp_url) as second, RabbitBroker(servers.amqp_url) as first:
            consumers = [broker.consume(queue, 100, exclusive=True) for broker in (first, second)]
            wait_for(lambda: sum(consumer.subscribed for consumer in consumers) == 1)
            active, waiting = sorted(consumers, key=lambda consumer: consumer.subscribed, reverse=True)
            wait_for(lambda: waiting.occupied)
            for _ in range(20):
                publisher.publish(topology.PARTS, "exclusive", _message())
            taken = [active.take(10) for _ in range(20)]
            assert all(taken)
            assert waiting.take(0.0) is None
            for delivery in taken[:15]:
                delivery.ack()
            active.flush()
            (first if active is consumers[0] else second).close()
            wait_for(lambda: waiting.subscribed and not waiting.occupied)
            assert [waiting.take(10).message.body for _ in range(5)] == [_message().body] * 5
            waiting.cancel()


def test_an_idle_publisher_keeps_its_connection(servers):
    with RabbitBroker(servers.amqp_url, heartbeat_s=1) as broker:
        broker.declare(topology.gate("idle", ["g"]))
        broker.publish(topology.PARTS, "idle", _message())
        connection = broker._connection
        time.sleep(4)
        broker.publish(topology.PARTS, "idle", _message())
        assert broker._connection is connection


def test_a_publisher_that_a_full_queue_drives_from_node_to_node_goes_on(servers):
    limits = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    jobs = topology.Queue("driven.jobs", (("driven.jobs", "#"),), limits)
    ended = threading.Event()
    with RabbitBroker(f"{servers.amqp_url},{servers.amqp_url}", reconnect_max_s=0.2) as broker:
        broker.declare(topology.Topology(("driven.jobs", "driven.parts"), (jobs,)))

        def announce():
            while not ended.wait(0.002):
                broker.publish_nowait([Outgoing("driven.parts", "l", _message(), mandatory=False)])

        announcing = threading.Thread(target=announce)
        announcing.start()
        try:
            refused = 0
            while refused < 50:  # it leaves the node after ten
                try:
                    broker.publish("driven.jobs", "l", _message())
                except NotConfirmed:
                    refused += 1
        finally:
            ended.set()
            announcing.join()
        broker.publish("driven.parts", "l", _message(), mandatory=False)


def test_queues_can_be_declared_again_and_a_mismatch_says_what_to_do(servers):
    with RabbitBroker(servers.amqp_url) as broker:
        limits = {"jobs_max_length": 10, "jobs_max_bytes": 10**6, "verdicts_max_length": 10, "dead_max_length": 10}
        plant = topology.plant(["c"], **limits)
        renamed = topology.Topology(
            plant.exchanges, tuple(topology.Queue(f"again.{q.name}", (), q.arguments) for q in plant.queues)
        )
        broker.declare(renamed)
        broker.declare(renamed)
        other = topology.plant(["c"], **limits | {"jobs_max_length": 11})
        (arguments,) = (queue.arguments for queue in other.queues if queue.name == "patchline.jobs.c")
        changed = topology.Queue("again.patchline.jobs.c", (), arguments)
        with pytest.raises(TopologyMismatch, match=r"x-max-length.*rabbitmqctl delete_queue.*configuration"):
            broker.declare(topology.Topology((), (changed,)))


def test_a_broker_that_does_not_listen_raises_a_clear_error():
    (port,) = server.free_ports(1)
    with RabbitBroker(f"amqp://127.0.0.1:{port}") as broker:
        with pytest.raises(BrokerError, match=r"cannot be used \(Connection refused\); is it running"):
            broker.declare(topology.gate("l", ["g"]))
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
            broker.declare(topology.gate("pending", ["g"]))
            broker.publish(topology.PARTS, "pending", _message())
            proxy.delay_s = 1.0
            confirmation = broker.publish_nowait([Outgoing(topology.PARTS, "pending", _message())])
            wait_until(confirmation.running)
            assert not confirmation.cancel()
            assert confirmation.result(20) is None


def test_a_message_that_rabbitmq_never_confirms_fails_and_the_next_one_is_confirmed(servers, monkeypatch):
    with RabbitBroker(servers.amqp_url, confirm_timeout_s=1.0) as broker:
        broker.declare(topology.gate("unconfirmed", ["g"]))
        with monkeypatch.context() as lost:
            lost.setattr(PublisherConfirms, "on_confirm", lambda *_: set())
            confirmation = broker.publish_nowait([Outgoing(topology.PARTS, "unconfirmed", _message())])
            with pytest.raises(NotConfirmed):
                confirmation.result(20)
        broker.publish(topology.PARTS, "unconfirmed", _message(), timeout_s=10)


@pytest.mark.parametrize(
    ("text", "max_size"),
    [
        (
            "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216",
            16_777_216,
        ),  # 4.0.5
        ("PRECONDITION_FAILED - message size 2000000 is larger than configured max size 1000000", 1_000_000),  # 3.10.8
        ("PRECONDITION_FAILED - message size 600000000 is larger than max size 536870912", 536_870_912),
    ],
)
def test_the_limit_for_messages_is_read_from_the_text_of_the_refusal(text, max_size):
    assert int(_TOO_LARGE.search(text)[1]) == max_size


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


@pytest.fixture
def remade(servers):
    """A broker, and the functions that delete and make the queue `remade` as an administrator does."""
    queue = topology.Queue("remade", (("remade", "#"),), {"x-queue-type": "quorum"})
    with RabbitBroker(servers.amqp_url) as broker, pika.BlockingConnection(pika.URLParameters(servers.amqp_url)) as own:

        def make():
            broker.declare(topology.Topology(("remade",), (queue,)))

        make()
        yield broker, make, lambda: own.channel().queue_delete("remade")
        own.channel().queue_delete("remade")


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_consumer_that_rabbitmq_no_longer_serves_subscribes_again(remade, waiting):
    broker, _, __ = remade
    consumer = broker.consume("remade", prefetch=5)
    wait_for(lambda: consumer.subscribed)
    channel = consumer._subscription.channel
    broker.add_callback_threadsafe(lambda: channel.basic_cancel(channel.consumer_tags[0]))  # behind its back
    wait_for(lambda: not channel.consumer_tags)
    for _ in range(waiting):
        broker.consume("remade", prefetch=1).take(0)  # another one holds the first message
        broker.publish("remade", "key", _message())
    broker.publish("remade", "key", _message())
    consumer.take(15).ack()


def test_a_consumer_whose_probe_rabbitmq_does_not_answer_subscribes_again(remade, monkeypatch):
    monkeypatch.setattr(rabbit_consumer, "_ANSWER_TIMEOUT_S", 0.5)
    broker, _, __ = remade
    consumer = broker.consume("remade", prefetch=5)
    wait_for(lambda: consumer.subscribed)
    first = consumer._subscription.channel
    monkeypatch.setattr(first, "queue_declare", lambda *_, **__: None)
    wait_for(lambda: first.is_closed, 10)
    wait_for(lambda: consumer.subscribed, 10)
    broker.publish("remade", "key", _message())
    consumer.take(10).ack()


def test_a_consumer_without_a_queue_is_not_subscribed_until_the_queue_is_made_again(remade):
    broker, make, delete = remade
    consumer = broker.consume("remade", prefetch=5)
    wait_for(lambda: consumer.subscribed)
    delete()
    wait_for(lambda: not consumer.subscribed)
    time.sleep(1.5)  # during which it tries and fails
    assert not consumer.subscribed
    make()
    wait_for(lambda: consumer.subscribed, 10)
    broker.publish("remade", "key", _message())
    consumer.take(10).ack()


def test_a_consumer_subscribes_as_soon_as_its_queue_is_made_again(remade, monkeypatch):
    monkeypatch.setattr(rabbit_consumer, "_MIN_RESUBSCRIBE_DELAY_S", 3600)
    monkeypatch.setattr(rabbit_consumer, "_MAX_RESUBSCRIBE_DELAY_S", 3600)
    broker, make, delete = remade
    consumer = broker.consume("remade", prefetch=5)
    wait_for(lambda: consumer.subscribed)
    delete()
    wait_for(lambda: not consumer.subscribed)
    make()
    wait_for(lambda: consumer.subscribed, 10)
    make()  # nothing waits now
    broker.publish("remade", "key", _message())
    consumer.take(10).ack()


def test_a_delivery_in_hand_outlives_its_deleted_queue(remade):
    broker, make, delete = remade
    broker.publish("remade", "key", _message())
    consumer = broker.consume("remade", prefetch=5)
    delivery = consumer.take(10)
    delete()
    wait_for(lambda: not consumer.subscribed)
    make()
    wait_for(lambda: consumer.subscribed)
    assert not delivery.stale
    delivery.ack()
    broker.publish("remade", "key", _message())
    consumer.take(10).ack()
    consumer.flush()
    assert consumer.take(0.3) is None


def test_a_consumer_counts_a_gap_between_the_messages_of_a_deleted_queue_and_those_of_the_next_one(remade):
    broker, make, delete = remade
    consumer = broker.consume("remade", prefetch=5)
    for _ in range(2):
        broker.publish("remade", "key", _message())
    wait_for(lambda: consumer._deliveries.qsize() == 2)
    delete()
    wait_for(lambda: not consumer.subscribed)
    make()
    wait_for(lambda: consumer.subscribed, 10)
    broker.publish("remade", "key", _message())
    gaps = []
    while len(gaps) < 3:
        if (delivery := consumer.take(10)) is not None:
            delivery.ack()
            gaps.append(consumer.gaps)
    assert gaps[:2] == [0, 0]
    assert gaps[2] > 0


def test_a_lost_connection_is_no_gap(servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    with closing(Proxy(url.port)) as proxy:
        proxy_url = f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"
        with RabbitBroker(proxy_url, heartbeat_s=20) as broker:
            broker.declare(topology.gate("lost", ["g"]))
            consumer = broker.consume(topology.gate_queue("lost", "g"), 1)
            wait_for(lambda: consumer.subscribed)
            for lose in (proxy.cut, lambda: broker.add_callback_threadsafe(broker._connection.close)):
                lost = broker._connection
                lose()
                wait_for(lambda lost=lost: broker._connection is not lost and consumer.subscribed)
            broker.publish(topology.PARTS, "lost", _message())
            consumer.take(10).ack()
            assert consumer.gaps == 0


def test_a_consumer_whose_channel_rabbitmq_closes_subscribes_again(remade):
    broker, _, __ = remade
    consumer = broker.consume("remade", prefetch=5)
    wait_for(lambda: consumer.subscribed)
    channel = consumer._subscription.channel
    broker.add_callback_threadsafe(lambda: channel.basic_ack(delivery_tag=12345))  # closes it: unknown delivery tag
    wait_for(lambda: channel.is_closed)
    wait_for(lambda: consumer.subscribed)
    broker.publish("remade", "key", _message())
    consumer.take(10).ack()


OF_BROKERS = (
    "x-delivery-count",
    "x-acquired-count",
    "x-death",
    "x-first-death-queue",
    "x-last-death-reason",
    "x-opt-a",
)


def test_the_headers_of_brokers_are_not_published_again():
    sent = {"line": "l", "x-patchline-tried": 2, "odd": 1, "CC": ["elsewhere"], **dict.fromkeys(OF_BROKERS, 1)}
    assert headers.without_broker_headers(sent) == {"line": "l", "x-patchline-tried": 2, "odd": 1}


@pytest.mark.parametrize(
    ("received", "redelivered", "before"),
    [
        ({}, False, 0),
        ({}, True, 1),  # classic queues
        ({"x-delivery-count": 2}, True, 2),  # RabbitMQ 3.10 to 4.2
        ({"x-delivery-count": 1, "x-acquired-count": 1}, True, 1),  # RabbitMQ 4.3: a lost connection, a reject
        ({"x-acquired-count": 3}, True, 3),  # RabbitMQ 4.3: nacks
        ({"x-delivery-count": "many"}, False, 0),
    ],
)
def test_earlier_deliveries_are_counted_alike_for_all_versions_of_rabbitmq(received, redelivered, before):
    assert headers.deliveries_before(received, redelivered) == before


def test_a_count_of_rabbitmq_4_3_is_neither_kept_nor_sent_on(remade):
    broker, _, __ = remade
    sent = Message(b"x", "id", headers={"x-acquired-count": 2, "line": "l"})
    broker.publish("remade", "key", sent)
    delivery = broker.consume("remade", prefetch=1).take(10)
    assert (delivery.message.headers, delivery.attempt) == ({"line": "l"}, 3)
    delivery.ack()


def test_names_that_are_not_utf_8_are_decoded():
    assert headers.decode_headers({b"\xff": 1, "line": "l"}) == {"\ufffd": 1, "line": "l"}
    assert headers.decode_text(b"\xffid") == "\ufffdid"


def test_closing_leaves_no_thread(servers):
    def io_threads():
        return [thread for thread in threading.enumerate() if thread.name == "broker-io"]

    before = io_threads()  # of brokers of fixtures
    with RabbitBroker(servers.amqp_url):
        assert len(io_threads()) == len(before) + 1
    assert io_threads() == before


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
