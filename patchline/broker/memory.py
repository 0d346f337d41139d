"""The same contract in one process: for tests and dry runs. Nothing survives the object."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    tried,
)
from patchline.protocol.topology import Queue, Topology


@dataclass(eq=False)
class _Held:
    """A message in a queue, and how often it has been delivered."""

    message: Message
    routing_key: str
    deliveries: int = 0


@dataclass(eq=False)
class _Store:
    """A queue with its messages."""

    declared: Queue
    ready: deque[_Held] = field(default_factory=deque)

    @property
    def full(self) -> bool:
        limit = self.declared.arguments.get("x-max-length")
        return isinstance(limit, int) and len(self.ready) >= limit

    def add(self, held: _Held) -> None:
        if self.full and self.declared.arguments.get("x-overflow") == "drop-head":
            self.ready.popleft()
        self.ready.append(held)


class MemoryBroker:
    """Implements `patchline.broker.base.Broker`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._exchanges: set[str] = set()
        self._stores: dict[str, _Store] = {}
        self._consumers: list[_MemoryConsumer] = []
        self.connected = True

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """See `base.Broker`."""
        with self._changed:
            self._exchanges.update(topology.exchanges)
            for queue in topology.queues:
                if passive and queue.name not in self._stores:
                    raise TopologyMismatch(f"queue {queue.name} is missing")
                known = self._stores.setdefault(queue.name, _Store(queue)).declared
                if known.arguments != queue.arguments:
                    raise TopologyMismatch(f"queue {queue.name} exists with {known.arguments}, not {queue.arguments}")

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
        """See `base.Broker`. Answers at once, so `timeout_s` never passes."""
        with self._changed:
            if not self.connected:
                raise BrokerError("the memory broker is closed")
            for each in outgoing:
                self._send(each)
            self._changed.notify_all()

    def consume(self, queue_name: str, prefetch: int) -> _MemoryConsumer:
        """See `base.Broker`."""
        consumer = _MemoryConsumer(self._changed, self._stores[queue_name], prefetch, self._dead_letter)
        with self._changed:
            self._consumers.append(consumer)
        return consumer

    def close(self) -> None:
        """See `base.Broker`."""
        self.cut()
        self.connected = False

    def cut(self) -> None:
        """Lose the connection: every unsettled delivery becomes stale and its message goes back."""
        with self._changed:
            for consumer in self._consumers:
                consumer.lose_unsettled()
            self._changed.notify_all()

    def _send(self, what: Outgoing) -> None:
        bound = [s for s in self._stores.values() if _is_bound(s.declared, what.exchange, what.routing_key)]
        if what.mandatory and not bound:
            raise Unroutable(f"no queue for exchange {what.exchange}, routing key {what.routing_key}")
        refusing = [s for s in bound if s.full and s.declared.arguments.get("x-overflow") == "reject-publish"]
        if refusing:
            raise Refused(f"queue {refusing[0].declared.name} is full")
        for store in bound:
            store.add(_Held(what.message, what.routing_key))

    def _dead_letter(self, store: _Store, held: _Held) -> None:
        exchange = store.declared.arguments.get("x-dead-letter-exchange")
        for target in self._stores.values():
            if isinstance(exchange, str) and _is_bound(target.declared, exchange, held.routing_key):
                target.add(replace(held, deliveries=0))


_DeadLetter = Callable[[_Store, _Held], None]


class _MemoryConsumer:
    """Implements `patchline.broker.base.Consumer`."""

    def __init__(self, changed: threading.Condition, store: _Store, prefetch: int, dead_letter: _DeadLetter) -> None:
        self._changed = changed
        self._store = store
        self._prefetch = prefetch
        self._dead_letter = dead_letter
        self._unsettled: set[_Held] = set()
        self._cancelled = False

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`."""
        with self._changed:
            if not self._changed.wait_for(self._may_take, timeout_s):
                return None
            held = self._store.ready.popleft()
            held.deliveries += 1
            self._unsettled.add(held)
        settle = partial(self._settle, held)
        attempt = held.deliveries + tried(held.message.headers)
        return Delivery(held.message, held.routing_key, attempt, settle, lambda: held not in self._unsettled)

    def flush(self) -> None:
        """See `base.Consumer`. Settled is settled here."""

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self._cancelled = True

    def lose_unsettled(self) -> None:
        """Called with the lock held."""
        for held in self._unsettled:
            self._store.ready.appendleft(held)
        self._unsettled = set()

    def _may_take(self) -> bool:
        return bool(self._store.ready) and len(self._unsettled) < self._prefetch and not self._cancelled

    def _settle(self, held: _Held, settlement: Settlement) -> None:
        with self._changed:
            if held not in self._unsettled:
                return
            self._unsettled.remove(held)
            limit = self._store.declared.arguments.get("x-delivery-limit")
            exhausted = isinstance(limit, int) and held.deliveries > limit
            if settlement is Settlement.REQUEUE and not exhausted:
                self._store.ready.appendleft(held)
            elif settlement is not Settlement.ACK:
                self._dead_letter(self._store, held)
            self._changed.notify_all()


def _is_bound(queue: Queue, exchange: str, routing_key: str) -> bool:
    return any(name == exchange and _matches(pattern, routing_key) for name, pattern in queue.bindings)


def _matches(pattern: str, routing_key: str) -> bool:
    """AMQP 0-9-1 topic matching: `*` is one word, `#` any number of words."""
    words = {"*": r"[^.]+", "#": r".*"}
    expression = r"\.".join(words.get(word, re.escape(word)) for word in pattern.split("."))
    return re.fullmatch(expression.replace(r"\..*", r"(\..*)?"), routing_key) is not None
