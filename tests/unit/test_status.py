"""The status that a process sends every second: no broker but the one in memory, no sleep."""

import json

import pytest

from patchline.broker.base import BrokerError
from patchline.broker.memory import MemoryBroker
from patchline.protocol import topology
from patchline.protocol.status_message import Status
from patchline.protocol.topology import Queue, Topology
from patchline.runtime.status import BLIND, SERVING, Identity, StatusSender
from tests.own_logs import capture_own_logs

NOW_MS = 1_800_000_000_000


class Plant:
    """A publisher's sender on a broker in memory, with a clock and a state of the test."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.broker.declare(Topology((topology.STATUS,), (Queue("q", ((topology.STATUS, "publisher.l1"),)),)))
        self.consumer = self.broker.consume("q", 100)
        self.now_ms, self.state, self.holds = NOW_MS, SERVING, {"spooled": 3}
        identity = Identity("publisher", "host:c:1", "l1")
        self.arm = None
        self.sender = StatusSender(self.broker, identity, self.report, lambda: self.now_ms, arm=lambda: self.arm)

    def report(self):
        return self.state, self.holds

    def received(self):
        deliveries = iter(lambda: self.consumer.take(0.0), None)
        return [Status.model_validate_json(delivery.message.body) for delivery in deliveries]


@pytest.fixture
def plant():
    return Plant()


def test_a_status_says_who_since_when_and_what_it_holds(plant):
    assert plant.sender.send()
    plant.now_ms += 1000
    plant.arm = "faulty"
    assert plant.sender.send()
    statuses = plant.received()
    assert [status.arm for status in statuses] == [None, "faulty"]
    assert [(status.role, status.name, status.line) for status in statuses] == [("publisher", "host:c:1", "l1")] * 2
    assert [(status.since, status.sent_at) for status in statuses] == [(NOW_MS, NOW_MS), (NOW_MS, NOW_MS + 1000)]
    assert statuses[0].holds == {"spooled": 3}


def test_the_time_without_a_connection_is_part_of_the_history_of_the_state(plant):
    plant.sender.send()
    plant.broker.connected = False
    plant.state, plant.now_ms = BLIND, NOW_MS + 5000
    assert plant.sender.send()
    plant.broker.connected = True
    plant.state, plant.now_ms = SERVING, NOW_MS + 9000
    plant.sender.send()
    assert [(status.state, status.since) for status in plant.received()] == [
        (SERVING, NOW_MS),
        (SERVING, NOW_MS + 9000),
    ]


def test_a_status_that_cannot_be_sent_or_made_does_no_harm(plant, monkeypatch):
    def fail(*_, **__):
        raise BrokerError("no exchange")

    monkeypatch.setattr(plant.broker, "publish", fail)
    with capture_own_logs() as logs:
        assert not plant.sender.send()
        plant.holds = None
        assert not plant.sender.send()
    assert [log["event"] for log in logs] == ["status not sent, retrying", "status unknown, retrying"]


def test_a_failure_of_the_status_is_logged_once_and_its_end_too(plant, monkeypatch):
    def fail(*_, **__):
        raise BrokerError("no exchange")

    with capture_own_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(plant.broker, "publish", fail)
            assert [plant.sender.send() for _ in range(3)] == [False] * 3
        assert [plant.sender.send() for _ in range(3)] == [True] * 3
    assert [log["event"] for log in logs] == ["status not sent, retrying", "status sent again"]


def test_the_exchange_of_the_first_status_is_there_although_the_process_has_not_declared_it_yet():
    class Broker(MemoryBroker):
        def declare(self, topology_, *, passive=False):
            declared.append((*topology_.exchanges, passive))

        def publish(self, exchange, *_, **__):
            if (exchange, False) not in declared:
                raise BrokerError("404 no exchange")

    declared = []
    broker = Broker()
    broker.connected = False
    sender = StatusSender(broker, Identity("gate", "g", "l1"), lambda: (SERVING, {}), lambda: NOW_MS, True)
    assert sender.send()
    assert declared == []
    broker.connected = True
    assert [sender.send(), sender.send()] == [True, True]
    assert declared == [(topology.STATUS, False)]


def test_a_status_of_a_later_build_is_read():
    fields = {"role": "worker", "name": "w", "host": "h", "state": "later", "since": NOW_MS, "sent_at": NOW_MS}
    status = Status.model_validate_json(json.dumps(fields | {"colour": "red"}))
    assert (status.state, status.routing_key) == ("later", "worker.all")


def test_a_publisher_of_what_people_hand_in_says_so_and_others_say_nothing_of_it():
    broker = MemoryBroker()
    for hand_in in (True, False):
        sender = StatusSender(broker, Identity("publisher", "p", "l1", hand_in), lambda: (SERVING, {}), lambda: NOW_MS)
        status = sender._describe()
        assert (status.hand_in, b"hand_in" in status.to_json()) == (hand_in or None, hand_in)
