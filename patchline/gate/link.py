"""What connects a gate with its line: its own queue, the lease queue, and a thread that sends pings and acts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, Consumer, Delivery, Message, Outgoing, TopologyMismatch
from patchline.protocol import topology
from patchline.protocol.errors import Unusable
from patchline.protocol.gate_messages import ACT_TYPE, PING_TYPE, Act, Ping, parse_ping
from patchline.runtime import connections

_log = structlog.get_logger(__name__)
_PREFETCH = 10_000  # unsettled deliveries, while the disk of the memory stalls or the arm does not acknowledge
_LEASE_PREFETCH = 20
_MAX_UNSENT = 10_000
_BATCH = 100
_DECLARE_RETRY_S = 2.0


class Link:
    """The deliveries of one gate, and its announcements to the others.

    It works from the start: what needs RabbitMQ waits until RabbitMQ is there.

    Args:
        broker: the connection.
        settings: the configuration.
        line: the line of the gate.
        instance: the name of the gate.
        ping: makes the next ping.
    """

    def __init__(
        self, broker: Broker, settings: config.Config, line: str, instance: str, ping: Callable[[], Ping]
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._line = line
        self._instance = instance
        self._ping = ping
        self._ping_interval_s = settings.gate.lease_ms / 4000
        self._unsent: deque[Act] = deque(maxlen=_MAX_UNSENT)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._declare_at: float | None = 0.0  # None: the queues are declared
        self._consumers: tuple[Consumer, Consumer] | None = None
        self._failure: TopologyMismatch | None = None
        self._queue_was_missing = threading.Event()
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self._consumers is not None and self._broker.connected:
            for consumer in self._consumers:
                consumer.cancel()

    @property
    def unsent(self) -> int:
        """Number of acts that the other gates have not been told."""
        return len(self._unsent)

    def take(self, timeout_s: float) -> Delivery | None:
        """Return the next delivery of the gate's queue, or None.

        Raises:
            TopologyMismatch: a queue is missing or has other arguments, found at the first contact with RabbitMQ.
        """
        if self._failure is not None:
            raise self._failure
        if self._consumers is None:
            time.sleep(timeout_s)
            return None
        return self._consumers[0].take(timeout_s)

    def take_lease_pings(self) -> list[Ping]:
        """Return the pings that have arrived from the lease queue."""
        pings: list[Ping] = []
        while self._consumers is not None and (delivery := self._consumers[1].take(0.0)) is not None:
            try:
                pings.append(parse_ping(delivery.message))
            except Unusable as error:
                _log.error("invalid message in the lease queue", reason=error.detail)
            delivery.ack()
        return pings

    def announce(self, act: Act) -> None:
        """Tell the other gates, without waiting. What RabbitMQ does not confirm is sent again."""
        self._unsent.append(act)
        self._wake.set()

    def declare_again(self) -> None:
        """Declare the queues again soon: nothing is heard, so they may have been deleted."""
        if self._declare_at is None:
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S

    def take_queue_loss(self) -> bool:
        """Return True once after the gate's queue was missing, before anything of the new one is taken."""
        if not self._queue_was_missing.is_set():
            return False
        self._queue_was_missing.clear()
        return True

    # Everything below runs on the link's thread.

    def _run(self) -> None:
        next_ping = 0.0
        while not self._stop.is_set():
            self._wake.wait(max(0.0, next_ping - time.monotonic()))
            self._wake.clear()
            self._declare_if_needed()
            ping = time.monotonic() >= next_ping
            if ping:
                next_ping = time.monotonic() + self._ping_interval_s
            self._send(ping)
        self._send(ping=False)

    def _declare_if_needed(self) -> None:
        if self._declare_at is None or time.monotonic() < self._declare_at or not self._broker.connected:
            return
        first = self._consumers is None
        try:
            if not self._exists(topology.gate_queue(self._line, self._instance)):
                self._queue_was_missing.set()
            connections.declare(self._broker, self._settings, topology.gate(self._line, [self._instance]))
        except TopologyMismatch as error:
            if first:
                self._failure = error
            self._log_once("queues of the gate cannot be used", error)
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S
        except BrokerError as error:
            self._log_once("queues not declared, retrying", error)
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S
        else:
            self._declare_at = None
            if first:
                self._consume()

    def _consume(self) -> None:
        own = self._broker.consume(topology.gate_queue(self._line, self._instance), _PREFETCH)
        self._consumers = (own, self._broker.consume(topology.lease_queue(self._line), _LEASE_PREFETCH))
        shared = topology.shared_gate_queue(self._line)
        with contextlib.suppress(BrokerError):
            if self._exists(shared):
                advice = f"rabbitmqctl delete_queue {shared}"
                _log.warning("the queue of an earlier build still exists", remove_it_with=advice)

    def _exists(self, queue: str) -> bool:
        try:
            self._broker.declare(topology.Topology((), (topology.Queue(queue, ()),)), passive=True)
        except TopologyMismatch:
            return False
        return True

    def _send(self, ping: bool) -> None:
        if not self._broker.connected or self._consumers is None:
            return
        acts = list(self._unsent)[:_BATCH]
        outgoing = [Outgoing(topology.ACTS, self._line, _act_message(act), mandatory=False) for act in acts]
        if ping:
            message = Message(self._ping().to_json(), None, PING_TYPE, "application/json")
            outgoing.append(Outgoing(topology.LEASE, self._line, message, mandatory=False))
        if not outgoing:
            return
        try:
            self._broker.publish_all(outgoing, timeout_s=2 * self._ping_interval_s)
        except BrokerError as error:
            self._log_once("pings or acts not confirmed, retrying", error)
            return
        self._last_error = ""
        for _ in acts:
            self._unsent.popleft()
        if self._unsent:
            self._wake.set()

    def _log_once(self, event: str, error: Exception) -> None:
        if str(error) != self._last_error:
            _log.warning(event, line=self._line, reason=str(error))
        self._last_error = str(error)


def _act_message(act: Act) -> Message:
    return Message(act.to_json(), act.job_id, ACT_TYPE, "application/json")
