"""Deliveries of a RabbitMQ queue, over however many channels and connections they come (see `rabbitmq.py`)."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import structlog

from patchline.broker.base import Delivery, Message, Settlement, tried
from patchline.broker.headers import received, text

_log = structlog.get_logger(__name__)
_AGAIN_S = 10.0  # after the broker has closed our channel, which it does for a reason that may last
_ANSWER_S = 5.0


class IoThread(Protocol):
    """The thread that alone touches the connection."""

    def on_io_thread(self, callback: Callable[[], Any]) -> None:
        """Have `callback` called by it."""
        ...

    def check_alive(self) -> None:
        """Raise BrokerError when it has ended."""
        ...


class RabbitConsumer:
    """Implements `patchline.broker.base.Consumer` with one channel at a time."""

    def __init__(self, io: IoThread, queue_name: str, prefetch: int) -> None:
        self._io = io
        self._queue = queue_name
        self._prefetch = prefetch
        self._channel: Any = None
        self._cancelled = False
        self._arrived: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._unanswered: set[Future[None]] = set()

    @property
    def subscribed(self) -> bool:
        """The broker delivers to us at this moment."""
        return self._channel is not None and bool(self._channel.is_open)

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`. Deliveries of an earlier channel are dropped: the broker sends them again."""
        try:
            delivery = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            self._io.check_alive()
            return None
        return None if delivery.stale else delivery

    def flush(self) -> None:
        """See `base.Consumer`. Nobody confirms a settlement, but a channel answers in order."""
        self._await("that it has our settlements", self._flush)

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self._await("the end of a subscription", self._cancel)  # else what we hold goes back with the connection
        while not self._arrived.empty():
            self._arrived.get().requeue()

    def _await(self, what: str, ask: Callable[[Future[None]], None]) -> None:
        done: Future[None] = Future()
        self._io.on_io_thread(partial(ask, done))
        try:
            done.result(_ANSWER_S)
        except TimeoutError:
            _log.warning(f"the broker did not confirm {what}", queue=self._queue)

    # From here on everything runs on the I/O thread.

    def subscribe(self, channel: Any) -> None:
        """Consume on a channel that has just been opened."""
        if self._cancelled:
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_closed)
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue, self._on_delivery)

    def _on_closed(self, channel: Any, why: BaseException) -> None:
        for each in tuple(self._unanswered):
            self._answered(each)
        if not self._cancelled and channel.connection.is_open:
            _log.error("broker closed a consumer's channel", queue=self._queue, why=repr(why))
            channel.connection.ioloop.call_later(_AGAIN_S, partial(self._resubscribe, channel.connection))

    def _resubscribe(self, connection: Any) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self.subscribe)

    def _on_delivery(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers = received(properties.headers)
        counted = headers.pop("x-delivery-count", int(method.redelivered))  # the broker's own, and never to be sent on
        message = Message(
            body=body,
            message_id=text(properties.message_id),
            type=text(properties.type),
            content_type=text(properties.content_type),
            headers=headers,
            app_id=text(properties.app_id),
            content_encoding=text(properties.content_encoding),
        )
        attempt = 1 + (counted if isinstance(counted, int) else 0) + tried(headers)
        settle = partial(self._settle, channel, method.delivery_tag)
        self._arrived.put(Delivery(message, method.routing_key, attempt, settle, lambda: not channel.is_open))

    def _settle(self, channel: Any, tag: int, settlement: Settlement) -> None:
        """Called by any thread."""
        self._io.on_io_thread(partial(_settle_on, channel, tag, settlement))

    def _flush(self, done: Future[None]) -> None:
        self._unanswered.add(done)
        if self.subscribed:
            self._channel.basic_qos(prefetch_count=self._prefetch, callback=partial(self._answered, done))
        else:
            self._answered(done)

    def _cancel(self, done: Future[None]) -> None:
        self._cancelled = True
        self._unanswered.add(done)
        if self.subscribed and self._channel.consumer_tags:
            self._channel.basic_cancel(self._channel.consumer_tags[0], callback=partial(self._answered, done))
        else:
            self._answered(done)

    def _answered(self, done: Future[None], _: object = None) -> None:
        self._unanswered.discard(done)
        done.set_result(None)


def _settle_on(channel: Any, tag: int, settlement: Settlement) -> None:
    if not channel.is_open:
        return
    if settlement is Settlement.ACK:
        channel.basic_ack(tag)
    else:
        # reject, not nack: from RabbitMQ 4.3 on only a reject counts as an attempt.
        channel.basic_reject(tag, requeue=settlement is Settlement.REQUEUE)
