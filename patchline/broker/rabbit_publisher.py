"""The channel on which messages are published. It outlives its channels and connections (see `rabbitmq.py`)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog

from patchline.broker.base import BrokerError, Message, Outgoing
from patchline.broker.confirms import Publication, PublisherConfirms, Refusals, too_large
from patchline.broker.headers import decode_text

_log = structlog.get_logger(__name__)
_CONFIRM_TIMEOUTS, _MOST_REFUSALS = 3, 10  # then the channel is replaced; channels in a row, then the node is left
_NOT_FOUND = 404
# RabbitMQ 3.8 to 4.x close the channel with 406 and this text (rabbit_channel.erl, check_msg_size).
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")


class PublisherConnection(Protocol):
    """What the publisher needs of the connection and its I/O thread."""

    def open_channel(self, on_open: Callable[[Any], object]) -> None:
        """Open a channel, if there is a connection."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        """Have the I/O thread call `callback` after a while."""
        ...

    def leave_node(self) -> bool:
        """Connect to another node. Return False if there is no other, or a consumer would lose its deliveries."""
        ...

    def doubt_topology(self) -> None:
        """Count that exchanges or queues may be missing."""
        ...


class RabbitPublisher:
    """Publishes with confirms, and replaces a channel that refuses or no longer confirms.

    Only the I/O thread uses it.

    Args:
        connection: to RabbitMQ.
        properties: makes pika's properties of a message.
        confirm_timeout_s: a channel without a confirmation for three times as long is replaced.
        log: of the connection.
    """

    def __init__(
        self,
        connection: PublisherConnection,
        properties: Callable[[Message], Any],
        confirm_timeout_s: float,
        log: Any = _log,
    ) -> None:
        self._connection, self._properties, self._log = connection, properties, log
        self._confirm_timeout_s = confirm_timeout_s
        self._channel: Any = None
        self._replaced: set[Any] = set()  # channels whose closing RabbitMQ has not yet answered
        self._queued: list[Publication] = []  # until the channel is open
        self._confirms, self._refusals = PublisherConfirms(), Refusals()
        self._max_message_size: int | None = None  # of this connection, once RabbitMQ has refused a larger message
        self._blocked, self._unblocked_at = False, 0.0

    @property
    def is_open(self) -> bool:
        """RabbitMQ takes messages."""
        return self._channel is not None

    def start(self, channel: Any) -> None:
        """Publish on a channel that has just been opened."""
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_closed)
        channel.confirm_delivery(partial(self._on_confirm, channel), partial(self._on_confirms_selected, channel))

    def publish(self, publication: Publication) -> None:
        """Send the messages of a publication, or keep them until there is a channel."""
        size = max((len(item.message.body) for item in publication.outgoing), default=0)
        if self._channel is None or not self._channel.is_open:  # it is being closed with its connection
            self._queued.append(publication)
        elif self._max_message_size is not None and size > self._max_message_size:
            publication.fail(too_large(size, self._max_message_size))
        else:
            for item in publication.start():
                self._send(self._channel, publication, item)

    def forget_cancelled(self) -> None:
        """Drop what waits for a channel and is not wanted any more."""
        self._queued = [publication for publication in self._queued if not publication.confirmation.cancelled()]

    def on_connection_lost(self, reason: str) -> None:
        """Fail what is unconfirmed. What was not sent waits for the next connection."""
        self._channel, self._max_message_size, self._blocked = None, None, False
        self._refusals = Refusals()
        self._confirms.fail_all(reason)

    def close(self) -> None:
        """Fail everything: there will be no connection."""
        self.on_connection_lost("the connection is closed")
        for publication in self._queued:
            publication.fail(BrokerError("the connection to RabbitMQ is closed"))

    def on_blocked(self, _: object, frame: Any) -> None:
        """Wait: a new connection would also be blocked, and all deliveries would be redelivered."""
        self._blocked = True
        self._log.warning("connection blocked until RabbitMQ has resources", reason=decode_text(frame.method.reason))

    def on_unblocked(self, *_: object) -> None:
        """Expect confirmations again."""
        self._blocked, self._unblocked_at = False, time.monotonic()
        self._log.info("connection unblocked by RabbitMQ")

    def _on_confirms_selected(self, channel: Any, _: object) -> None:
        self._channel = channel
        self._confirms = PublisherConfirms()
        self._check_confirms(channel)
        queued, self._queued = self._queued, []
        for publication in queued:
            self.publish(publication)

    def _send(self, channel: Any, publication: Publication, item: Outgoing) -> None:
        self._confirms.add(publication, item)
        message, properties = item.message, self._properties(item.message)
        channel.basic_publish(item.exchange, item.routing_key, message.body, properties, mandatory=item.mandatory)

    def _on_return(self, channel: Any, method: Any, properties: Any, _: bytes) -> None:
        self._connection.doubt_topology()
        reason = f"{method.reply_code} {method.reply_text}"
        if channel is self._channel:
            self._confirms.on_return(method.exchange, method.routing_key, properties.message_id, reason)

    def _on_confirm(self, channel: Any, frame: Any) -> None:
        if self._channel is not channel:
            return
        method, ack = frame.method, frame.method.NAME == "Basic.Ack"
        self._refusals.on_confirm(self._confirms.on_confirm(method.delivery_tag, method.multiple, ack), ack)
        if not (self._refusals.are_new and self._confirms.is_empty):
            return
        refusals = self._refusals.on_channel_replaced()
        if refusals >= _MOST_REFUSALS and self._connection.leave_node():
            self._log.warning("RabbitMQ refuses messages on each new channel, trying another node", channels=refusals)
        else:
            # RabbitMQ 3.10 nacks everything on a channel that first published to a queue without a leader.
            self._replace(channel, "it has refused a message")

    def _check_confirms(self, channel: Any) -> None:
        """Replace a channel on which confirmations no longer come, once the one before is closed.

        RabbitMQ before 4.2 confirms no more if it has lost a message whose leader died (rabbitmq-server #14589).
        """
        if not channel.is_open or channel is not self._channel:
            return
        since, limit_s = self._confirms.waiting_since(), _CONFIRM_TIMEOUTS * self._confirm_timeout_s
        is_silent = since is not None and time.monotonic() - max(since, self._unblocked_at) >= limit_s
        if self._blocked or self._replaced or not is_silent:
            self._connection.call_later(self._confirm_timeout_s / 2, partial(self._check_confirms, channel))
            return
        self._log.warning("RabbitMQ does not confirm, replacing the channel", limit_s=limit_s)
        self._replace(channel, "RabbitMQ does not confirm")

    def _replace(self, channel: Any, reason: str) -> None:
        """Close the channel, and open the next one at once: RabbitMQ may answer the closing a minute later."""
        channel.close()
        self._on_closed(channel, BrokerError(reason))
        self._replaced.add(channel)

    def _on_closed(self, channel: Any, reason: BaseException) -> None:
        if channel in self._replaced:
            self._replaced.discard(channel)
            return
        self._channel = None
        if refusal := _TOO_LARGE.search(str(reason)):
            self._max_message_size = int(refusal[1])
        if getattr(reason, "reply_code", None) == _NOT_FOUND:
            self._connection.doubt_topology()
        self._confirms.fail_all(repr(reason), self._max_message_size if refusal else None)
        self._connection.open_channel(self.start)
