"""The contract of a broker. The same tests run against RabbitMQ and against the broker in memory."""

import threading
import time
import urllib.parse
import uuid
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from patchline.broker import rabbit_consumer
from patchline.broker.base import (
    PREVIOUS_ATTEMPTS,
    AlreadySettled,
    BrokerError,
    Message,
    Outgoing,
    Refused,
    TooLarge,
    TopologyMismatch,
    Unroutable,
)
from patchline.broker.memory import MemoryBroker
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol.topology import Queue, Topology
from patchline.services import private_servers
from tests.proxy import Proxy

TIMEOUT_S = 10.0
MAX_MESSAGE_SIZE = 100_000


@dataclass
class Setting:
    """A broker with its own exchange and queue."""

    broker: object
    cut: object
    name: str = field(default_factory=lambda: f"contract.{uuid.uuid4().hex[:8]}")

    @property
    def queue(self):
        return f"{self.name}.queue"

    def declare(self, **arguments):
        options = {"x-queue-type": "quorum", **{key.replace("_", "-"): value for key, value in arguments.items()}}
        queue = Queue(self.queue, ((self.name, "line.*"), (self.name, "all.#")), options)
        self.broker.declare(Topology((self.name,), (queue,)))

    def publish(self, body=b"body", key="line.bottle", **options):
        self.broker.publish(self.name, key, Message(body, message_id=str(body[:20])), **options)

    def bodies(self, count, consumer):
        bodies = []
        while len(bodies) < count and (delivery := consumer.take(TIMEOUT_S)) is not None:
            delivery.ack()
            bodies.append(delivery.message.body)
        return bodies


@pytest.fixture(scope="module")
def node():
    """A RabbitMQ that takes no large messages."""
    if private_servers.missing_packages():
        pytest.skip("RabbitMQ is not installed")
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq", f"max_message_size = {MAX_MESSAGE_SIZE}\n")
        with private_servers.start_all([node.server]):
            yield node


@pytest.fixture(params=["memory", "rabbitmq"])
def setting(request):
    with ExitStack() as stack:
        if request.param == "memory":
            broker = MemoryBroker(max_message_size=MAX_MESSAGE_SIZE)
            setting = Setting(broker, broker.cut)
        else:
            url = urllib.parse.urlsplit(request.getfixturevalue("node").url)
            proxy = stack.enter_context(closing(Proxy(url.port)))
            broker = RabbitBroker(f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}", heartbeat_s=5)
            setting = Setting(broker, proxy.cut)
        stack.callback(broker.close)
        setting.declare()
        yield setting


def test_a_message_arrives_unchanged(setting):
    sent = Message(
        b"\x00\xff", "id-1", "some.type.v1", "image/png", {"line": "l", "captured_at": 1_800_000_000_000}, "me"
    )
    setting.broker.publish(setting.name, "line.bottle", sent)
    delivery = setting.broker.consume(setting.queue, 1).take(TIMEOUT_S)
    assert delivery.message == sent
    assert (delivery.routing_key, delivery.attempt, delivery.stale) == ("line.bottle", 1, False)


def test_a_body_that_is_not_bytes_is_refused_at_once_and_the_next_message_arrives(setting):
    setting.declare()
    with pytest.raises(TypeError, match="of type bytearray; it must be bytes"):
        setting.publish(bytearray(b"pixels"))
    setting.publish(b"next")
    assert setting.bodies(1, setting.broker.consume(setting.queue, 1)) == [b"next"]


def test_messages_of_one_publisher_arrive_in_order(setting):
    for number in range(20):
        setting.publish(b"%d" % number)
    assert setting.bodies(20, setting.broker.consume(setting.queue, 5)) == [b"%d" % number for number in range(20)]


def test_messages_published_together_arrive_in_order(setting):
    together = [Outgoing(setting.name, "line.bottle", Message(b"%d" % number, message_id="m")) for number in range(5)]
    setting.broker.publish_all(together)
    assert setting.bodies(5, setting.broker.consume(setting.queue, 5)) == [b"%d" % number for number in range(5)]


def test_no_messages_are_published_at_once(setting):
    """RabbitMQ confirms nothing then, and its publisher waited for it."""
    assert setting.broker.publish_nowait([]).result(0) is None
    setting.broker.publish_all([], timeout_s=0)


def test_one_unroutable_message_among_several_raises(setting):
    routable = Outgoing(setting.name, "line.bottle", Message(b"arrives", message_id="m"))
    unroutable = Outgoing(setting.name, "elsewhere", Message(b"does not", message_id="m"))
    setting.broker.publish_all([routable, replace(unroutable, mandatory=False)])
    with pytest.raises(Unroutable):
        setting.broker.publish_all([routable, unroutable])
    assert setting.bodies(2, setting.broker.consume(setting.queue, 5)) == [b"arrives"] * 2


def test_a_publisher_need_not_wait_for_each_confirmation(setting):
    messages = [Message(b"%d" % number, message_id="m") for number in range(200)]
    confirmations = [
        setting.broker.publish_nowait([Outgoing(setting.name, "line.bottle", message)]) for message in messages
    ]
    for confirmation in confirmations:
        confirmation.result(TIMEOUT_S)
    bodies = setting.bodies(200, setting.broker.consume(setting.queue, 50))
    assert bodies == [b"%d" % number for number in range(200)]


def test_only_a_message_that_is_too_large_is_refused_and_the_others_arrive_when_they_are_sent_again(setting):
    sizes = [10, MAX_MESSAGE_SIZE, 20, MAX_MESSAGE_SIZE + 1, 30, 2 * MAX_MESSAGE_SIZE, 40]
    waiting = dict.fromkeys(sizes)
    deadline = time.monotonic() + TIMEOUT_S
    refused = []
    while waiting and time.monotonic() < deadline:
        for size in waiting:
            item = Outgoing(setting.name, "line.bottle", Message(bytes(size), message_id=str(size)))
            waiting[size] = setting.broker.publish_nowait([replace(item, mandatory=False), item])
        for size, confirmation in list(waiting.items()):
            error = confirmation.exception(TIMEOUT_S)
            if isinstance(error, TooLarge):
                assert f"has {size} bytes, and the broker takes {MAX_MESSAGE_SIZE}" in str(error)
                refused.append(size)
            if error is None or isinstance(error, TooLarge):
                del waiting[size]
    assert (waiting, refused) == ({}, [MAX_MESSAGE_SIZE + 1, 2 * MAX_MESSAGE_SIZE])
    arrived, small = set(), {10, 20, 30, 40, MAX_MESSAGE_SIZE}
    consumer = setting.broker.consume(setting.queue, 100)
    while (delivery := consumer.take(0.5 if arrived >= small else TIMEOUT_S)) is not None:
        delivery.ack()
        arrived.add(len(delivery.message.body))
    assert arrived == small


def test_a_message_behind_one_that_is_too_large_fails_at_most_once(setting):
    for size in (MAX_MESSAGE_SIZE + 1, MAX_MESSAGE_SIZE + 1):  # the second one is not even sent
        with pytest.raises(TooLarge):
            setting.publish(bytes(size))
    setting.publish(b"small")
    assert setting.bodies(1, setting.broker.consume(setting.queue, 5)) == [b"small"]


def test_many_threads_can_publish_at_the_same_time(setting):
    threads = [threading.Thread(target=setting.publish, args=(b"%d" % number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    bodies = setting.bodies(40, setting.broker.consume(setting.queue, 40))
    assert sorted(map(int, bodies)) == list(range(40))


@pytest.mark.parametrize(
    "flush", [lambda one: one.flush(), lambda one: one.begin_flush()()], ids=["flush", "begin_flush"]
)
def test_an_acknowledged_message_is_gone(setting, flush):
    setting.publish()
    setting.publish(b"next")
    consumer = setting.broker.consume(setting.queue, 1)
    consumer.take(TIMEOUT_S).ack()
    flush(consumer)
    setting.cut()
    bodies = {take_again(consumer).message.body}
    bodies |= {delivery.message.body for delivery in (consumer.take(0.5) for _ in range(6)) if delivery is not None}
    assert bodies == {b"next"}


def take_again(consumer):
    """Take what is delivered again after the connection was lost."""
    deadline = time.monotonic() + TIMEOUT_S
    while (delivery := consumer.take(0.5)) is None:
        assert time.monotonic() < deadline
    return delivery


def test_a_requeued_message_is_redelivered_with_the_next_attempt(setting):
    setting.publish()
    consumer = setting.broker.consume(setting.queue, 1)
    for attempt in (1, 2, 3):
        delivery = consumer.take(TIMEOUT_S)
        assert delivery.attempt == attempt
        delivery.requeue()


def test_a_header_carries_the_attempts_of_an_earlier_queue(setting):
    setting.declare()
    setting.publish()
    consumer = setting.broker.consume(setting.queue, prefetch=1)
    consumer.take(TIMEOUT_S).requeue()
    second = consumer.take(TIMEOUT_S)
    assert (second.attempt, second.redelivered) == (2, True)
    republished = replace(second.message, headers={**second.message.headers, PREVIOUS_ATTEMPTS: 4})
    setting.broker.publish(setting.name, "line.bottle", republished)
    second.ack()
    third = consumer.take(TIMEOUT_S)
    assert (third.attempt, third.redelivered) == (5, False)
    third.ack()


def test_a_delivery_is_settled_exactly_once(setting):
    setting.publish()
    delivery = setting.broker.consume(setting.queue, 1).take(TIMEOUT_S)
    delivery.ack()
    for settle in (delivery.ack, delivery.requeue):
        with pytest.raises(AlreadySettled):
            settle()


def test_a_withdrawn_delivery_is_stale_for_its_holder_and_settled_by_whoever_withdrew_it(setting):
    setting.publish()
    consumer = setting.broker.consume(setting.queue, 1)
    delivery = consumer.take(TIMEOUT_S)
    withdrawn = delivery.withdraw()
    assert (delivery.stale, withdrawn.stale, delivery.withdraw()) == (True, False, None)
    delivery.ack()
    withdrawn.requeue()
    again = consumer.take(TIMEOUT_S)
    assert again.attempt == 2
    again.ack()
    assert again.withdraw() is None


def test_prefetch_limits_the_unsettled_deliveries_of_a_consumer(setting):
    for number in range(5):
        setting.publish(b"%d" % number)
    consumer = setting.broker.consume(setting.queue, 2)
    held = [consumer.take(TIMEOUT_S), consumer.take(TIMEOUT_S)]
    assert consumer.take(0.5) is None
    other = setting.broker.consume(setting.queue, 1)
    assert other.take(TIMEOUT_S) is not None
    held[0].ack()
    assert consumer.take(TIMEOUT_S) is not None


def test_a_message_without_a_matching_queue_is_unroutable(setting):
    with pytest.raises(Unroutable):
        setting.publish(key="elsewhere")
    setting.publish(key="elsewhere", mandatory=False)
    setting.publish(key="all")
    setting.publish(key="all.lines.and.parts")


def test_a_full_queue_refuses_messages_until_it_has_room(setting):
    setting.name += ".full"
    setting.declare(x_max_length=3, x_overflow="reject-publish")
    with pytest.raises(Refused):
        _fill(setting)
    consumer = setting.broker.consume(setting.queue, 100)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        while (delivery := consumer.take(0.1)) is not None:
            delivery.ack()
        try:
            setting.publish(b"room")
            break
        except Refused:
            assert time.monotonic() < deadline


def _fill(setting):
    for number in range(50):
        setting.publish(b"%d" % number)


def test_a_lost_connection_makes_deliveries_stale_and_their_messages_are_redelivered(setting):
    setting.publish()
    consumer = setting.broker.consume(setting.queue, 1)
    delivery = consumer.take(TIMEOUT_S)
    setting.cut()
    deadline = time.monotonic() + TIMEOUT_S
    while not delivery.stale:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    delivery.ack()
    again = take_again(consumer)
    assert (again.message.body, again.attempt) == (b"body", 2)
    again.ack()


def test_publishing_continues_after_a_lost_connection(setting):
    setting.publish(b"before")
    setting.cut()
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            setting.publish(b"after")
            break
        except BrokerError:
            time.sleep(0.05)
    assert setting.bodies(2, setting.broker.consume(setting.queue, 2))[:2] == [b"before", b"after"]


def test_a_listener_hears_what_is_published_while_it_is_connected(setting):
    heard, other = [], []
    setting.broker.listen(setting.name, "news.#", heard.append)
    setting.broker.listen(setting.name, "news.#", other.append)

    def publish_until_heard(body):
        news, deadline = Message(body, "id", "some.type.v1", "text/plain", {"a": 1}, None), time.monotonic() + TIMEOUT_S
        while not (news in heard and news in other):
            assert time.monotonic() < deadline
            with suppress(BrokerError):
                setting.broker.publish(setting.name, "news.brick", news, mandatory=False)
            time.sleep(0.02)

    publish_until_heard(b"first")
    setting.cut()
    publish_until_heard(b"second")
    setting.publish(key="line.bottle")
    assert {message.body for message in heard} == {b"first", b"second"}


def test_a_cancelled_consumer_requeues_untaken_deliveries(setting):
    for number in range(4):
        setting.publish(b"%d" % number)
    consumer = setting.broker.consume(setting.queue, 3)
    taken = consumer.take(TIMEOUT_S)
    consumer.cancel()
    assert consumer.take(0.3) is None
    taken.ack()
    rest = setting.bodies(3, setting.broker.consume(setting.queue, 5))
    assert sorted(rest) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("stop", [lambda one: one.stop(), lambda one: one.begin_stop()()], ids=["stop", "begin_stop"])
def test_a_stopped_consumer_gets_no_more_deliveries_and_keeps_those_that_have_arrived(setting, stop):
    for number in range(5):
        setting.publish(b"%d" % number)
    consumer = setting.broker.consume(setting.queue, 3)
    first = consumer.take(TIMEOUT_S)
    assert consumer.subscribed
    stop(consumer)
    first.ack()
    assert setting.bodies(2, consumer) == [b"1", b"2"]
    assert consumer.take(0.3) is None
    assert setting.bodies(2, setting.broker.consume(setting.queue, 5)) == [b"3", b"4"]


def test_declaring_an_existing_queue_with_other_arguments_raises(setting):
    with pytest.raises(TopologyMismatch):
        setting.declare(x_max_length=7)
    setting.declare()


def test_publishing_on_a_closed_broker_raises(setting):
    setting.broker.close()
    with pytest.raises(BrokerError):
        setting.publish()
    with pytest.raises(BrokerError):
        setting.broker.publish_nowait([])


@contextmanager
def silent_channels(node):
    """Suspend all channels that are open: like those that wait for a leader, they answer nothing, not even a close."""
    on_all = "[sys:{}(Channel) || Channel <- rabbit_channel:list_local()]."
    private_servers.rabbitmqctl(node, "eval", on_all.format("suspend"))
    try:
        yield
    finally:
        private_servers.rabbitmqctl(node, "eval", on_all.format("resume"))


def test_a_publisher_and_a_consumer_go_on_while_rabbitmq_answers_nothing_on_their_channels(node, monkeypatch):
    monkeypatch.setattr(rabbit_consumer, "_ANSWER_TIMEOUT_S", 0.5)
    with RabbitBroker(node.url, confirm_timeout_s=0.5) as broker:
        setting = Setting(broker, cut=None)
        setting.declare()
        consumer = broker.consume(setting.queue, prefetch=1)
        setting.publish(b"before")
        assert setting.bodies(1, consumer) == [b"before"]
        with silent_channels(node):
            deadline, confirmed = time.monotonic() + 30.0, 0
            while confirmed < 2 and time.monotonic() < deadline:  # RabbitMQ holds one of two for the silent channel
                with suppress(BrokerError):
                    setting.publish(b"during", timeout_s=0.5)
                    confirmed += 1
            assert setting.bodies(1, consumer) == [b"during"]
        assert setting.bodies(1, consumer) == [b"during"], "the silent channel has given up its message"
