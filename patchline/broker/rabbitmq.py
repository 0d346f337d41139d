"""RabbitMQ: one connection with one I/O thread for the lifetime of the broker object. The only pika user.

pika is not thread-safe, so only the I/O thread calls it; other threads add callbacks and wait for futures. Heartbeats
therefore continue during long inspections, and many threads can wait for publisher confirms at the same time.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pika
import pika.exceptions
import structlog
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils import io_services_utils
from pika.channel import Channel

from patchline.broker import advice, rabbit_topology
from patchline.broker.base import BrokerError, Message, Outgoing, TopologyMismatch, require_bytes, wait_for_confirmation
from patchline.broker.confirms import Publication
from patchline.broker.headers import decode_value, encodable
from patchline.broker.rabbit_consumer import RabbitConsumer
from patchline.broker.rabbit_listener import RabbitListener
from patchline.broker.rabbit_publisher import RabbitPublisher
from patchline.broker.rabbit_topology import TopologyWatch
from patchline.protocol import server_url
from patchline.protocol.errors import PatchlineError, SetupError
from patchline.protocol.tls import Certificates
from patchline.protocol.topology import Topology

_log = structlog.get_logger(__name__)
_MIN_RECONNECT_DELAY_S, _CLOSE_TIMEOUT_S = 0.2, 10.0
_READ_BYTES = 262_144  # at once; pika reads 4,096
_LOGIN_REFUSED = (pika.exceptions.ProbableAuthenticationError, pika.exceptions.AuthenticationError)
_FORM = "the url of RabbitMQ is not of the form amqp://user:password@host:port/vhost"


class RabbitBroker:
    """Implements `patchline.broker.base.Broker` with automatic reconnection. A context manager."""

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        heartbeat_s: int = 30,
        confirm_timeout_s: float = 30.0,
        reconnect_max_s: float = 10.0,
        name: str = "",
        quiet: bool = False,
    ) -> None:
        """Connect in the background.

        Args:
            url: amqp://user:password@host:port/vhost, or amqps:// for TLS; a comma separates the nodes of a cluster.
                A function is called before every attempt to connect, since passwords change.
            ca_file: the CA certificates to trust with amqps. If None, those of the system.
            cert_file: the certificate to show with amqps. If None, none.
            key_file: its private key. If None, it is in `cert_file`.
            heartbeat_s: the heartbeat timeout of the connection.
            confirm_timeout_s: the default timeout of `publish`.
            reconnect_max_s: the longest pause between two attempts to connect.
            name: shown in RabbitMQ's list of connections.
            quiet: log the events of the connection at the level of debugging.

        Raises:
            BrokerError: the url or a file cannot be used.
        """
        self._log = SimpleNamespace(info=_log.debug, warning=_log.debug, error=_log.debug) if quiet else _log
        self._read_url = url if callable(url) else lambda: url
        certificates = Certificates(ca_file, cert_file, key_file)
        self._parameters = partial(_parameters, certificates=certificates, heartbeat_s=heartbeat_s, name=name)
        self._nodes = self._read_nodes()
        self._confirm_timeout_s = confirm_timeout_s
        self._reconnect_max_s = reconnect_max_s
        self._loop = IOLoop()
        self._connection: pika.SelectConnection | None = None
        self._closing = False
        self._publisher = RabbitPublisher(self, _properties, confirm_timeout_s, self._log)
        self._on_connection: list[Callable[[Channel], object]] = []  # of consumers, watches and listeners
        self._consumers: list[RabbitConsumer] = []
        self._next_node = self._failures = self._doubts = 0
        self._thread = threading.Thread(target=self._run_io_loop, name="broker-io", daemon=True)
        self._thread.start()

    def __enter__(self) -> RabbitBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """See `base.Broker`."""
        return self._publisher.is_open

    @property
    def topology_doubts(self) -> int:
        """See `base.Broker`."""
        return self._doubts

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`. Uses a separate connection, since it happens rarely."""
        nodes = self._read_nodes()
        try:
            rabbit_topology.declare(partial(pika.BlockingConnection, nodes), topology, passive)
            for consumer in tuple(self._consumers):  # their queues may have been missing
                self.add_callback_threadsafe(consumer.hasten)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise TopologyMismatch(advice.topology(error.reply_code, error.reply_text)) from error
        except (pika.exceptions.AMQPError, OSError) as error:
            hosts = ", ".join(f"{node.host}:{node.port}" for node in nodes)
            raise BrokerError(advice.unusable(hosts, error, isinstance(error, _LOGIN_REFUSED))) from error

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
        confirmation = self.publish_nowait(outgoing)
        wait_for_confirmation(confirmation, self._confirm_timeout_s if timeout_s is None else timeout_s)

    def publish_nowait(self, outgoing: Sequence[Outgoing]) -> Future[None]:
        """See `base.Broker`."""
        require_bytes(outgoing)
        publication = Publication(outgoing)
        if not outgoing:  # RabbitMQ has nothing to confirm
            self.check_alive()
            publication.confirmation.set_result(None)
            return publication.confirmation
        publication.confirmation.add_done_callback(self._on_publication_done)
        self.add_callback_threadsafe(partial(self._publisher.publish, publication))
        return publication.confirmation

    def consume(
        self, queue: str, prefetch: int, on_arrival: Callable[[], object] = lambda: None, *, exclusive: bool = False
    ) -> RabbitConsumer:
        """See `base.Broker`. The consumer subscribes again after every reconnection."""
        consumer = RabbitConsumer(self, queue, prefetch, on_arrival, exclusive)
        self._consumers.append(consumer)
        self.add_callback_threadsafe(partial(self._add, consumer.subscribe))
        return consumer

    def watch(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`."""
        self.add_callback_threadsafe(partial(self._add, TopologyWatch(topology, passive, self.doubt_topology).start))

    def listen(self, exchange: str, pattern: str, on_message: Callable[[Message], object]) -> None:
        """See `base.Broker`. It listens again after every reconnection."""
        self.add_callback_threadsafe(partial(self._add, RabbitListener(exchange, pattern, on_message).start))

    def close(self) -> None:
        """See `base.Broker`."""
        if self._thread.is_alive():
            self.add_callback_threadsafe(self._disconnect)
            self._thread.join(_CLOSE_TIMEOUT_S)

    def add_callback_threadsafe(self, callback: Callable[[], Any]) -> None:
        """Have the I/O thread call `callback`. Callbacks are called in order."""
        self.check_alive()
        self._loop.add_callback_threadsafe(callback)

    def check_alive(self) -> None:
        """Raise BrokerError if the I/O thread has ended."""
        if not self._thread.is_alive():
            raise BrokerError("the connection to RabbitMQ is closed")

    def _read_nodes(self) -> list[pika.URLParameters]:
        return [self._parameters(node) for node in server_url.nodes(self._read_url())]

    def _on_publication_done(self, confirmation: Future[None]) -> None:
        if confirmation.cancelled():
            with suppress(BrokerError):  # the I/O thread has ended and holds nothing
                self.add_callback_threadsafe(self._publisher.forget_cancelled)

    # Everything below runs on the I/O thread.

    def _run_io_loop(self) -> None:
        self._connect()
        try:
            self._loop.start()
        except Exception:  # noqa: BLE001 - no caller would see it
            _log.exception("the connection to RabbitMQ has failed and stays closed")
        finally:
            self._publisher.close()
            self._loop.close()

    def _connect(self) -> None:
        try:
            self._nodes = self._read_nodes()
        except (BrokerError, PatchlineError) as error:
            self._log.warning("url of RabbitMQ cannot be read, using the last one", reason=str(error))
        node = self._nodes[self._next_node % len(self._nodes)]
        self._next_node += 1
        on_open, on_lost = self._on_open, self._on_connection_lost
        self._connection = pika.SelectConnection(node, on_open, on_lost, on_lost, custom_ioloop=self._loop)

    def _on_open(self, connection: pika.SelectConnection) -> None:
        self._log.info("connected to RabbitMQ", host=connection.params.host, port=connection.params.port)
        self._failures = 0
        if self._closing:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._publisher.on_blocked)
        connection.add_on_connection_unblocked_callback(self._publisher.on_unblocked)
        self.doubt_topology()
        for start in (self._publisher.start, *self._on_connection):
            self.open_channel(start)

    def doubt_topology(self) -> None:
        """Count that exchanges or queues may be missing. Called on the I/O thread."""
        self._doubts += 1

    def open_channel(self, on_open: Callable[[Channel], object]) -> None:
        """See `RabbitPublisher`."""
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=on_open)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        """See `RabbitPublisher`."""
        self._loop.call_later(delay_s, callback)

    def leave_node(self) -> bool:
        """See `RabbitPublisher`. A consumer would lose its deliveries."""
        if len(self._nodes) == 1 or self._consumers or self._connection is None:
            return False
        self._connection.close()
        return True

    def _add(self, start: Callable[[Channel], object]) -> None:
        self._on_connection.append(start)
        self.open_channel(start)

    def _on_connection_lost(self, connection: pika.SelectConnection, reason: BaseException) -> None:
        self._publisher.on_connection_lost(repr(reason))
        if self._closing:
            self._loop.stop()
            return
        backoff_s = min(self._reconnect_max_s, _MIN_RECONNECT_DELAY_S * 2**self._failures)
        delay_s = round(backoff_s * random.uniform(0.5, 1.0), 2)
        self._failures = min(self._failures + 1, 16)
        if isinstance(reason, _LOGIN_REFUSED):
            self._log.error("login refused by RabbitMQ", reconnect_in_s=delay_s, **advice.login(connection.params))
        else:
            self._log.warning("connection to RabbitMQ lost", reason=advice.reason(reason), reconnect_in_s=delay_s)
        self._loop.call_later(delay_s, self._connect)

    def _disconnect(self) -> None:
        self._closing = True
        if self._connection is None or self._connection.is_closed:
            self._loop.stop()
        elif self._connection.is_open:
            self._connection.close()
        # Otherwise `_on_open` closes it: pika 1.4 fails if a connection is closed during its handshake.


pika.data.decode_value = partial(decode_value, pika.data.decode_value)
io_services_utils._AsyncTransportBase._MAX_RECV_BYTES = _READ_BYTES  # there is no option (decision 171)


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        message_id=message.message_id,
        type=message.type,
        content_type=message.content_type,
        headers={name: encodable(value) for name, value in message.headers.items()},
        content_encoding=message.content_encoding,
        app_id=message.app_id,
        delivery_mode=pika.DeliveryMode.Persistent.value,
    )


def _parameters(url: str, certificates: Certificates, heartbeat_s: int, name: str) -> pika.URLParameters:
    try:
        server_url.address(url)
        parameters = pika.URLParameters(url)
    except SetupError as error:
        raise BrokerError(f"{_FORM}: {error}") from None
    except (ValueError, TypeError, IndexError, SyntaxError):  # their texts may contain the password
        raise BrokerError(_FORM) from None
    if parameters.ssl_options is not None:
        try:
            parameters.ssl_options = pika.SSLOptions(certificates.context(), parameters.host)
        except SetupError as error:
            raise BrokerError(str(error)) from error
    parameters.heartbeat = heartbeat_s
    parameters.client_properties = {"connection_name": name or "patchline"}
    return parameters
