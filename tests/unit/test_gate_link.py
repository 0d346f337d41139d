"""The link of a gate with its line, over a broker in memory."""

import threading
import time

import pytest

from patchline import config
from patchline.broker.base import BrokerError, TopologyMismatch
from patchline.broker.memory import MemoryBroker
from patchline.gate import link
from patchline.protocol import topology
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import Ping
from patchline.runtime.metrics import Registry
from patchline.runtime.queue_keeper import QueueMetrics


def test_a_gate_survives_that_the_file_with_the_url_is_missing_for_a_while(monkeypatch):
    monkeypatch.setattr(link, "_DECLARE_RETRY_S", 0.0)
    settings, broker = config.load(config.PACKAGED), MemoryBroker()
    attempts, declare = iter(range(100)), broker.declare
    subscribed, consume = threading.Event(), broker.consume

    def fails_at_first(*arguments, **options):
        if next(attempts) < 2:
            raise SetupError("url_file: cannot be read")
        declare(*arguments, **options)

    def notice(queue, prefetch, **options):
        consumer = consume(queue, prefetch, **options)
        if queue == topology.lease_queue("l"):
            subscribed.set()
        return consumer

    monkeypatch.setattr(broker, "declare", fails_at_first)
    monkeypatch.setattr(broker, "consume", notice)
    ping = Ping(gate="g", process="p", sent_at=1.0, active=False)
    with link.Link(broker, settings, "l", "g", lambda: ping, QueueMetrics(Registry())):
        assert subscribed.wait(20.0)


@pytest.mark.timeout(30)
def test_a_gate_that_makes_no_steps_pings_no_longer_and_leaves_the_lease_until_it_makes_steps_again(monkeypatch):
    monkeypatch.setattr(link, "_DECLARE_RETRY_S", 0.0)
    settings, broker = config.load(config.PACKAGED), MemoryBroker()
    gate = settings.gate.model_copy(update={"lease_ms": 1000, "act_timeout_ms": 100})
    settings = settings.model_copy(update={"gate": gate})
    consume, consumers, pings = broker.consume, [], []

    def notice(queue, prefetch, **options):
        consumer = consume(queue, prefetch, **options)
        if queue == topology.lease_queue("l"):
            consumers.append(consumer)
            cancel = consumer.cancel
            monkeypatch.setattr(consumer, "cancel", lambda: (cancelled.set(), cancel()))
        return consumer

    def ping():
        pings.append(time.monotonic())
        return Ping(gate="g", process="p", sent_at=1.0, active=False)

    cancelled = threading.Event()
    monkeypatch.setattr(broker, "consume", notice)
    with link.Link(broker, settings, "l", "g", ping, QueueMetrics(Registry())) as tested:
        while not (consumers and pings):
            tested.take(0.01)
        assert not cancelled.wait(0.5)
        assert cancelled.wait(10.0)
        sent = len(pings)
        time.sleep(0.6)
        assert len(pings) == sent
        while len(consumers) < 2 or len(pings) == sent:
            tested.take(0.01)


@pytest.mark.timeout(30)
def test_a_queue_that_is_made_again_is_counted_although_the_answer_to_its_declaration_was_lost(monkeypatch):
    monkeypatch.setattr(link, "_DECLARE_RETRY_S", 0.0)
    settings, broker, registry = config.load(config.PACKAGED), MemoryBroker(), Registry()
    declare, subscribed, deleted, lost = broker.declare, threading.Event(), threading.Event(), threading.Event()
    consume = broker.consume

    def on_declare(queues, *, passive=False):
        is_missing = deleted.is_set() and not lost.is_set()
        if passive and is_missing:
            raise TopologyMismatch("missing")
        if not passive:
            declare(queues)
        if is_missing:
            lost.set()
            raise BrokerError("the connection was lost")

    monkeypatch.setattr(broker, "declare", on_declare)
    monkeypatch.setattr(broker, "consume", lambda *of, **how: (consume(*of, **how), subscribed.set())[0])
    ping = Ping(gate="g", process="p", sent_at=1.0, active=False)
    with link.Link(broker, settings, "l", "g", lambda: ping, QueueMetrics(registry)) as tested:
        assert subscribed.wait(20.0)
        assert registry.get_sample_value("patchline_queues_made_again_total") == 0
        deleted.set()
        while registry.get_sample_value("patchline_queues_made_again_total") == 0:
            tested.declare_again()
            time.sleep(0.01)
        assert tested.take_queue_loss()
    assert registry.get_sample_value("patchline_queues_made_again_total") == 1
