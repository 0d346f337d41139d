"""RabbitMQ's publisher confirms: matches acknowledgements and returned messages with what was published."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from patchline.broker.base import BrokerError, NotConfirmed, Outgoing, Refused, Unroutable


@dataclass(eq=False)
class Publication:
    """A message that is being published. The result of `confirmation` is None or a BrokerError."""

    outgoing: Outgoing
    confirmation: Future[None] = field(default_factory=Future)
    return_reason: str | None = None

    def complete(self, error: BrokerError | None) -> None:
        """Wake the waiting thread, unless it has given up."""
        if not self.confirmation.set_running_or_notify_cancel():
            return
        if error is None:
            self.confirmation.set_result(None)
        else:
            self.confirmation.set_exception(error)


class PublisherConfirms:
    """The unconfirmed messages of one channel, by delivery tag. Used by one thread only."""

    def __init__(self) -> None:
        self._last_tag = 0
        self._unconfirmed: dict[int, Publication] = {}

    @property
    def is_empty(self) -> bool:
        """No message is unconfirmed."""
        return not self._unconfirmed

    def add(self, publication: Publication) -> None:
        """Register the next message that is published on the channel. Delivery tags count from 1."""
        self._last_tag += 1
        self._unconfirmed[self._last_tag] = publication

    def on_return(self, exchange: str, routing_key: str, message_id: str | None, reason: str) -> None:
        """Record a returned message. basic.return has no delivery tag; it precedes the basic.ack of its message."""
        key = (exchange, routing_key, message_id)
        for publication in self._unconfirmed.values():
            outgoing = publication.outgoing
            if publication.return_reason is None and key == (
                outgoing.exchange,
                outgoing.routing_key,
                outgoing.message.message_id,
            ):
                publication.return_reason = reason
                return

    def on_confirm(self, delivery_tag: int, multiple: bool, ack: bool) -> None:
        """Complete the message of a delivery tag; if `multiple`, all messages up to that tag."""
        tags: Iterable[int] = [delivery_tag]
        if multiple:
            tags = [tag for tag in self._unconfirmed if tag <= delivery_tag]
        for tag in tags:
            publication = self._unconfirmed.pop(tag)
            publication.complete(_error(publication, ack))

    def fail_all(self, reason: str) -> None:
        """Fail all messages, because the channel has closed and no more confirmations will come."""
        lost, self._unconfirmed = self._unconfirmed, {}
        for publication in lost.values():
            publication.complete(NotConfirmed(f"the channel closed before the confirmation: {reason}"))


def _error(publication: Publication, ack: bool) -> BrokerError | None:
    outgoing = publication.outgoing
    destination = f"exchange {outgoing.exchange}, routing key {outgoing.routing_key}"
    if publication.return_reason is not None:
        advice = "declare the queues with: patchline topology"
        return Unroutable(f"no queue for {destination} ({publication.return_reason}); {advice}")
    return None if ack else Refused(f"a queue of {destination} is full or has lost its nodes")
