"""The consumer of a RabbitMQ queue. It outlives its channels and connections (see `rabbitmq.py`)."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import structlog

from patchline.broker.base import Delivery, Message, Settlement, previous_attempts
from patchline.broker.headers import decode_headers, decode_text

_log = structlog.get_logger(__name__)
_RESUBSCRIBE_AFTER_S = 10.0  # after RabbitMQ closed the channel; its reason may last
_REPLY_TIMEOUT_S = 5.0


class IoThread(Protocol):
    """The only thread that uses the connection."""

    def add_callback_threadsafe(self, callback: Callable[[], Any]) -> None:
        """Have the I/O thread call `callback`."""
        ...

    def check_alive(self) -> None:
        """Raise BrokerError if the I/O thread has ended."""
        ...


class RabbitConsumer:
    """Implements `patchline.broker.base.Consumer`, with one channel at a time."""

    def __init__(self, io: IoThread, queue_name: str, prefetch: int) -> None:
        self._io = io
        self._queue_name = queue_name
        self._prefetch = prefetch
        self._channel: Any = None
        self._cancelled = False
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._pending_replies: set[Future[None]] = set()

    @property
    def subscribed(self) -> bool:
        """RabbitMQ delivers to this consumer now."""
        return self._channel is not None and bool(self._channel.is_open)

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`. Deliveries of a closed channel are dropped; RabbitMQ delivers them again."""
        try:
            delivery = self._deliveries.get(timeout=timeout_s)
        except queue.Empty:
            self._io.check_alive()
            return None
        return None if delivery.stale else delivery

    def flush(self) -> None:
        """See `base.Consumer`. RabbitMQ does not confirm settlements, but a channel handles its methods in order."""
        self._call_and_wait("basic.qos", self._flush)

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self._call_and_wait("basic.cancel", self._cancel)  # no more deliveries arrive after the reply
        while not self._deliveries.empty():
            self._deliveries.get().requeue()

    def _call_and_wait(self, method: str, call: Callable[[Future[None]], None]) -> None:
        reply: Future[None] = Future()
        self._io.add_callback_threadsafe(partial(call, reply))
        try:
            reply.result(_REPLY_TIMEOUT_S)
        except TimeoutError:
            _log.warning("RabbitMQ did not reply", method=method, queue=self._queue_name)

    # Everything below runs on the I/O thread.

    def subscribe(self, channel: Any) -> None:
        """Consume on a newly opened channel."""
        if self._cancelled:
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue_name, self._on_delivery)

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        for reply in tuple(self._pending_replies):
            self._on_reply(reply)
        if not self._cancelled and channel.connection.is_open:
            _log.error("RabbitMQ closed the channel of a consumer", queue=self._queue_name, reason=repr(reason))
            channel.connection.ioloop.call_later(_RESUBSCRIBE_AFTER_S, partial(self._resubscribe, channel.connection))

    def _resubscribe(self, connection: Any) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self.subscribe)

    def _on_delivery(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers = decode_headers(properties.headers)
        # RabbitMQ sets this header for each queue; it must not be published again.
        delivery_count = headers.pop("x-delivery-count", int(method.redelivered))
        message = Message(
            body=body,
            message_id=decode_text(properties.message_id),
            type=decode_text(properties.type),
            content_type=decode_text(properties.content_type),
            headers=headers,
            app_id=decode_text(properties.app_id),
            content_encoding=decode_text(properties.content_encoding),
        )
        attempt = 1 + (delivery_count if isinstance(delivery_count, int) else 0) + previous_attempts(headers)
        settle = partial(self._settle, channel, method.delivery_tag)
        self._deliveries.put(Delivery(message, method.routing_key, attempt, settle, lambda: not channel.is_open))

    def _settle(self, channel: Any, delivery_tag: int, settlement: Settlement) -> None:
        """Called by any thread."""
        self._io.add_callback_threadsafe(partial(_settle_on_channel, channel, delivery_tag, settlement))

    def _flush(self, reply: Future[None]) -> None:
        self._pending_replies.add(reply)
        if self.subscribed:
            self._channel.basic_qos(prefetch_count=self._prefetch, callback=partial(self._on_reply, reply))
        else:
            self._on_reply(reply)

    def _cancel(self, reply: Future[None]) -> None:
        self._cancelled = True
        self._pending_replies.add(reply)
        if self.subscribed and self._channel.consumer_tags:
            self._channel.basic_cancel(self._channel.consumer_tags[0], callback=partial(self._on_reply, reply))
        else:
            self._on_reply(reply)

    def _on_reply(self, reply: Future[None], _: object = None) -> None:
        self._pending_replies.discard(reply)
        reply.set_result(None)


def _settle_on_channel(channel: Any, delivery_tag: int, settlement: Settlement) -> None:
    if not channel.is_open:
        return
    if settlement is Settlement.ACK:
        channel.basic_ack(delivery_tag)
    else:
        # basic.reject, not basic.nack: since RabbitMQ 4.3 only a reject increments the delivery count.
        channel.basic_reject(delivery_tag, requeue=True)
