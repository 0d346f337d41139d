"""A consumer whose channel does not answer for a while, with the channels of pika and no connection."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from pika import spec

from patchline.broker import rabbit_consumer
from patchline.broker.rabbit_consumer import RabbitConsumer
from tests.own_logs import capture_own_logs
from tests.pika_channels import Connection

_PROBE_S, _ANSWER_S = 2.0, 10.0  # timers of the consumer


def consumer_of(connection, exclusive=False):
    io = SimpleNamespace(
        add_callback_threadsafe=lambda call: call(), check_alive=lambda: None, doubt_topology=lambda: None
    )
    consumer = RabbitConsumer(io, "q", 4, lambda: None, exclusive)
    connection.channel(consumer.subscribe)
    return consumer


def confirm(connection, tag):
    """RabbitMQ answers the subscription of the first channel."""
    connection.answer(spec.Basic.QosOk(), channel=1)
    connection.answer(spec.Basic.ConsumeOk(tag), channel=1)


@pytest.mark.parametrize("wait", ["_flush", "_stop"])
def test_a_channel_that_answers_after_it_was_replaced_ends_no_connection(wait):
    connection = Connection()
    consumer, reply = consumer_of(connection), Future()
    (tag,) = connection.channels[0].consumer_tags
    confirm(connection, tag)
    connection.time_is_over(_PROBE_S)  # the queue has no leader, so RabbitMQ does not answer the probe
    getattr(consumer, wait)(reply)
    connection.time_is_over(_ANSWER_S)
    assert reply.done()
    connection.answer(spec.Queue.DeclareOk("q", 0, 1), channel=1)
    connection.answer(spec.Basic.QosOk() if wait == "_flush" else spec.Basic.CancelOk(tag), channel=1)


@pytest.mark.parametrize(("begin", "method"), [("begin_stop", spec.Basic.Cancel), ("begin_flush", spec.Basic.Qos)])
def test_consumers_that_end_together_ask_at_once_and_wait_no_longer_than_one(begin, method, monkeypatch):
    monkeypatch.setattr(rabbit_consumer, "_REPLY_TIMEOUT_S", 0.0)
    connection = Connection()
    consumers = [consumer_of(connection) for _ in range(3)]
    for number, channel in enumerate(connection.channels, 1):
        connection.answer(spec.Basic.QosOk(), channel=number)
        connection.answer(spec.Basic.ConsumeOk(*channel.consumer_tags), channel=number)
    connection.sent.clear()
    waits = [getattr(consumer, begin)() for consumer in consumers]
    assert connection.sent == [(number, method.NAME) for number in (1, 2, 3)]
    with capture_own_logs() as logs:
        for wait in waits:
            wait()
    assert [log["event"] for log in logs] == ["RabbitMQ did not reply"] * 3


def test_a_probe_that_was_just_sent_has_its_time_although_an_earlier_one_was_sent_long_ago():
    connection = Connection()
    consumer = consumer_of(connection)
    confirm(connection, *connection.channels[0].consumer_tags)
    connection.time_is_over(_PROBE_S)
    ((_, look_at_first),) = [timer for timer in connection.timers if timer[0] == _ANSWER_S][1:]
    connection.answer(spec.Queue.DeclareOk("q", 0, 1))
    connection.time_is_over(_PROBE_S)
    look_at_first()
    assert consumer.subscribed
    connection.time_is_over(_ANSWER_S)
    assert not consumer.subscribed


def test_a_channel_that_looks_at_an_exclusive_queue_after_it_was_replaced_ends_no_connection():
    connection = Connection()
    consumer = consumer_of(connection, exclusive=True)
    connection.time_is_over(_ANSWER_S)
    connection.answer(spec.Queue.DeclareOk("q", 0, 0), channel=1)
    assert not consumer.subscribed


def test_a_subscription_that_is_confirmed_after_its_channel_was_replaced_counts_for_nothing():
    connection = Connection()
    consumer = consumer_of(connection)
    (tag,) = connection.channels[0].consumer_tags
    connection.time_is_over(_ANSWER_S)
    with capture_own_logs() as logs:
        confirm(connection, tag)
    assert (logs, consumer.subscribed) == ([], False)
