"""The consumer of a RabbitMQ queue. It outlives its channels and connections (see `rabbitmq.py`)."""

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog

from patchline.broker.base import Delivery, Settlement, previous_attempts
from patchline.broker.headers import decode_headers, decode_message, deliveries_before

_log = structlog.get_logger(__name__)
_MIN_RESUBSCRIBE_DELAY_S, _MAX_RESUBSCRIBE_DELAY_S = 0.2, 5.0  # doubles while the queue is missing
_REPLY_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0  # then the channel is replaced
_PROBE_INTERVAL_S = 2.0
_OCCUPIED_DELAYS_S = (0.25, 0.75)  # between two looks at a queue that another consumer has
_UNREAD_LOOKS = 6
_NOT_FOUND = 404


class IoThread(Protocol):
    """The only thread that uses the connection."""

    def add_callback_threadsafe(self, callback: Callable[[], Any]) -> None:
        """Have the I/O thread call `callback`."""
        ...

    def check_alive(self) -> None:
        """Raise BrokerError if the I/O thread has ended."""
        ...

    def doubt_topology(self) -> None:
        """Count that a queue may be missing."""
        ...


@dataclass(eq=False)
class _Subscription:
    """A channel that consumes, and its unsettled deliveries by delivery tag."""

    channel: Any
    confirmed: bool = False  # RabbitMQ has answered basic.consume, and nobody else consumes an exclusive queue
    strangers: int = 0  # consumers of an exclusive queue that RabbitMQ has not yet removed
    early: list[Delivery] = field(default_factory=list)  # before it was confirmed
    retired: bool = False  # cancelled by RabbitMQ: no more deliveries, but those in hand can still be settled
    probes: int = 0
    open_probe: int = 0  # the number of the one that RabbitMQ has not yet answered; 0: there is none
    idle_probes: int = 0  # in a row, for which messages were waiting and none was delivered
    unsettled: dict[int, Delivery] = field(default_factory=dict)

    def retire(self) -> None:
        """Close the channel once everything is settled."""
        self.retired = True
        self._close_if_done()

    def settle(self, delivery_tag: int, settlement: Settlement) -> None:
        """Send a settlement, unless RabbitMQ has already taken the message back."""
        self.unsettled.pop(delivery_tag, None)
        if not self.channel.is_open:
            return
        if settlement is Settlement.ACK:
            self.channel.basic_ack(delivery_tag)
        else:
            # basic.reject, not basic.nack: since RabbitMQ 4.3 only a reject increments the delivery count.
            self.channel.basic_reject(delivery_tag, requeue=True)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retired and not self.unsettled and self.channel.is_open:
            self.channel.close()


class RabbitConsumer:
    """Implements `patchline.broker.base.QueueConsumer`. Subscribes again whenever its subscription ends."""

    def __init__(
        self, io: IoThread, queue_name: str, prefetch: int, on_arrival: Callable[[], object], exclusive: bool = False
    ) -> None:
        self._io = io
        self._queue_name = queue_name
        self._prefetch = prefetch
        self._on_arrival = on_arrival
        self._exclusive = exclusive
        self._occupied = False
        self._unread = 0  # looks in a row that found consumers and waiting messages
        self._subscription: _Subscription | None = None
        self._failures = 0  # in a row
        self._silent: Any = None  # the last channel that was replaced since RabbitMQ did not answer
        self._waiting: tuple[Any, object] | None = None  # the connection and the timer of the next attempt
        self._stopped = False
        self._gaps = 0
        self._deliveries: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()  # None: a gap
        self._pending_replies: set[Future[None]] = set()

    @property
    def subscribed(self) -> bool:
        """See `base.Consumer`."""
        current = self._subscription
        return current is not None and current.confirmed and bool(current.channel.is_open)

    @property
    def gaps(self) -> int:
        """See `base.QueueConsumer`. A lost connection or channel is no gap: the queue keeps its messages."""
        return self._gaps

    @property
    def occupied(self) -> bool:
        """See `base.QueueConsumer`."""
        return self._occupied

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`. Deliveries of a closed channel are dropped; RabbitMQ delivers them again."""
        deadline = time.monotonic() + timeout_s
        delivery = None
        while delivery is None:
            try:
                delivery = self._deliveries.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._io.check_alive()
                return None
            self._gaps += delivery is None
        return None if delivery.stale else delivery

    def flush(self) -> None:
        """See `base.Consumer`. RabbitMQ does not confirm settlements, but a channel handles its methods in order."""
        self.begin_flush()()

    def begin_flush(self) -> Callable[[], None]:
        """See `base.Consumer`."""
        return self._call("basic.qos", self._flush)

    def stop(self) -> None:
        """See `base.Consumer`."""
        self.begin_stop()()

    def begin_stop(self) -> Callable[[], None]:
        """See `base.Consumer`."""
        return self._call("basic.cancel", self._stop)

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self.stop()
        with contextlib.suppress(queue.Empty):
            while True:
                if (delivery := self._deliveries.get_nowait()) is not None:
                    delivery.requeue()

    def _call(self, method: str, call: Callable[[Future[None]], None]) -> Callable[[], None]:
        """Have the I/O thread call a method. Return what waits for RabbitMQ's reply."""
        reply: Future[None] = Future()
        self._io.add_callback_threadsafe(partial(call, reply))
        return partial(self._wait, method, reply, time.monotonic() + _REPLY_TIMEOUT_S)

    def _wait(self, method: str, reply: Future[None], deadline: float) -> None:
        try:
            reply.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            _log.warning("RabbitMQ did not reply", method=method, queue=self._queue_name)

    # Everything below runs on the I/O thread.

    def subscribe(self, channel: Any) -> None:
        """Consume on a newly opened channel."""
        if self._stopped:
            channel.close()
            return
        self._subscription = subscription = _Subscription(channel)
        channel.add_on_close_callback(partial(self._on_channel_closed, subscription))
        channel.add_on_cancel_callback(partial(self._on_cancelled_by_broker, subscription))
        self._close_later(subscription, lambda: not subscription.confirmed, "basic.consume")
        if self._exclusive:
            channel.queue_declare(self._queue_name, passive=True, callback=partial(self._on_looked, subscription))
        else:
            self._consume(subscription, partial(self._on_subscribed, subscription))

    def _consume(self, subscription: _Subscription, on_reply: Callable[[Any], None]) -> None:
        subscription.channel.basic_qos(prefetch_count=self._prefetch)
        on_message = partial(self._on_delivery, subscription)
        subscription.channel.basic_consume(self._queue_name, on_message, callback=on_reply)

    def _on_looked(self, subscription: _Subscription, frame: Any) -> None:
        """Consume an exclusive queue unless somebody reads it. Quorum queues ignore the exclusive flag of AMQP.

        A consumer whose node is lost is counted until the node is back. Nobody reads the queue if messages stay in it.
        """
        if not subscription.channel.is_open:  # it was replaced, and RabbitMQ answers after all
            return
        strangers, waiting = frame.method.consumer_count, frame.method.message_count
        self._unread = self._unread + 1 if waiting else 0
        if strangers and self._unread < _UNREAD_LOOKS:
            self._leave_to_other(subscription)
            return
        subscription.strangers = strangers
        self._consume(subscription, lambda _: self._look_again(subscription))

    def _look_again(self, subscription: _Subscription) -> None:
        """Of two that consume at the same time, at least one sees the other one. Both may leave and try again."""

        def on_reply(frame: Any) -> None:
            if frame.method.consumer_count > subscription.strangers + 1:
                self._leave_to_other(subscription)
            else:
                self._on_subscribed(subscription)

        if subscription.channel.is_open:
            subscription.channel.queue_declare(self._queue_name, passive=True, callback=on_reply)

    def _leave_to_other(self, subscription: _Subscription) -> None:
        """Try again later. What was delivered returns to the queue."""
        if subscription is not self._subscription:
            return
        if not self._occupied:
            _log.warning("another consumer has the queue, waiting for its end", queue=self._queue_name)
        self._occupied, self._subscription = True, None
        connection = subscription.channel.connection
        connection.ioloop.call_later(random.uniform(*_OCCUPIED_DELAYS_S), partial(self._open_channel, connection))
        subscription.channel.close()

    def _on_subscribed(self, subscription: _Subscription, _: object = None) -> None:
        if not subscription.channel.is_open:  # it was replaced: RabbitMQ takes back what it has delivered
            return
        subscription.confirmed = True
        if self._failures or self._occupied:
            _log.info("subscribed again", queue=self._queue_name)
        self._failures, self._unread, self._occupied = 0, 0, False
        for delivery in subscription.early:
            self._deliver(delivery)
        subscription.early.clear()
        self._probe_later(subscription)

    def _probe_later(self, subscription: _Subscription) -> None:
        subscription.channel.connection.ioloop.call_later(_PROBE_INTERVAL_S, partial(self._probe, subscription))

    def _probe(self, subscription: _Subscription) -> None:
        """Ask about the queue while nothing is in hand.

        RabbitMQ 3.10 does not always cancel the consumers of a quorum queue that is deleted and made again within
        milliseconds: they stay subscribed to nothing.
        """
        if subscription is not self._subscription or not subscription.channel.is_open or self._stopped:
            return
        if subscription.unsettled:
            subscription.idle_probes = 0
            self._probe_later(subscription)
        else:
            subscription.probes += 1
            subscription.open_probe = number = subscription.probes
            on_reply = partial(self._on_probe_reply, subscription)
            subscription.channel.queue_declare(self._queue_name, passive=True, callback=on_reply)
            self._close_later(subscription, lambda: subscription.open_probe == number, "queue.declare")

    def _on_probe_reply(self, subscription: _Subscription, frame: Any) -> None:
        subscription.open_probe = 0
        waiting = frame.method.message_count and not subscription.unsettled
        subscription.idle_probes = subscription.idle_probes + 1 if waiting else 0
        if frame.method.consumer_count == 0 or subscription.idle_probes > 1:
            self._end_subscription(subscription, "RabbitMQ no longer delivers")
        else:
            self._probe_later(subscription)

    def _close_later(self, subscription: _Subscription, is_unanswered: Callable[[], bool], method: str) -> None:
        """Replace a channel that does not answer in time, but not a second one before RabbitMQ has closed the first.

        A channel of RabbitMQ waits for a queue without a leader, 65 s for each member, and answers nothing meanwhile:
        not even its closing. It has said before that it consumes. Once the queue has a leader, it gives messages to all
        such channels, and what they had counts as an attempt.
        """

        def replace() -> None:
            if not is_unanswered() or not subscription.channel.is_open:
                return
            others_open = self._silent is not None and not self._silent.is_closed
            if others_open or subscription.unsettled:  # it delivers, and closing would count as an attempt
                self._close_later(subscription, is_unanswered, method)
                return
            self._silent = subscription.channel
            self._silent.close()
            self._on_channel_closed(subscription, self._silent, TimeoutError(f"RabbitMQ did not answer {method}"))

        subscription.channel.connection.ioloop.call_later(_ANSWER_TIMEOUT_S, replace)

    def _on_cancelled_by_broker(self, subscription: _Subscription, _: object) -> None:
        """RabbitMQ ends a consumer when its queue is deleted, or is not available."""
        self._end_subscription(subscription, "RabbitMQ cancelled the consumer")

    def _end_subscription(self, subscription: _Subscription, reason: str) -> None:
        if subscription is not self._subscription or self._stopped:
            return
        self._subscription = None
        self._record_gap()
        self._subscribe_later(subscription.channel.connection, reason)
        subscription.retire()

    def _on_channel_closed(self, subscription: _Subscription, channel: Any, reason: BaseException) -> None:
        subscription.unsettled.clear()
        if subscription is not self._subscription:
            return
        self._subscription = None
        for reply in tuple(self._pending_replies):
            self._on_reply(reply)
        if getattr(reason, "reply_code", None) == _NOT_FOUND:
            self._record_gap()
        if not self._stopped and channel.connection.is_open:
            self._subscribe_later(channel.connection, repr(reason))

    def _record_gap(self) -> None:
        self._deliveries.put(None)
        self._io.doubt_topology()

    def _subscribe_later(self, connection: Any, reason: str) -> None:
        delay_s = min(_MAX_RESUBSCRIBE_DELAY_S, _MIN_RESUBSCRIBE_DELAY_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        details = {"queue": self._queue_name, "reason": reason, "subscribe_in_s": delay_s}
        _log.error("consumer lost its queue", **details)
        timer = connection.ioloop.call_later(delay_s, partial(self._open_channel, connection))
        self._waiting = connection, timer

    def hasten(self) -> None:
        """Subscribe now if the next attempt is to come later: the queue has just been seen or made."""
        if self._waiting is not None:
            connection, timer = self._waiting
            connection.ioloop.remove_timeout(timer)
            self._open_channel(connection)

    def _open_channel(self, connection: Any) -> None:
        self._waiting = None
        if connection.is_open and not self._stopped:
            connection.channel(on_open_callback=self.subscribe)

    def _on_delivery(
        self, subscription: _Subscription, channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        headers = decode_headers(properties.headers)
        attempt = 1 + deliveries_before(headers, method.redelivered) + previous_attempts(headers)
        message = decode_message(properties, headers, body)
        settle = partial(self._settle, subscription, method.delivery_tag)
        delivery = Delivery(message, method.routing_key, attempt, settle, lambda: not channel.is_open, method.exchange)
        subscription.unsettled[method.delivery_tag] = delivery
        if subscription.confirmed:
            self._deliver(delivery)
        else:
            subscription.early.append(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        self._deliveries.put(delivery)
        self._on_arrival()

    def _settle(self, subscription: _Subscription, delivery_tag: int, settlement: Settlement) -> None:
        """Called by any thread."""
        self._io.add_callback_threadsafe(partial(subscription.settle, delivery_tag, settlement))

    def _flush(self, reply: Future[None]) -> None:
        self._pending_replies.add(reply)
        if self._subscription is not None and self._subscription.channel.is_open:
            on_reply = partial(self._on_reply, reply)
            self._subscription.channel.basic_qos(prefetch_count=self._prefetch, callback=on_reply)
        else:
            self._on_reply(reply)

    def _stop(self, reply: Future[None]) -> None:
        self._stopped = True
        self._pending_replies.add(reply)
        channel = None if self._subscription is None else self._subscription.channel
        if channel is not None and channel.is_open and channel.consumer_tags:
            channel.basic_cancel(channel.consumer_tags[0], callback=partial(self._on_reply, reply))
        else:
            self._on_reply(reply)

    def _on_reply(self, reply: Future[None], _: object = None) -> None:
        self._pending_replies.discard(reply)
        if not reply.done():  # it is, if the channel was replaced: RabbitMQ may answer after all
            reply.set_result(None)
