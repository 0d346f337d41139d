"""What every broker does. The same tests run against real RabbitMQ and against the one in memory."""

import threading
import time
import urllib.parse
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

import pytest

from patchline.broker.base import (
    TRIED,
    AlreadySettled,
    BrokerError,
    Message,
    Outgoing,
    Refused,
    TopologyMismatch,
    Unroutable,
)
from patchline.broker.memory import MemoryBroker
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol.topology import Queue, Topology
from tests.proxy import Proxy

PATIENCE_S = 10.0


@dataclass
class Setting:
    """A broker with an exchange and queues of the test's own."""

    broker: object
    cut: object
    name: str = field(default_factory=lambda: f"contract.{uuid.uuid4().hex[:8]}")

    @property
    def queue(self):
        return f"{self.name}.queue"

    @property
    def dead(self):
        return f"{self.name}.dead"

    def declare(self, **arguments):
        own = {"x-queue-type": "quorum", **{key.replace("_", "-"): value for key, value in arguments.items()}}
        queues = (
            Queue(self.dead, ((f"{self.name}.dead", "#"),), {"x-queue-type": "quorum"}),
            Queue(self.queue, ((self.name, "line.*"), (self.name, "all.#")), own),
        )
        self.broker.declare(Topology((self.name, f"{self.name}.dead"), queues))

    def publish(self, body=b"body", key="line.bottle", **options):
        self.broker.publish(self.name, key, Message(body, message_id=str(body)), **options)

    def bodies(self, count, consumer):
        found = []
        while len(found) < count and (delivery := consumer.take(PATIENCE_S)) is not None:
            delivery.ack()
            found.append(delivery.message.body)
        return found


@pytest.fixture(params=["memory", "rabbitmq"])
def setting(request):
    with ExitStack() as stack:
        if request.param == "memory":
            broker = MemoryBroker()
            setting = Setting(broker, broker.cut)
        else:
            url = urllib.parse.urlsplit(request.getfixturevalue("servers").amqp_url)
            proxy = stack.enter_context(closing(Proxy(url.port)))
            broker = RabbitBroker(f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}", heartbeat_s=5)
            setting = Setting(broker, proxy.cut)
        stack.callback(broker.close)
        setting.declare()
        yield setting


def test_a_message_arrives_as_it_was_sent(setting):
    sent = Message(
        b"\x00\xff", "id-1", "some.type.v1", "image/png", {"line": "l", "captured_at": 1_800_000_000_000}, "me"
    )
    setting.broker.publish(setting.name, "line.bottle", sent)
    delivery = setting.broker.consume(setting.queue, 1).take(PATIENCE_S)
    assert delivery.message == sent
    assert (delivery.routing_key, delivery.attempt, delivery.stale) == ("line.bottle", 1, False)


def test_messages_of_one_publisher_arrive_in_order(setting):
    for number in range(20):
        setting.publish(b"%d" % number)
    assert setting.bodies(20, setting.broker.consume(setting.queue, 5)) == [b"%d" % number for number in range(20)]


def test_messages_sent_together_arrive_in_order_and_are_all_confirmed(setting):
    together = [Outgoing(setting.name, "line.bottle", Message(b"%d" % number, message_id="m")) for number in range(5)]
    setting.broker.publish_all(together)
    assert setting.bodies(5, setting.broker.consume(setting.queue, 5)) == [b"%d" % number for number in range(5)]


def test_one_of_several_that_does_not_arrive_is_said(setting):
    somewhere = Outgoing(setting.name, "line.bottle", Message(b"arrives", message_id="m"))
    nowhere = Outgoing(setting.name, "elsewhere", Message(b"does not", message_id="m"))
    setting.broker.publish_all([somewhere, replace(nowhere, mandatory=False)])
    with pytest.raises(Unroutable):
        setting.broker.publish_all([somewhere, nowhere])
    assert setting.bodies(2, setting.broker.consume(setting.queue, 5)) == [b"arrives"] * 2


def test_many_threads_publish_at_once_and_each_is_confirmed(setting):
    threads = [threading.Thread(target=setting.publish, args=(b"%d" % number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    found = setting.bodies(40, setting.broker.consume(setting.queue, 40))
    assert sorted(map(int, found)) == list(range(40))


def test_an_acknowledged_message_is_gone(setting):
    setting.publish()
    setting.publish(b"behind it")
    consumer = setting.broker.consume(setting.queue, 1)
    consumer.take(PATIENCE_S).ack()
    consumer.flush()
    setting.cut()
    found = {delivery.message.body for delivery in (consumer.take(0.5) for _ in range(6)) if delivery is not None}
    assert found == {b"behind it"}


def test_a_requeued_message_comes_again_as_the_next_attempt(setting):
    setting.publish()
    consumer = setting.broker.consume(setting.queue, 1)
    for attempt in (1, 2, 3):
        delivery = consumer.take(PATIENCE_S)
        assert delivery.attempt == attempt
        delivery.requeue()


def test_a_message_that_is_sent_on_counts_its_attempts_where_it_says_so(setting):
    setting.declare()
    setting.publish()
    consumer = setting.broker.consume(setting.queue, prefetch=1)
    consumer.take(PATIENCE_S).requeue()
    second = consumer.take(PATIENCE_S)
    assert (second.attempt, second.again) == (2, True)
    sent_on = replace(second.message, headers={**second.message.headers, TRIED: 4})
    setting.broker.publish(setting.name, "line.bottle", sent_on)
    second.ack()
    third = consumer.take(PATIENCE_S)
    assert (third.attempt, third.again) == (5, False)
    third.ack()


def test_a_delivery_is_settled_exactly_once(setting):
    setting.publish()
    delivery = setting.broker.consume(setting.queue, 1).take(PATIENCE_S)
    delivery.ack()
    for again in (delivery.ack, delivery.reject, delivery.requeue):
        with pytest.raises(AlreadySettled):
            again()


def test_prefetch_bounds_what_a_consumer_holds(setting):
    for number in range(5):
        setting.publish(b"%d" % number)
    consumer = setting.broker.consume(setting.queue, 2)
    held = [consumer.take(PATIENCE_S), consumer.take(PATIENCE_S)]
    assert consumer.take(0.5) is None
    other = setting.broker.consume(setting.queue, 1)
    assert other.take(PATIENCE_S) is not None
    held[0].ack()
    assert consumer.take(PATIENCE_S) is not None


def test_a_message_that_no_queue_takes_is_unroutable(setting):
    with pytest.raises(Unroutable):
        setting.publish(key="elsewhere")
    setting.publish(key="elsewhere", mandatory=False)
    setting.publish(key="all")
    setting.publish(key="all.lines.and.parts")


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(setting):
    setting.name += ".full"
    setting.declare(x_max_length=3, x_overflow="reject-publish")
    with pytest.raises(Refused):
        _fill(setting)
    consumer = setting.broker.consume(setting.queue, 100)
    while (delivery := consumer.take(1.0)) is not None:
        delivery.ack()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            setting.publish(b"room")
            break
        except Refused:
            assert time.monotonic() < deadline


def _fill(setting):
    for number in range(50):
        setting.publish(b"%d" % number)


def test_a_rejected_message_is_dead_lettered(setting):
    setting.name += ".dying"
    setting.declare(x_dead_letter_exchange=f"{setting.name}.dead")
    setting.publish(b"bad")
    setting.broker.consume(setting.queue, 1).take(PATIENCE_S).reject()
    assert setting.bodies(1, setting.broker.consume(setting.dead, 1)) == [b"bad"]


def test_a_message_that_comes_too_often_is_dead_lettered(setting):
    setting.name += ".poison"
    setting.declare(x_dead_letter_exchange=f"{setting.name}.dead", x_delivery_limit=2)
    setting.publish(b"poison")
    consumer = setting.broker.consume(setting.queue, 1)
    for _ in range(3):
        consumer.take(PATIENCE_S).requeue()
    assert consumer.take(1.0) is None
    assert setting.bodies(1, setting.broker.consume(setting.dead, 1)) == [b"poison"]


def test_a_lost_connection_makes_deliveries_stale_and_brings_their_messages_again(setting):
    setting.publish()
    consumer = setting.broker.consume(setting.queue, 1)
    delivery = consumer.take(PATIENCE_S)
    setting.cut()
    deadline = time.monotonic() + PATIENCE_S
    while not delivery.stale:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    delivery.ack()
    again = None
    while again is None and time.monotonic() < deadline:
        again = consumer.take(0.5)
    assert (again.message.body, again.attempt) == (b"body", 2)
    again.ack()


def test_publishing_goes_on_after_a_lost_connection(setting):
    setting.publish(b"before")
    setting.cut()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            setting.publish(b"after")
            break
        except BrokerError:
            time.sleep(0.05)
    assert setting.bodies(2, setting.broker.consume(setting.queue, 2))[:2] == [b"before", b"after"]


def test_a_cancelled_consumer_gives_back_what_nobody_took(setting):
    for number in range(4):
        setting.publish(b"%d" % number)
    consumer = setting.broker.consume(setting.queue, 3)
    taken = consumer.take(PATIENCE_S)
    consumer.cancel()
    assert consumer.take(0.3) is None
    taken.ack()
    rest = setting.bodies(3, setting.broker.consume(setting.queue, 5))
    assert sorted(rest) == [b"1", b"2", b"3"]


def test_other_arguments_of_an_existing_queue_are_explained(setting):
    with pytest.raises(TopologyMismatch):
        setting.declare(x_max_length=7)
    setting.declare()


def test_a_closed_broker_says_so(setting):
    setting.broker.close()
    with pytest.raises(BrokerError):
        setting.publish()
