"""RabbitMQ: one connection, pumped by one I/O thread for as long as the broker object lives. The only pika user.

Everything that touches pika runs on that thread; other threads hand it callbacks and wait for futures. So heartbeats
never stop, however long an inspection takes, and many threads can have unconfirmed messages under way at once.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import structlog
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from patchline.broker.base import BrokerError, Message, NotConfirmed, Outgoing, TopologyMismatch
from patchline.broker.confirms import Confirms, Publication
from patchline.broker.headers import sendable, text
from patchline.broker.rabbit_consumer import RabbitConsumer
from patchline.protocol.topology import Topology

_log = structlog.get_logger(__name__)
_BACKOFF_S = (0.2, 10.0)  # first and longest pause between attempts to connect
_CLOSE_S = 10.0


class RabbitBroker:
    """Implements `patchline.broker.base.Broker`. Use as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        heartbeat_s: int = 30,
        confirm_timeout_s: float = 30.0,
        name: str = "",
    ) -> None:
        """Connect in the background.

        Args:
            url: amqp://user:password@host:port/vhost, or amqps:// for TLS; the nodes of a cluster joined by commas.
            ca_file: whom to trust with amqps; the system's own authorities where it is None.
            heartbeat_s: after twice this time of silence the connection counts as lost.
            confirm_timeout_s: how long `publish` waits, unless it is told otherwise.
            name: is shown in RabbitMQ's list of connections.

        Raises:
            BrokerError: the url or the file cannot be used.
        """
        self._nodes = [_parameters(each, ca_file, heartbeat_s, name) for each in url.split(",")]
        self._confirm_timeout_s = confirm_timeout_s
        self._loop = IOLoop()
        self._connection: pika.SelectConnection | None = None
        self._publishing: Channel | None = None
        self._waiting: deque[Publication] = deque()
        self._confirms = Confirms()
        self._consumers: list[RabbitConsumer] = []
        self._attempts = 0
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

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`. Takes a short connection of its own, since it happens once at the start."""
        try:
            with pika.BlockingConnection(self._nodes) as connection:
                _declare(connection.channel(), topology, passive)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise TopologyMismatch(_explain(error)) from error
        except (pika.exceptions.AMQPError, OSError) as error:
            hosts = ", ".join(f"{each.host}:{each.port}" for each in self._nodes)
            raise BrokerError(
                f"RabbitMQ at {hosts} cannot be used ({error!r}); is it running, is the url right?"
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
        """See `base.Broker`."""
        self.publish_all([Outgoing(exchange, routing_key, message, mandatory)], timeout_s)

    def publish_all(self, outgoing: Sequence[Outgoing], timeout_s: float | None = None) -> None:
        """See `base.Broker`."""
        under_way = [Publication(each) for each in outgoing]
        wait_s = self._confirm_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + wait_s
        self.on_io_thread(partial(self._send_all, under_way))
        try:
            for each in under_way:
                each.confirmed.result(deadline - time.monotonic())
        except FutureTimeout:
            unconfirmed = f"RabbitMQ did not confirm message {each.what.message.message_id} within {wait_s:g} s"
            raise NotConfirmed(unconfirmed) from None
        finally:
            for each in under_way:
                each.confirmed.cancel()

    def consume(self, queue_name: str, prefetch: int) -> RabbitConsumer:
        """See `base.Broker`. The subscription is made again after every reconnection."""
        consumer = RabbitConsumer(self, queue_name, prefetch)
        self.on_io_thread(partial(self._add, consumer))
        return consumer

    def close(self) -> None:
        """See `base.Broker`."""
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
        node = self._nodes[self._attempts % len(self._nodes)]
        self._attempts += 1
        self._connection = pika.SelectConnection(
            node,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )

    def _on_open(self, connection: pika.SelectConnection) -> None:
        _log.info("broker connected", host=connection.params.host, port=connection.params.port)
        self._failures = 0
        if self._closing:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(_say_blocked)
        connection.add_on_connection_unblocked_callback(lambda *_: _log.info("broker reads again"))
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

    def _send_all(self, publications: Sequence[Publication]) -> None:
        for each in publications:
            self._send(each)

    def _send(self, publication: Publication) -> None:
        if publication.confirmed.cancelled():
            return
        if self._publishing is None:
            self._waiting.append(publication)
            return
        self._confirms.add(publication)
        self._publishing.basic_publish(
            publication.what.exchange,
            publication.what.routing_key,
            publication.what.message.body,
            _properties(publication.what.message),
            mandatory=publication.what.mandatory,
        )

    def _on_returned(self, _: Channel, method: Any, properties: pika.BasicProperties, __: bytes) -> None:
        why = f"{method.reply_code} {method.reply_text}"
        self._confirms.returned(method.exchange, method.routing_key, properties.message_id, why)

    def _on_confirm(self, frame: Any) -> None:
        accepted = isinstance(frame.method, pika.spec.Basic.Ack)
        self._confirms.confirmed(frame.method.delivery_tag, frame.method.multiple, accepted)
        if not accepted and self._confirms.none_waits and self._publishing is not None:
            # RabbitMQ 3.10 refuses for ever on a channel that first met a queue while its leader was lost.
            channel, self._publishing = self._publishing, None
            channel.close()

    def _add(self, consumer: RabbitConsumer) -> None:
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


def _say_blocked(_: object, frame: Any) -> None:
    """An alarm of RabbitMQ's. We stay: to come back would hand all our deliveries out anew, and be blocked again."""
    _log.warning("broker reads nothing from us until it has resources again", why=text(frame.method.reason))


def _declare(channel: Any, topology: Topology, passive: bool) -> None:
    for exchange in topology.exchanges:
        channel.exchange_declare(exchange, exchange_type="topic", durable=True, passive=passive)
    for each in topology.queues:
        channel.queue_declare(each.name, durable=True, arguments=each.arguments, passive=passive)
        for exchange, pattern in () if passive else each.bindings:
            channel.queue_bind(each.name, exchange, routing_key=pattern)


def _explain(error: pika.exceptions.ChannelClosedByBroker) -> str:
    said = f"({error.reply_code} {error.reply_text})"
    if error.reply_code == 404:
        return f"a queue or exchange is missing {said}; an administrator makes it with: patchline topology"
    if error.reply_code == 403:
        return f"this user may not make the queues {said}; set broker.make_queues to false; an administrator makes them"
    if error.reply_code != 406:
        return f"RabbitMQ refused the topology {said}"
    return (
        f"a queue or exchange of that name exists with other arguments {said}. RabbitMQ never changes "
        "the arguments of an existing queue: empty it, delete it with `rabbitmqctl delete_queue NAME` and start again, "
        "or set the limits under `broker:` in the configuration to what the queue has"
    )


def _decode_value(encoded: bytes, offset: int, original: Any = pika.data.decode_value) -> tuple[object, int]:
    """A timestamp as its number. pika 1.4 raises on one after the year 9999, in the middle of reading a frame.

    That would end the I/O thread, and then that of every worker that the message is delivered to.
    """
    if encoded[offset : offset + 1] == b"T":
        return int.from_bytes(encoded[offset + 1 : offset + 9], "big"), offset + 9
    return original(encoded, offset)  # type: ignore[no-any-return]


pika.data.decode_value = _decode_value


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        message_id=message.message_id,
        type=message.type,
        content_type=message.content_type,
        headers={name: sendable(value) for name, value in message.headers.items()},
        content_encoding=message.content_encoding,
        app_id=message.app_id,
        delivery_mode=pika.DeliveryMode.Persistent.value,
    )


def _parameters(url: str, ca_file: Path | None, heartbeat_s: int, name: str) -> pika.URLParameters:
    try:
        parameters = pika.URLParameters(url.strip())
        if parameters.ssl_options is not None:
            context = ssl.create_default_context(cafile=ca_file)
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    except (ValueError, TypeError, IndexError):  # their texts may quote the password
        raise BrokerError("the url of RabbitMQ is not of the form amqp://user:password@host:port/vhost") from None
    except OSError as error:
        raise BrokerError(f"{ca_file}: holds no certificates to trust ({error})") from error
    parameters.heartbeat = heartbeat_s
    parameters.client_properties = {"connection_name": name or "patchline"}
    return parameters
