"""What connects a gate with its line: its own queue, the lease queue, and a thread that sends to the other gates."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, Delivery, QueueConsumer, TopologyMismatch
from patchline.gate.outbox import Kept, Outbox, to_gates
from patchline.protocol import topology
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.gate_messages import Act, Ping, SyncRequest, parse_ping
from patchline.runtime import connections
from patchline.runtime.queue_keeper import QueueMetrics

_log = structlog.get_logger(__name__)
_PREFETCH = 10_000  # unsettled deliveries, while the disk of the memory stalls or the arm does not acknowledge
_LEASE_PREFETCH = 20
_DECLARE_RETRY_S = 2.0
_MOST_ACT_S = 2.0  # a gate that waits longer for its arm leaves the lease to another one
_NOT_CONFIRMED = "pings not confirmed, retrying"
_NOT_DECLARED = "queues not declared, retrying"
_LOST_HEARTBEATS = 3
_NAMESAKE = "another gate of this line has the same name, waiting for its end"
_UNUSABLE = "queues of the gate cannot be used"


class Link:
    """The deliveries of one gate, and its announcements to the others.

    It works from the start: what needs RabbitMQ waits until RabbitMQ is there. If `take` is not called for a lease and
    the time of an act, this gate is stuck: it pings no longer, and leaves the lease to another one.

    Args:
        broker: the connection.
        settings: the configuration.
        line: the line of the gate.
        instance: the name of the gate.
        ping: makes the next ping.
        metrics: the metrics of missing queues.
    """

    def __init__(
        self,
        broker: Broker,
        settings: config.Config,
        line: str,
        instance: str,
        ping: Callable[[], Ping],
        metrics: QueueMetrics,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._line = line
        self._instance = instance
        self._ping = ping
        self._metrics = metrics
        self._ping_interval_s = settings.gate.lease_ms / 4000
        act_s = min(settings.gate.act_timeout_ms / 1000, _MOST_ACT_S)
        self._stuck_after_s = settings.gate.lease_ms / 1000 + act_s
        self._taken_at, self._stuck = time.monotonic(), False
        self._wake = threading.Event()
        self._outbox = Outbox(broker, line, self._wake.set)
        self._stop = threading.Event()
        self._queues = topology.gate(line, [instance])
        self._declare_at: float | None = 0.0  # None: the queues are declared
        self._doubts, self._declared_at = -1, 0.0  # at the last declaration
        self._own: QueueConsumer | None = None
        self._lease: QueueConsumer | None = None
        self._wants_lease = True
        self._occupied_since: float | None = None  # another process consumes the gate's queue
        self._name_taken = False
        self._gaps = self._lease_gaps = 0
        self._must_ask = threading.Event()
        self._failure: TopologyMismatch | None = None
        self._queue_was_missing = threading.Event()
        self._must_count = False  # the queue was missing; its declaration may fail although RabbitMQ has made it
        self._last_errors: dict[str, str] = {}  # by event
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join()
        for consumer in (self._own, self._lease):
            if consumer is not None and self._broker.connected:
                consumer.cancel()

    @property
    def unsent(self) -> int:
        """Number of acts and snapshots that the other gates have not been told."""
        return len(self._outbox)

    @property
    def name_taken(self) -> bool:
        """True if another gate of the line has this gate's name, and its queue."""
        return self._name_taken

    def take(self, timeout_s: float) -> Delivery | None:
        """Return the next delivery of the gate's queue, or None.

        Raises:
            TopologyMismatch: a queue is missing or has other arguments, found at the first contact with RabbitMQ.
        """
        self._taken_at = time.monotonic()
        if self._failure is not None:
            raise self._failure
        if self._own is None:
            time.sleep(timeout_s)
            return None
        return self._own.take(timeout_s)

    def take_lease_pings(self) -> list[Ping]:
        """Return the pings that have arrived from the lease queue."""
        pings: list[Ping] = []
        lease = self._lease
        while lease is not None and (delivery := lease.take(0.0)) is not None:
            try:
                pings.append(parse_ping(delivery.message))
            except Unusable as error:
                _log.error("invalid message in the lease queue", reason=error.detail)
            delivery.ack()
        if lease is not None and lease.gaps != self._lease_gaps:
            self._lease_gaps = lease.gaps
            self._declare_now()
        return pings

    def announce(self, message: Kept) -> None:
        """Send without waiting. What RabbitMQ does not confirm is sent again."""
        self._outbox.add(message)

    def take_told(self) -> list[Act]:
        """Return the acts of which the other gates have been told since the last call."""
        return self._outbox.take_told()

    def ask(self) -> None:
        """Ask the other gates for a snapshot, once the gate's queue exists."""
        self._must_ask.set()
        self._wake.set()

    def hold_lease(self, wanted: bool) -> None:
        """Consume the lease queue, or leave it to the other gates."""
        self._wants_lease = wanted
        self._wake.set()

    def declare_again(self) -> None:
        """Declare the queues again soon: nothing is heard, so they may have been deleted."""
        if self._declare_at is None:
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S

    def take_queue_loss(self) -> bool:
        """Return True once after messages may have been lost, before anything later is taken.

        The queue was missing, or RabbitMQ has ended the subscription.
        """
        gaps = 0 if self._own is None else self._own.gaps
        lost = gaps > self._gaps
        if lost:
            self._gaps = gaps
            self._declare_now()
        if self._queue_was_missing.is_set():
            self._queue_was_missing.clear()
            lost = True
        return lost

    def _declare_now(self) -> None:
        self._declare_at = 0.0
        self._wake.set()

    # Everything below runs on the link's thread.

    def _run(self) -> None:
        next_ping = 0.0
        while not self._stop.is_set():
            self._wake.wait(max(0.0, next_ping - time.monotonic()))
            self._wake.clear()
            self._declare_if_needed()
            self._check_namesake()
            self._update_lease_consumer()
            ping = time.monotonic() >= next_ping
            if ping:
                next_ping = time.monotonic() + self._ping_interval_s
            self._outbox.flush(retry=ping)
            self._send(ping)
        self._outbox.close()

    def _declare_if_needed(self) -> None:
        doubts = self._broker.topology_doubts
        if self._declare_at is None and doubts != self._doubts:
            self._declare_at = self._declared_at + _DECLARE_RETRY_S
        if self._declare_at is None or time.monotonic() < self._declare_at or not self._broker.connected:
            return
        first = self._own is None
        try:
            if not self._exists(topology.gate_queue(self._line, self._instance)):
                self._queue_was_missing.set()
                self._must_count = not first
            connections.declare(self._broker, self._settings, self._queues)
        except TopologyMismatch as error:
            if first:
                self._failure = error
            self._metrics.missing()
            self._log_once(_UNUSABLE, error)
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S
        except (BrokerError, SetupError) as error:  # the file with the url may be missing for a while
            self._log_once(_NOT_DECLARED, error)
            self._declare_at = time.monotonic() + _DECLARE_RETRY_S
        else:
            self._declare_at, self._doubts, self._declared_at = None, doubts, time.monotonic()
            self._metrics.complete(made_again=self._must_count)
            self._must_count = False
            for event in (_UNUSABLE, _NOT_DECLARED):
                self._last_errors.pop(event, None)
            if first:
                self._consume()

    def _consume(self) -> None:
        self._outbox.open()
        self._broker.watch(self._queues, passive=not self._settings.broker.make_queues)
        self._own = self._broker.consume(topology.gate_queue(self._line, self._instance), _PREFETCH, exclusive=True)
        shared = topology.shared_gate_queue(self._line)
        with contextlib.suppress(BrokerError):
            if self._exists(shared):
                advice = f"rabbitmqctl delete_queue {shared}"
                _log.warning("the queue of an earlier build still exists", remove_it_with=advice)

    def _check_namesake(self) -> None:
        """Say that another gate has the same name. RabbitMQ needs some heartbeats to end a lost connection."""
        now = time.monotonic()
        if self._own is None or not self._own.occupied:
            self._occupied_since, self._name_taken = None, False
            self._last_errors.pop(_NAMESAKE, None)
            return
        self._occupied_since = self._occupied_since or now
        if now >= self._occupied_since + _LOST_HEARTBEATS * self._settings.gate.heartbeat_s:
            self._name_taken = True
            queue = topology.gate_queue(self._line, self._instance)
            advice = f"it consumes {queue}; give one of them another name with --instance"
            self._log_once(_NAMESAKE, SetupError(advice))

    def _update_lease_consumer(self) -> None:
        lease = self._lease
        wants_lease = self._wants_lease and not self._is_stuck() and self._own is not None and not self._own.occupied
        if wants_lease and lease is None:
            self._lease = self._broker.consume(topology.lease_queue(self._line), _LEASE_PREFETCH)
        elif not wants_lease and lease is not None:
            self._lease = None
            lease.cancel()

    def _is_stuck(self) -> bool:
        """Return True if the gate makes no steps, as in a write to a hanging disk. Say when that begins and ends."""
        stuck = time.monotonic() > self._taken_at + self._stuck_after_s
        if stuck is not self._stuck:
            self._stuck = stuck
            event = "the gate is stuck, another one may take over" if stuck else "the gate makes steps again"
            _log.warning(event, line=self._line, gate=self._instance)
        return stuck

    def _exists(self, queue: str) -> bool:
        try:
            self._broker.declare(topology.Topology((), (topology.Queue(queue, ()),)), passive=True)
        except TopologyMismatch:
            return False
        return True

    def _send(self, ping: bool) -> None:
        if not self._broker.connected or self._own is None or self._stuck:
            return
        outgoing = []
        asks = self._must_ask.is_set() and self._declare_at is None
        if ping or asks:  # the answer comes after the ping, which shows that the gate is current
            outgoing.append(to_gates(topology.LEASE, self._line, self._ping()))
        if asks:
            self._must_ask.clear()
            outgoing.append(to_gates(topology.ACTS, self._line, SyncRequest(gate=self._instance)))
        if not outgoing:
            return
        try:
            self._broker.publish_all(outgoing, timeout_s=2 * self._ping_interval_s)
        except BrokerError as error:
            if asks:
                self._must_ask.set()
            self._log_once(_NOT_CONFIRMED, error)
            return
        self._last_errors.pop(_NOT_CONFIRMED, None)

    def _log_once(self, event: str, error: Exception) -> None:
        if str(error) != self._last_errors.get(event):
            _log.warning(event, line=self._line, reason=str(error))
        self._last_errors[event] = str(error)
