"""RabbitMQ's publisher confirms: matches acknowledgements and returned messages with what was published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from patchline.broker.base import BrokerError, NotConfirmed, Outgoing, Refused, TooLarge, Unroutable

Destination = tuple[str, str]  # exchange, routing key


@dataclass(eq=False)
class Publication:
    """Messages that are published together. The result of `confirmation` is None or a BrokerError."""

    outgoing: Sequence[Outgoing]
    confirmation: Future[None] = field(default_factory=Future)
    _unconfirmed: int = 0
    _error: BrokerError | None = None

    def start(self) -> Sequence[Outgoing]:
        """Return the messages to send, and keep them no longer. Return none if the publication was cancelled."""
        outgoing, self.outgoing = self.outgoing, ()
        self._unconfirmed = len(outgoing)
        return outgoing if self.confirmation.set_running_or_notify_cancel() else ()

    def complete_one(self, error: BrokerError | None) -> None:
        """Record the result of one message. The last one completes the future."""
        self._unconfirmed -= 1
        if self._error is None or isinstance(error, TooLarge):
            self._error = error
        if self._unconfirmed == 0:
            self._complete()

    def fail(self, error: BrokerError) -> None:
        """Complete a publication of which nothing was sent."""
        if self.start():
            self._error = error
            self._complete()

    def _complete(self) -> None:
        if self._error is None:
            self.confirmation.set_result(None)
        else:
            self.confirmation.set_exception(self._error)


@dataclass(eq=False)
class _Unconfirmed:
    """One message on its way. The body is not kept: it may be large, and the connection has it."""

    publication: Publication
    key: tuple[str, str, str | None]  # exchange, routing key, message id
    size: int
    sent_at: float
    return_reason: str | None = None

    def error(self, ack: bool) -> BrokerError | None:
        """Return the error that the broker's answer stands for."""
        destination = f"exchange {self.key[0]}, routing key {self.key[1]}"
        if self.return_reason is not None:
            advice = "declare the queues with: patchline topology"
            return Unroutable(f"no queue for {destination} ({self.return_reason}); {advice}")
        return None if ack else Refused(f"a queue of {destination} is full or has no leader")


class PublisherConfirms:
    """The unconfirmed messages of one channel, by delivery tag. Used by one thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_tag = 0
        self._unconfirmed: dict[int, _Unconfirmed] = {}

    @property
    def is_empty(self) -> bool:
        """No message is unconfirmed."""
        return not self._unconfirmed

    def waiting_since(self) -> float | None:
        """Return when the oldest unconfirmed message was sent, on the clock; None if every message is confirmed."""
        oldest = next(iter(self._unconfirmed.values()), None)
        return None if oldest is None else oldest.sent_at

    def add(self, publication: Publication, outgoing: Outgoing) -> None:
        """Register the next message that is published on the channel. Delivery tags count from 1."""
        self._last_tag += 1
        key = (outgoing.exchange, outgoing.routing_key, outgoing.message.message_id)
        self._unconfirmed[self._last_tag] = _Unconfirmed(publication, key, len(outgoing.message.body), self._clock())

    def on_return(self, exchange: str, routing_key: str, message_id: str | None, reason: str) -> None:
        """Record a returned message. basic.return has no delivery tag; it precedes the basic.ack of its message."""
        key = (exchange, routing_key, message_id)
        for message in self._unconfirmed.values():
            if message.return_reason is None and key == message.key:
                message.return_reason = reason
                return

    def on_confirm(self, delivery_tag: int, multiple: bool, ack: bool) -> set[Destination]:
        """Complete the message of a delivery tag, or all up to it if `multiple`. Return where they went."""
        tags: Iterable[int] = [delivery_tag]
        if multiple:
            tags = [tag for tag in self._unconfirmed if tag <= delivery_tag]
        destinations = set()
        for tag in tags:
            message = self._unconfirmed.pop(tag)
            destinations.add(message.key[:2])
            message.publication.complete_one(message.error(ack))
        return destinations

    def fail_all(self, reason: str, max_size: int | None = None) -> None:
        """Fail all messages, because the channel has closed and no more confirmations will come.

        Args:
            reason: why the channel has closed.
            max_size: the broker closed it because of a message with a larger body. The first such message is meant; the
                broker has not looked at those behind it.
        """
        lost, self._unconfirmed = self._unconfirmed, {}
        for message in lost.values():
            error: BrokerError = NotConfirmed(f"the channel closed before the confirmation: {reason}")
            if max_size is not None and message.size > max_size:
                error, max_size = too_large(message.size, max_size), None
            message.publication.complete_one(error)


class Refusals:
    """Counts the channels in a row of one connection on which messages for the same destination were refused.

    A node of RabbitMQ 3.10 whose own record of a queue names a dead leader refuses every message for it at once, on
    each new channel, and does not mend the record. The queue has a leader, and other nodes confirm (decision 113).
    """

    def __init__(self) -> None:
        self._channels: dict[Destination, int] = {}
        self._refused: set[Destination] = set()  # on the present channel

    def on_confirm(self, destinations: set[Destination], ack: bool) -> None:
        """Record an answer of RabbitMQ to messages for these destinations."""
        if not ack:
            self._refused |= destinations
            return
        self._refused -= destinations
        for destination in destinations:
            self._channels.pop(destination, None)

    @property
    def are_new(self) -> bool:
        """True if a destination was refused on the present channel, and nothing for it was confirmed since."""
        return bool(self._refused)

    def on_channel_replaced(self) -> int:
        """Record the end of a channel. Return the highest number of channels that one destination was refused on."""
        for destination in self._refused:
            self._channels[destination] = self._channels.get(destination, 0) + 1
        self._refused.clear()
        return max(self._channels.values(), default=0)


def too_large(size: int, max_size: int) -> TooLarge:
    """Return the error for a body of `size` bytes."""
    return TooLarge(
        f"the message has {size} bytes, and the broker takes {max_size}; send a smaller image, or raise "
        "max_message_size in rabbitmq.conf"
    )
