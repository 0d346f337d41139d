"""How messages move: publish, consume, ack, reject, requeue. Knows no images and no broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from patchline.protocol.topology import Topology

TRIED = "x-patchline-tried"  # header: how often a message was tried before it came to its queue


class BrokerError(Exception):
    """The broker did not do what it was asked; the text says what to do."""


class NotConfirmed(BrokerError):
    """The message may or may not have arrived: send it again with the same id, or give its job back."""


class Refused(NotConfirmed):
    """The broker said no (a queue is full): the message is not there. Wait, then send it again."""


class Unroutable(NotConfirmed):
    """No queue takes this routing key: the message is not there. The topology is missing or other than expected."""


class TopologyMismatch(BrokerError):
    """A queue or exchange exists with other arguments than ours."""


class AlreadySettled(Exception):
    """A delivery was settled twice: a fault of the program, never of the network."""


@dataclass(frozen=True, slots=True)
class Message:
    """A body and the properties that travel with it. Every message is persistent."""

    body: bytes = field(repr=False)
    message_id: str | None = None
    type: str | None = None
    content_type: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    app_id: str | None = "patchline"
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes: to an exchange, with words joined by dots as its routing key.

    `mandatory`: it must reach at least one queue.
    """

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = True


def tried(headers: Mapping[str, object]) -> int:
    """How often a message was tried in another queue, by its `TRIED` header; 0 where that is no count."""
    count = headers.get(TRIED)
    return count if isinstance(count, int) and count >= 0 else 0


class Settlement(Enum):
    """What becomes of a delivery."""

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


class Delivery:
    """A message in our hands, until it is settled exactly once.

    `attempt` counts from 1, over all queues that the message was in. A delivery whose channel is gone is stale: the
    broker delivers the message again by itself, and settling the old one does nothing.
    """

    def __init__(
        self,
        message: Message,
        routing_key: str,
        attempt: int,
        settle: Callable[[Settlement], None],
        is_stale: Callable[[], bool],
    ) -> None:
        self.message = message
        self.routing_key = routing_key
        self.attempt = attempt
        self._settle = settle
        self._is_stale = is_stale
        self._once = threading.Lock()

    @property
    def again(self) -> bool:
        """It was delivered from this queue before, and not settled."""
        return self.attempt > 1 + tried(self.message.headers)

    @property
    def stale(self) -> bool:
        """The broker has taken the message back."""
        return self._is_stale()

    def ack(self) -> None:
        """It is done with: forget the message."""
        self._settle_once(Settlement.ACK)

    def reject(self) -> None:
        """It can never be done: the broker dead-letters the message."""
        self._settle_once(Settlement.REJECT)

    def requeue(self) -> None:
        """Somebody else, or later: the message goes back to its queue with one attempt more."""
        self._settle_once(Settlement.REQUEUE)

    def _settle_once(self, settlement: Settlement) -> None:
        if not self._once.acquire(blocking=False):
            raise AlreadySettled(f"{settlement.value} of message {self.message.message_id}, which is settled")
        self._settle(settlement)


class Consumer(Protocol):
    """Deliveries of one queue; several threads may take from it."""

    def take(self, timeout_s: float) -> Delivery | None:
        """The next delivery, or None when there was none in time."""
        ...

    def flush(self) -> None:
        """Return when the broker has all settlements that were handed over before; after seconds where it is away."""
        ...

    def cancel(self) -> None:
        """Want no more. What was delivered and not taken goes back to the queue."""
        ...


class Broker(Protocol):
    """A connection to a broker, safe to use from any thread."""

    @property
    def connected(self) -> bool:
        """It can publish at this moment."""
        ...

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """Make exchanges, queues and bindings; only see that they are there where `passive`.

        Raises:
            TopologyMismatch: one exists with other arguments, is missing, or may not be made by this user.
        """
        ...

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Send one message, as `publish_all` does."""
        ...

    def publish_all(self, outgoing: Sequence[Outgoing], timeout_s: float | None = None) -> None:
        """Send messages in their order, and return when the broker has confirmed all of them.

        Args:
            outgoing: the messages. Some may have arrived where this raises.
            timeout_s: how long to wait for the confirmations, the way back to a lost broker included.

        Raises:
            Unroutable, Refused, NotConfirmed: see there.
        """
        ...

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Subscribe, with at most `prefetch` deliveries of this consumer unsettled at any time."""
        ...

    def close(self) -> None:
        """Send what is settled, then go. Unsettled deliveries go back to their queues."""
        ...
