"""A connection to an MQTT broker (3.1.1) that keeps nothing while it is away.

paho keeps what it cannot send, without a limit, and sends it when the broker is back: acts of minutes ago. So a client
of paho lives for one connection, and what is unsent goes with it. paho's thread is not used: it would send signs of
life for a gate that hangs.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo, MQTTv311, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from patchline.protocol import server_url
from patchline.protocol.tls import Certificates

_MAX_UNCONFIRMED = 20
_MAX_RECEIVED = 1000  # messages that wait for `receive`
_MIN_TIMEOUT_S = 0.001
_PAHO_ERRORS = (OSError, ValueError, LookupError, struct.error)  # of a connection, or of a packet that is none


class MqttError(Exception):
    """The broker is away, refuses, or has not answered. What was published may or may not arrive."""


@dataclass(frozen=True)
class Publication:
    """A message to publish, or a last will."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True)
class Received:
    """A message of a subscription. A retained one may be of any age."""

    topic: str
    payload: bytes
    retained: bool


class MqttConnection:
    """Used by one thread, which also sends the signs of life: a gate that hangs sends none.

    A call that raises MqttError closes the connection without a farewell, so the broker publishes the will. Names of
    hosts are resolved by the system, which has a time limit of its own.

    Args:
        url: `mqtt://user:password@host:1883`, or `mqtts://` with TLS. A comma separates the nodes of a cluster.
        client_id: a name that no other client of the broker has.
        subscriptions: topics to receive, with QoS 1.
        will: returns what the broker publishes if the connection is lost. Called for each connection. None: nothing.
        keep_alive_s: the broker gives the client up after one and a half times as long without a sign of life. A
            message that it does not confirm within this time closes the connection.
        certificates: for `mqtts`.
        clock: a monotonic clock in seconds. Deadlines are its values.

    Raises:
        SetupError: the url or a file cannot be used.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        subscriptions: Sequence[str],
        will: Callable[[], Publication] | None,
        keep_alive_s: int = 2,
        certificates: Certificates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        nodes = server_url.nodes(url)
        self._encrypted = {node: server_url.address(node).scheme == "mqtts" for node in nodes}
        self._nodes = itertools.cycle(nodes)
        self._context = (certificates or Certificates()).context() if any(self._encrypted.values()) else None
        self._client_id, self._subscriptions, self._will = client_id, list(subscriptions), will
        self._keep_alive_s, self._clock = keep_alive_s, clock
        self._client: Client | None = None
        self._answers: list[ReasonCode] = []  # to the connection and to the subscription
        self._unconfirmed: deque[tuple[MQTTMessageInfo, float]] = deque()
        self._received: deque[Received] = deque(maxlen=_MAX_RECEIVED)

    def open(self, deadline: float) -> bool:
        """Connect and subscribe, if there is no connection. Return True if this one is new. Raises MqttError."""
        if self._client is not None:
            return False
        self._received.clear()
        self._unconfirmed.clear()
        node = next(self._nodes)
        try:
            self._client = client = self._new_client(node)
            client.connect_timeout = max(_MIN_TIMEOUT_S, deadline - self._clock())
            client.connect(*server_url.address(node)[1:], keepalive=self._keep_alive_s)
        except _PAHO_ERRORS as error:
            raise self._fail(f"cannot be reached ({error})") from error
        self._await_answer(deadline)
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
            self._await_answer(deadline)
        return True

    def publish(self, publication: Publication) -> None:
        """Send a message. `receive` and later calls see whether it is confirmed. Raises MqttError."""
        if self._client is None:
            raise MqttError("there is no connection to the MQTT broker")
        message = publication
        try:
            info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        except _PAHO_ERRORS as error:
            raise self._fail(f"cannot be reached ({error})") from error
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._fail(f"takes no message ({error_string(info.rc)})")
        self._unconfirmed.append((info, self._clock()))

    def receive(self, deadline: float) -> Received | None:
        """Return the next message, or None at the deadline. Sends signs of life. Raises MqttError."""
        while not self._received:
            remaining_s = deadline - self._clock()
            self._step(max(0.0, remaining_s))
            if remaining_s <= 0 and not self._received:
                return None
        return self._received.popleft()

    def close(self, last: Publication | None = None, timeout_s: float = 1.0) -> None:
        """End the connection with a farewell, after a last message. If that is not confirmed, without a farewell."""
        if self._client is None:
            return
        deadline = self._clock() + timeout_s
        try:
            if last is not None:
                self.publish(last)
            while self._unconfirmed and self._clock() < deadline:
                self._step(deadline - self._clock())
            if not self._unconfirmed:
                self._client.disconnect()
        except (MqttError, *_PAHO_ERRORS):
            pass
        self._drop()

    @property
    def is_open(self) -> bool:
        """True if there was a connection at the last call."""
        return self._client is not None

    def _new_client(self, node: str) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            clean_session=True,
            protocol=MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_queued_messages_set(_MAX_UNCONFIRMED)
        if self._will is not None:
            will = self._will()
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        if server_url.user(node) is not None:
            client.username_pw_set(server_url.user(node), server_url.password(node))
        if self._encrypted[node] and self._context is not None:
            client.tls_set_context(self._context)
        self._answers = answers = []
        received = self._received

        def on_socket_open(_client: Client, _data: Any, stream: Any) -> None:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an act waits for a delayed ACK, 40 ms

        def on_connect(_client: Client, _data: Any, _flags: Any, answer: ReasonCode, _properties: Any) -> None:
            answers.append(answer)

        def on_subscribe(_client: Client, _data: Any, _id: int, granted: list[ReasonCode], _properties: Any) -> None:
            failures = [answer for answer in granted if answer.is_failure]
            answers.append((failures or granted)[0])

        def on_message(_client: Client, _data: Any, message: MQTTMessage) -> None:
            received.append(Received(message.topic, bytes(message.payload), message.retain))

        client.on_socket_open = on_socket_open
        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        return client

    def _await_answer(self, deadline: float) -> None:
        while not self._answers:
            remaining_s = deadline - self._clock()
            if remaining_s <= 0:
                raise self._fail("has not answered in time")
            self._step(remaining_s)
        answer = self._answers.pop(0)
        if answer.is_failure:
            raise self._fail(f"refuses ({answer})")

    def _step(self, timeout_s: float) -> None:
        """Send and receive what can be, and wait for it no longer than that. Raises MqttError."""
        if self._client is None:
            raise MqttError("there is no connection to the MQTT broker")
        try:
            code = _transfer(self._client, min(timeout_s, self._keep_alive_s / 4))
        except _PAHO_ERRORS as error:
            raise self._fail(f"sends what is not MQTT, or is lost ({error})") from error
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            refusals = [str(answer) for answer in self._answers if answer.is_failure]
            raise self._fail(f"refuses ({refusals[0]})" if refusals else f"is lost ({error_string(code)})")
        while self._unconfirmed and self._unconfirmed[0][0].is_published():
            self._unconfirmed.popleft()
        if self._unconfirmed and self._clock() - self._unconfirmed[0][1] > self._keep_alive_s:
            raise self._fail(f"has confirmed no message for {self._keep_alive_s} s")

    def _fail(self, reason: str) -> MqttError:
        self._drop()
        return MqttError(f"the MQTT broker {reason}")

    def _drop(self) -> None:
        client, self._client = self._client, None
        stream = client.socket() if client is not None else None
        if stream is not None:
            stream.close()
        self._unconfirmed.clear()


def _transfer(client: Client, timeout_s: float) -> MQTTErrorCode:
    stream: Any = client.socket()
    if stream is None:
        return MQTTErrorCode.MQTT_ERR_NO_CONN
    decrypted = hasattr(stream, "pending") and stream.pending() > 0  # bytes that select does not see
    writers = [stream] if client.want_write() else []
    readable, writable, _ = select.select([stream], writers, [], 0.0 if decrypted else timeout_s)
    code = client.loop_read() if readable or decrypted else MQTTErrorCode.MQTT_ERR_SUCCESS
    if code is MQTTErrorCode.MQTT_ERR_SUCCESS and writable:
        code = client.loop_write()
    return client.loop_misc() if code is MQTTErrorCode.MQTT_ERR_SUCCESS else code
