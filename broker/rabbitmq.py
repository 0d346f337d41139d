"""RabbitMQ: one connection, pumped by one I/O thread for as long as the broker object lives. The only pika user.

Everything that touches pika runs on that thread; other threads hand it callbacks and wait for futures. So heartbeats
never stop, however long an inspection takes, and many threads can have unconfirmed messages under way at once.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any

import pika
import pika.exceptions
import structlog
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from broker.base import BrokerError, Delivery, Message, NotConfirmed, Settlement, TopologyMismatch
from broker.confirms import Confirms, Publication
from broker.topology import Topology

_log = structlog.get_logger(__name__)
_BACKOFF_S = (0.2, 10.0)  # first and longest pause between attempts to connect
_CLOSE_S = 10.0


class RabbitBroker:
    """Implements `broker.base.Broker`. Use as a context manager."""

    def __init__(self, url: str, *, heartbeat_s: int = 30, confirm_timeout_s: float = 30.0, name: str = "") -> None:
        self._parameters = _parameters(url, heartbeat_s, name)
        self._confirm_timeout_s = confirm_timeout_s
        self._loop = IOLoop()
        self._connection: pika.SelectConnection | None = None
        self._publishing: Channel | None = None
        self._waiting: deque[Publication] = deque()
        self._confirms = Confirms()
        self._consumers: list[_RabbitConsumer] = []
        self._closing = False
        self._failures = 0
        self._thread = threading.Thread(target=self._pump, name="broker-io", daemon=True)
        self._thread.start()

    def __enter__(self) -> RabbitBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """It can publish at this moment."""
        return self._publishing is not None

    def declare(self, topology: Topology) -> None:
        """See `broker.base.Broker`. Takes a short connection of its own, since it happens once at the start."""
        try:
            with pika.BlockingConnection(self._parameters) as connection:
                _declare(connection.channel(), topology)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise TopologyMismatch(_explain(error)) from error
        except pika.exceptions.AMQPError as error:
            host = f"{self._parameters.host}:{self._parameters.port}"
            raise BrokerError(
                f"RabbitMQ at {host} cannot be used ({error!r}); is it running, is the url right?"
            ) from error

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """See `broker.base.Broker`."""
        publication = Publication(exchange, routing_key, message, mandatory)
        self.on_io_thread(partial(self._send, publication))
        wait_s = self._confirm_timeout_s if timeout_s is None else timeout_s
        try:
            publication.confirmed.result(wait_s)
        except FutureTimeout:
            publication.confirmed.cancel()
            raise NotConfirmed(f"RabbitMQ did not confirm message {message.message_id} within {wait_s:g} s") from None

    def consume(self, queue_name: str, prefetch: int) -> _RabbitConsumer:
        """See `broker.base.Broker`. The subscription is made again after every reconnection."""
        consumer = _RabbitConsumer(self, queue_name, prefetch)
        self.on_io_thread(partial(self._add, consumer))
        return consumer

    def close(self) -> None:
        """See `broker.base.Broker`."""
        if self._thread.is_alive():
            self.on_io_thread(self._shut)
            self._thread.join(_CLOSE_S)

    def on_io_thread(self, callback: Callable[[], Any]) -> None:
        """Have `callback` called by the I/O thread, after those handed over before it."""
        self.check_alive()
        self._loop.add_callback_threadsafe(callback)

    def check_alive(self) -> None:
        """Raise BrokerError when the I/O thread has ended, so that nobody waits for it for ever."""
        if not self._thread.is_alive():
            raise BrokerError("the connection to RabbitMQ is closed")

    # From here on everything runs on the I/O thread.

    def _pump(self) -> None:
        self._connect()
        try:
            self._loop.start()
        finally:
            self._confirms.fail_all("the connection is closed")
            self._loop.close()

    def _connect(self) -> None:
        self._connection = pika.SelectConnection(
            self._parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )

    def _on_open(self, connection: pika.SelectConnection) -> None:
        _log.info("broker connected", host=self._parameters.host, port=self._parameters.port)
        self._failures = 0
        if self._closing:
            connection.close()
            return
        self._open_publishing()
        for consumer in self._consumers:
            connection.channel(on_open_callback=consumer.subscribe)

    def _open_publishing(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_publishing_open)

    def _on_publishing_open(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_returned)
        channel.add_on_close_callback(self._on_publishing_closed)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._on_publishing_ready(channel))

    def _on_publishing_ready(self, channel: Channel) -> None:
        self._publishing = channel
        self._confirms = Confirms()
        while self._waiting:
            self._send(self._waiting.popleft())

    def _on_publishing_closed(self, _: Channel, why: BaseException) -> None:
        self._publishing = None
        self._confirms.fail_all(repr(why))
        self._open_publishing()

    def _send(self, publication: Publication) -> None:
        if publication.confirmed.cancelled():
            return
        if self._publishing is None:
            self._waiting.append(publication)
            return
        self._confirms.add(publication)
        self._publishing.basic_publish(
            publication.exchange,
            publication.routing_key,
            publication.message.body,
            _properties(publication.message),
            mandatory=publication.mandatory,
        )

    def _on_returned(self, _: Channel, method: Any, properties: pika.BasicProperties, __: bytes) -> None:
        why = f"{method.reply_code} {method.reply_text}"
        self._confirms.returned(method.exchange, method.routing_key, properties.message_id, why)

    def _on_confirm(self, frame: Any) -> None:
        accepted = isinstance(frame.method, pika.spec.Basic.Ack)
        self._confirms.confirmed(frame.method.delivery_tag, frame.method.multiple, accepted)

    def _add(self, consumer: _RabbitConsumer) -> None:
        self._consumers.append(consumer)
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=consumer.subscribe)

    def _on_lost(self, _: object, why: BaseException) -> None:
        self._publishing = None
        self._confirms.fail_all(repr(why))
        if self._closing:
            self._loop.stop()
            return
        first, longest = _BACKOFF_S
        pause_s = min(longest, first * 2**self._failures) * random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 16)
        _log.warning("broker lost", why=repr(why), again_in_s=round(pause_s, 2))
        self._loop.call_later(pause_s, self._connect)

    def _shut(self) -> None:
        self._closing = True
        if self._connection is None or self._connection.is_closed:
            self._loop.stop()
        elif self._connection.is_open:
            self._connection.close()
        # One that is still opening is let to: pika 1.4 trips over a close in the middle of its handshake.


class _RabbitConsumer:
    """Implements `broker.base.Consumer` with one channel at a time."""

    def __init__(self, broker: RabbitBroker, queue_name: str, prefetch: int) -> None:
        self._broker = broker
        self._queue = queue_name
        self._prefetch = prefetch
        self._channel: Channel | None = None
        self._cancelled = False
        self._arrived: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def take(self, timeout_s: float) -> Delivery | None:
        """See `broker.base.Consumer`. Deliveries of an earlier channel are dropped: the broker sends them again."""
        try:
            delivery = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            self._broker.check_alive()
            return None
        return None if delivery.stale else delivery

    def cancel(self) -> None:
        """See `broker.base.Consumer`."""
        done: Future[None] = Future()
        self._broker.on_io_thread(partial(self._cancel, done))
        done.result(_CLOSE_S)
        while not self._arrived.empty():
            self._arrived.get().requeue()

    # From here on everything runs on the I/O thread.

    def subscribe(self, channel: Channel) -> None:
        """Consume on a channel that has just been opened."""
        if self._cancelled:
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_closed)
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue, self._on_delivery)

    def _on_closed(self, channel: Channel, why: BaseException) -> None:
        if not self._cancelled and channel.connection.is_open:
            _log.error("broker closed a consumer's channel", queue=self._queue, why=repr(why))
            channel.connection.ioloop.call_later(_BACKOFF_S[1], partial(self._resubscribe, channel.connection))

    def _resubscribe(self, connection: pika.SelectConnection) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self.subscribe)

    def _on_delivery(self, channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        message = Message(
            body=body,
            message_id=properties.message_id,
            type=properties.type,
            content_type=properties.content_type,
            headers=properties.headers or {},
            app_id=properties.app_id,
        )
        counted = message.headers.get("x-delivery-count", int(method.redelivered))
        attempt = 1 + (counted if isinstance(counted, int) else 0)
        settle = partial(self._settle, channel, method.delivery_tag)
        self._arrived.put(Delivery(message, method.routing_key, attempt, settle, lambda: not channel.is_open))

    def _settle(self, channel: Channel, tag: int, settlement: Settlement) -> None:
        """Called by any thread."""
        self._broker.on_io_thread(partial(_settle_on, channel, tag, settlement))

    def _cancel(self, done: Future[None]) -> None:
        self._cancelled = True
        if self._channel is not None and self._channel.is_open and self._channel.consumer_tags:
            self._channel.basic_cancel(self._channel.consumer_tags[0], callback=lambda _: done.set_result(None))
        else:
            done.set_result(None)


def _settle_on(channel: Channel, tag: int, settlement: Settlement) -> None:
    if not channel.is_open:
        return
    if settlement is Settlement.ACK:
        channel.basic_ack(tag)
    else:
        # reject, not nack: from RabbitMQ 4.3 on only a reject counts as an attempt.
        channel.basic_reject(tag, requeue=settlement is Settlement.REQUEUE)


def _declare(channel: Any, topology: Topology) -> None:
    for exchange in topology.exchanges:
        channel.exchange_declare(exchange, exchange_type="topic", durable=True)
    for each in topology.queues:
        channel.queue_declare(each.name, durable=True, arguments=each.arguments)
        for exchange, pattern in each.bindings:
            channel.queue_bind(each.name, exchange, routing_key=pattern)


def _explain(error: pika.exceptions.ChannelClosedByBroker) -> str:
    if error.reply_code != 406:
        return f"RabbitMQ refused the topology: {error.reply_code} {error.reply_text}"
    return (
        f"a queue or exchange of that name exists with other arguments ({error.reply_text}). RabbitMQ never changes "
        "the arguments of an existing queue: empty it, delete it with `rabbitmqctl delete_queue NAME` and start again, "
        "or set the limits under `broker:` in the configuration to what the queue has"
    )


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        message_id=message.message_id,
        type=message.type,
        content_type=message.content_type,
        headers=dict(message.headers),
        app_id=message.app_id,
        delivery_mode=pika.DeliveryMode.Persistent.value,
    )


def _parameters(url: str, heartbeat_s: int, name: str) -> pika.URLParameters:
    try:
        parameters = pika.URLParameters(url)
    except (ValueError, TypeError, IndexError) as error:
        raise BrokerError(
            f"the url of RabbitMQ is not of the form amqp://user:password@host:port/vhost: {error}"
        ) from error
    parameters.heartbeat = heartbeat_s
    parameters.blocked_connection_timeout = 2 * heartbeat_s
    parameters.client_properties = {"connection_name": name or "patchline"}
    return parameters
