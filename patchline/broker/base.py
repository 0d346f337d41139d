"""The interface of a message broker: publish, consume, acknowledge, requeue. It knows nothing of images or RabbitMQ."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from patchline.protocol.topology import Topology

PREVIOUS_ATTEMPTS = "x-patchline-tried"  # header: attempts before the message was published to its current queue


class BrokerError(Exception):
    """The broker failed; the text says what to do."""


class NotConfirmed(BrokerError):
    """The message may or may not have arrived. Publish it again with the same id, or requeue its job."""


class Unanswered(NotConfirmed):
    """The message was sent, and its confirmation may still come. Wait again rather than publish a second copy."""

    def __init__(self, confirmation: Future[None], timeout_s: float) -> None:
        """Keep the confirmation and how long it was waited for."""
        super().__init__(f"the broker did not confirm within {timeout_s:g} s")
        self._confirmation, self._timeout_s = confirmation, timeout_s

    def wait(self) -> None:
        """Wait for the confirmation, as long as before. Raise NotConfirmed as `Broker.publish` does."""
        wait_for_confirmation(self._confirmation, self._timeout_s)


class Refused(NotConfirmed):
    """The broker sent a negative acknowledgement, because a queue is full. Wait, then publish again."""


class Unroutable(NotConfirmed):
    """No queue is bound for the routing key. The topology is missing or differs."""


class TooLarge(NotConfirmed):
    """The broker takes no message of this size. Do not publish it again."""


class TopologyMismatch(BrokerError):
    """A queue or exchange is missing, or exists with other arguments."""


class AlreadySettled(Exception):
    """A delivery was settled twice: a programming error."""


@dataclass(frozen=True, slots=True)
class Message:
    """A body and its AMQP properties. Every message is persistent."""

    body: bytes = field(repr=False)
    message_id: str | None = None
    type: str | None = None
    content_type: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    app_id: str | None = "patchline"
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and its destination. If `mandatory`, it must reach at least one queue."""

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = True


def require_bytes(outgoing: Sequence[Outgoing]) -> None:
    """Raise TypeError if a body is not bytes: the caller learns it here, and no I/O thread ends by it."""
    for item in outgoing:
        if not isinstance(item.message.body, bytes):
            raise TypeError(f"the body of a message is of type {type(item.message.body).__name__}; it must be bytes")


def previous_attempts(headers: Mapping[str, object]) -> int:
    """Return the attempts in other queues, from the header `PREVIOUS_ATTEMPTS`; 0 if it is missing or invalid."""
    count = headers.get(PREVIOUS_ATTEMPTS)
    return count if isinstance(count, int) and count >= 0 else 0


class Settlement(Enum):
    """How a delivery ends."""

    ACK = "ack"
    REQUEUE = "requeue"


class Delivery:
    """A message that must be settled exactly once. It was published to `exchange` with `routing_key`.

    `attempt` starts at 1 and counts the deliveries from all queues. When the channel closes, the delivery becomes
    stale: the broker delivers the message again, and settling the stale delivery has no effect.
    """

    def __init__(
        self,
        message: Message,
        routing_key: str,
        attempt: int,
        settle: Callable[[Settlement], None],
        is_stale: Callable[[], bool],
        exchange: str = "",
    ) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.attempt = attempt
        self._settle = settle
        self._is_stale = is_stale
        self._lock = threading.Lock()
        self._settled = False
        self._withdrawn = False

    @property
    def redelivered(self) -> bool:
        """The current queue has delivered the message before."""
        return self.attempt > 1 + previous_attempts(self.message.headers)

    @property
    def stale(self) -> bool:
        """The channel is closed, and the broker has taken the message back; or the delivery was withdrawn."""
        return self._withdrawn or self._is_stale()

    def ack(self) -> None:
        """Acknowledge: the broker deletes the message."""
        self._settle_once(Settlement.ACK)

    def requeue(self) -> None:
        """Return the message to its queue, to be delivered with one more attempt."""
        self._settle_once(Settlement.REQUEUE)

    def withdraw(self) -> Delivery | None:
        """Take the message away from the thread that holds this delivery, which becomes stale.

        Returns:
            A delivery to settle instead. None if this one is settled.
        """
        with self._lock:
            if self._settled or self._withdrawn:
                return None
            self._withdrawn = True
        return Delivery(self.message, self.routing_key, self.attempt, self._settle, self._is_stale, self.exchange)

    def _settle_once(self, settlement: Settlement) -> None:
        with self._lock:
            if self._withdrawn:
                return
            if self._settled:
                message_id = self.message.message_id
                raise AlreadySettled(f"{settlement.value} of message {message_id}, which is already settled")
            self._settled = True
        self._settle(settlement)


class Consumer(Protocol):
    """Deliveries of queues. Several threads may take from it."""

    @property
    def subscribed(self) -> bool:
        """The broker delivers to this consumer now. If it does not, the consumer subscribes again by itself."""
        ...

    def take(self, timeout_s: float) -> Delivery | None:
        """Return the next delivery, or None if there is none within the timeout."""
        ...

    def flush(self) -> None:
        """Wait until the broker has processed all earlier settlements. Give up after a few seconds."""
        ...

    def begin_flush(self) -> Callable[[], None]:
        """Begin a flush. Call what is returned to wait for its end; the few seconds have begun."""
        ...

    def stop(self) -> None:
        """Stop consuming. Deliveries that have arrived can still be taken. Give up waiting after a few seconds."""
        ...

    def begin_stop(self) -> Callable[[], None]:
        """Begin to stop. Call what is returned to wait for its end; the few seconds have begun."""
        ...

    def cancel(self) -> None:
        """Stop consuming. Deliveries that nobody has taken are requeued."""
        ...


class QueueConsumer(Consumer, Protocol):
    """The deliveries of one queue."""

    @property
    def gaps(self) -> int:
        """How often the queue was missing or its subscription was ended, so that messages may have been lost.

        `take` counts a gap after it has returned everything from before, and before anything from after.
        """
        ...

    @property
    def occupied(self) -> bool:
        """Another consumer has the exclusive queue. This one gets nothing until that one has ended."""
        ...


class Broker(Protocol):
    """A connection to a broker. Thread-safe."""

    @property
    def connected(self) -> bool:
        """Messages can be published now."""
        ...

    def declare(self, topology: Topology, *, passive: bool = False) -> None:
        """Create exchanges, queues and bindings. If `passive`, only check that they exist.

        Raises:
            TopologyMismatch: one is missing, exists with other arguments, or may not be created by this user.
        """
        ...

    @property
    def topology_doubts(self) -> int:
        """How often exchanges or queues may have gone: after a connection, or when one was missing."""
        ...

    def watch(self, topology: Topology, *, passive: bool = False) -> None:
        """Look every few seconds whether exchanges and queues exist, and count a doubt if one is missing.

        Unless `passive`, make their bindings again.
        """
        ...

    def publish_nowait(self, outgoing: Sequence[Outgoing]) -> Future[None]:
        """Publish messages in order, without waiting for their confirmation.

        Returns:
            A future that completes when the broker has confirmed all messages, or when it is certain that it will not:
            the error is one of those that `publish_all` raises. While the future is running, the messages may still
            arrive, so do not publish them again. `cancel` succeeds as long as they have not been sent; they are then
            forgotten and never arrive.

        Raises:
            BrokerError: the broker is closed.
            TypeError: a body is not bytes.
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
        """Publish one message and wait for its confirmation. See `publish_all`."""
        ...

    def publish_all(self, outgoing: Sequence[Outgoing], timeout_s: float | None = None) -> None:
        """Publish messages in order, and wait until the broker has confirmed all of them.

        Args:
            outgoing: the messages.
            timeout_s: for all confirmations together, including a reconnection.

        Raises:
            NotConfirmed: at least one message was not confirmed; the others may have arrived. `Unroutable`, `Refused`
                and `TooLarge` say more.
        """
        ...

    def consume(
        self, queue: str, prefetch: int, on_arrival: Callable[[], object] = lambda: None, *, exclusive: bool = False
    ) -> QueueConsumer:
        """Consume a queue. The broker delivers at most `prefetch` unsettled messages at a time.

        `on_arrival` is called after each delivery has arrived. It must not block. Of several `exclusive` consumers of a
        queue one gets messages. The others wait for its end.
        """
        ...

    def listen(self, exchange: str, pattern: str, on_message: Callable[[Message], object]) -> None:
        """Hear what is published to an exchange, from about now on, and as long as the broker is connected.

        Nothing is kept: what is published without a connection is never heard, and no error says so. `on_message` is
        called on another thread and must not block.
        """
        ...

    def close(self) -> None:
        """Send the pending settlements, then disconnect. Unsettled deliveries return to their queues."""
        ...


def wait_for_confirmation(confirmation: Future[None], timeout_s: float) -> None:
    """Wait for the result of `publish_nowait`. Give up after a timeout; messages that were not sent never will be.

    Raises:
        Unanswered: the message was sent.
        NotConfirmed: it was not; or see `Broker.publish_all`.
    """
    try:
        confirmation.result(timeout_s)
    except FutureTimeout:
        if confirmation.cancel():
            raise NotConfirmed(f"the broker did not take the message within {timeout_s:g} s") from None
        raise Unanswered(confirmation, timeout_s) from None
