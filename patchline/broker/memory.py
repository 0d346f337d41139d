"""A broker in memory, for tests. It keeps the contract of `base.Broker` within one process."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from patchline.broker.base import (
    BrokerError,
    Delivery,
    Message,
    Outgoing,
    Refused,
    Settlement,
    TopologyMismatch,
    Unroutable,
    previous_attempts,
    require_bytes,
    wait_for_confirmation,
)
from patchline.broker.confirms import too_large
from patchline.protocol.topology import Queue, Topology


@dataclass(eq=False)
class _QueuedMessage:
    message: Message
    routing_key: str
    exchange: str
    deliveries: int = 0


@dataclass(eq=False)
class _MemoryQueue:
    declared: Queue
    ready: deque[_QueuedMessage] = field(default_factory=deque)
    on_arrival: list[Callable[[], object]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        limits = self.declared.arguments
        max_length, max_bytes = limits.get("x-max-length"), limits.get("x-max-length-bytes")
        if isinstance(max_length, int) and len(self.ready) >= max_length:
            return True
        return isinstance(max_bytes, int) and sum(len(queued.message.body) for queued in self.ready) >= max_bytes

    def add(self, queued: _QueuedMessage) -> None:
        if self.full and self.declared.arguments.get("x-overflow") == "drop-head":
            self.ready.popleft()
        self.ready.append(queued)
        self._notify()

    def add_again(self, queued: _QueuedMessage) -> None:
        """Add a message that was delivered before, in front of the others."""
        self.ready.appendleft(queued)
        self._notify()

    def _notify(self) -> None:
        for notify in self.on_arrival:
            notify()


class MemoryBroker:
    """Implements `patchline.broker.base.Broker`. `max_message_size` limits the bodies, as RabbitMQ does."""

    def __init__(self, max_message_size: int | None = None) -> None:
        self._max_message_size = max_message_size
        self._changed = threading.Condition()
        self._queues: dict[str, _MemoryQueue] = {}
        self._consumers: list[_MemoryConsumer] = []
        self._listeners: list[tuple[Queue, Callable[[Message], object]]] = []
        self.connected = True
        self.topology_doubts = 0

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`."""
        with self._changed:
            for queue in topology.queues:
                if passive and queue.name not in self._queues:
                    raise TopologyMismatch(f"queue {queue.name} is missing")
                declared = self._queues.setdefault(queue.name, _MemoryQueue(queue)).declared
                if declared.arguments != queue.arguments:
                    raise TopologyMismatch(
                        f"queue {queue.name} exists with {declared.arguments}, not {queue.arguments}"
                    )

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
        """See `base.Broker`. It never waits, so `timeout_s` has no effect."""
        wait_for_confirmation(self.publish_nowait(outgoing), 0.0)

    def publish_nowait(self, outgoing: Sequence[Outgoing]) -> Future[None]:
        """See `base.Broker`. The future is complete."""
        require_bytes(outgoing)
        confirmation: Future[None] = Future()
        with self._changed:
            if not self.connected:
                raise BrokerError("the memory broker is closed")
            try:
                for item in outgoing:
                    self._route(item)
                confirmation.set_result(None)
            except BrokerError as error:
                confirmation.set_exception(error)
            self._changed.notify_all()
        return confirmation

    def consume(
        self, queue: str, prefetch: int, on_arrival: Callable[[], object] = lambda: None, *, exclusive: bool = False
    ) -> _MemoryConsumer:
        """See `base.Broker`. All consumers of an exclusive queue get messages."""
        consumer = _MemoryConsumer(self._changed, self._queues[queue], prefetch)
        self._queues[queue].on_arrival.append(on_arrival)
        with self._changed:
            self._consumers.append(consumer)
        return consumer

    def watch(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`. Queues are never deleted here."""

    def listen(self, exchange: str, pattern: str, on_message: Callable[[Message], object]) -> None:
        """See `base.Broker`. `on_message` is called by the thread that publishes."""
        self._listeners.append((Queue("", ((exchange, pattern),)), on_message))

    def close(self) -> None:
        """See `base.Broker`."""
        self.cut()
        self.connected = False

    def cut(self) -> None:
        """Simulate a lost connection: unsettled deliveries become stale, and their messages are requeued."""
        with self._changed:
            for consumer in self._consumers:
                consumer.requeue_unsettled()
            self._changed.notify_all()

    def _route(self, outgoing: Outgoing) -> None:
        exchange, routing_key, size = outgoing.exchange, outgoing.routing_key, len(outgoing.message.body)
        if self._max_message_size is not None and size > self._max_message_size:
            raise too_large(size, self._max_message_size)
        queues = [queue for queue in self._queues.values() if _is_bound(queue.declared, exchange, routing_key)]
        hearing = [hear for bound, hear in self._listeners if _is_bound(bound, exchange, routing_key)]
        if outgoing.mandatory and not queues and not hearing:
            raise Unroutable(f"no queue for exchange {exchange}, routing key {routing_key}")
        for queue in queues:
            if queue.full and queue.declared.arguments.get("x-overflow") == "reject-publish":
                raise Refused(f"queue {queue.declared.name} is full")
        for queue in queues:
            queue.add(_QueuedMessage(outgoing.message, routing_key, exchange))
        for hear in hearing:
            hear(outgoing.message)


class _MemoryConsumer:
    """Implements `patchline.broker.base.QueueConsumer`."""

    def __init__(self, changed: threading.Condition, queue: _MemoryQueue, prefetch: int) -> None:
        self._changed = changed
        self._queue = queue
        self._prefetch = prefetch
        self._unsettled: set[_QueuedMessage] = set()
        self._stopped = False
        self._arrived = 0  # deliveries that can still be taken after `stop`

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`."""
        with self._changed:
            if not self._changed.wait_for(self._can_take, timeout_s):
                return None
            self._arrived -= self._stopped
            queued = self._queue.ready.popleft()
            queued.deliveries += 1
            self._unsettled.add(queued)
        settle = partial(self._settle, queued)
        attempt = queued.deliveries + previous_attempts(queued.message.headers)
        is_stale = lambda: queued not in self._unsettled  # noqa: E731
        return Delivery(queued.message, queued.routing_key, attempt, settle, is_stale, queued.exchange)

    def flush(self) -> None:
        """See `base.Consumer`. Settlements take effect immediately here."""

    def begin_flush(self) -> Callable[[], None]:
        """See `base.Consumer`."""
        return self.flush

    @property
    def subscribed(self) -> bool:
        """See `base.Consumer`."""
        return not self._stopped

    @property
    def gaps(self) -> int:
        """See `base.QueueConsumer`. Queues are never deleted here."""
        return 0

    @property
    def occupied(self) -> bool:
        """See `base.QueueConsumer`."""
        return False

    def stop(self) -> None:
        """See `base.Consumer`."""
        with self._changed:
            self._arrived = min(len(self._queue.ready), self._prefetch - len(self._unsettled))
            self._stopped = True

    def begin_stop(self) -> Callable[[], None]:
        """See `base.Consumer`. There is nothing to wait for."""
        self.stop()
        return lambda: None

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self.stop()
        self._arrived = 0

    def requeue_unsettled(self) -> None:
        """Requeue the unsettled messages. The caller holds the lock."""
        for queued in self._unsettled:
            self._queue.add_again(queued)
        self._unsettled = set()

    def _can_take(self) -> bool:
        if not self._queue.ready or (self._stopped and not self._arrived):
            return False
        return len(self._unsettled) < self._prefetch

    def _settle(self, queued: _QueuedMessage, settlement: Settlement) -> None:
        with self._changed:
            if queued not in self._unsettled:
                return
            self._unsettled.remove(queued)
            if settlement is Settlement.REQUEUE:
                self._queue.add_again(queued)
            self._changed.notify_all()


def _is_bound(queue: Queue, exchange: str, routing_key: str) -> bool:
    return any(name == exchange and _matches(pattern, routing_key) for name, pattern in queue.bindings)


def _matches(pattern: str, routing_key: str) -> bool:
    """Match a topic pattern as in AMQP 0-9-1: `*` is one word, `#` is zero or more words."""
    words = {"*": r"[^.]+", "#": r".*"}
    expression = r"\.".join(words.get(word, re.escape(word)) for word in pattern.split("."))
    return re.fullmatch(expression.replace(r"\..*", r"(\..*)?"), routing_key) is not None
