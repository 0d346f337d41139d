"""How the connection to RabbitMQ reads."""

import socket
from contextlib import closing, nullcontext
from types import SimpleNamespace

import pytest
from pika import exceptions, spec
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.spec import Basic

from patchline.broker import rabbit_topology, rabbitmq
from patchline.broker.base import Message, Outgoing
from patchline.broker.confirms import Publication, Refusals
from patchline.broker.rabbit_publisher import RabbitPublisher
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol.topology import Queue, Topology
from tests.pika_channels import Connection

JOBS, PARTS = ("patchline.jobs", "l1.brick"), ("patchline.parts", "l1")


def test_what_has_arrived_is_read_at_once():
    assert RabbitBroker  # its file tells pika how much to read, by a name that an update of pika may change
    ours, theirs = socket.socketpair()
    received = []
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        theirs.sendall(bytes(100_000))
        loop = SimpleNamespace(set_reader=lambda *_: None)
        _AsyncPlaintextTransport(ours, SimpleNamespace(data_received=received.append), loop)._on_socket_readable()
    assert list(map(len, received)) == [100_000]


@pytest.mark.parametrize("answers", [(Basic.Nack(1), Basic.Ack(2)), (Basic.Ack(2), Basic.Nack(1))])
def test_a_channel_is_replaced_after_a_refusal_also_if_another_message_is_confirmed_last(answers):
    waiting = {1: JOBS, 2: PARTS}  # a job, and the announcement of its part
    replaced, channel = [], object()

    class Confirms:
        is_empty = property(lambda _: not waiting)
        on_confirm = staticmethod(lambda tag, *_: {waiting.pop(tag)})

    publisher = SimpleNamespace(
        _channel=channel,
        _confirms=Confirms(),
        _refusals=Refusals(),
        _replace=lambda *_: replaced.append(len(waiting)),
    )
    for answer in answers:
        RabbitPublisher._on_confirm(publisher, channel, SimpleNamespace(method=answer))
    assert replaced == [0]


def test_a_destination_is_refused_on_channels_in_a_row_until_one_of_its_messages_is_confirmed():
    refusals, counts = Refusals(), []
    for _ in range(3):
        refusals.on_confirm({PARTS}, ack=True)  # a gate's queue is another one
        for _ in range(5):
            refusals.on_confirm({JOBS}, ack=False)
        counts.append(refusals.on_channel_replaced())
    assert counts == [1, 2, 3]
    refusals.on_confirm({JOBS}, ack=True)
    assert refusals.on_channel_replaced() == 0
    refusals.on_confirm({PARTS, JOBS}, ack=False)
    assert refusals.on_channel_replaced() == 1


@pytest.fixture
def broker(monkeypatch):
    """A broker whose thread never runs: the test does what the thread would do."""
    monkeypatch.setattr(rabbitmq.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    broker = RabbitBroker("amqp://user:password@one,amqp://user:password@two")
    broker._connection = Connection()
    yield broker
    broker._loop.close()


def test_what_is_published_while_a_node_is_left_waits_for_the_next_node(broker):
    node = broker._connection
    publications = [Publication([Outgoing(*JOBS, Message(b"image", "j"))]) for _ in range(11)]
    node.channel(broker._publisher.start)
    for publication in publications[:10]:  # the queue is full, or the node names a leader of it that is dead
        node.answer(spec.Confirm.SelectOk())
        broker._publisher.publish(publication)
        node.answer(spec.Basic.Nack(1))
    assert not node.is_open
    broker._publisher.publish(publications[10])
    assert broker._publisher._queued == publications[10:]


def test_what_is_published_while_the_connection_closes_does_not_break_it_off(broker):
    broker._connection.channel(broker._publisher.start)
    broker._connection.answer(spec.Confirm.SelectOk())
    broker._disconnect()  # settlements are still on their way
    broker._publisher.publish(late := Publication([Outgoing(*JOBS, Message(b"image", "j"))]))
    assert broker._publisher._queued == [late]


class FailingNode:
    """Fails inside at the first declarations of a queue, as RabbitMQ does on a disk that stalls."""

    def __init__(self, failures, code):
        self.failures, self.code, self.declared = failures, code, []

    def connect(self):
        return nullcontext(SimpleNamespace(channel=lambda: self))

    def queue_declare(self, name, **_):
        if self.failures:
            self.failures -= 1
            raise exceptions.ConnectionClosedByBroker(self.code, "INTERNAL_ERROR")
        self.declared.append(name)


@pytest.mark.parametrize(
    ("failures", "code", "left", "pauses"), [(0, 541, 0, []), (2, 541, 0, [2, 4]), (3, 541, 0, [2, 4]), (2, 320, 1, [])]
)
def test_a_declaration_is_made_again_while_rabbitmq_fails_inside(monkeypatch, failures, code, left, pauses):
    slept, node = [], FailingNode(failures, code)
    monkeypatch.setattr(rabbit_topology.time, "sleep", slept.append)
    succeeds = failures < 3 and code == 541
    with nullcontext() if succeeds else pytest.raises(exceptions.ConnectionClosedByBroker):
        rabbit_topology.declare(node.connect, Topology((), (Queue("jobs", ()),)), passive=False)
    assert (node.failures, slept, node.declared) == (left, pauses, ["jobs"] if succeeds else [])
