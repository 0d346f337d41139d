"""Marks: small messages that take the way of the devices' messages, so that the age of these is known.

MQTT 3.1.1 has no time of sending, and a message may have waited in the queue. A quorum queue keeps its order: what
comes behind a mark was published after it. A mark that RabbitMQ returns says that the binding is gone: it would confirm
the devices' messages, and drop them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import structlog

from patchline.broker.base import Broker, BrokerError, Message, Outgoing, Unroutable
from patchline.protocol import topology

_log = structlog.get_logger(__name__)
MARK_TYPE = "patchline.mark.v1"
_SENT_AT = "sent_at"
_INTERVAL_S = 0.5


class Marks:
    """Sends and reads the marks of one queue. Used by one thread; the properties by any.

    Args:
        broker: sends them.
        routing_key: one that the binding of the queue takes.
        now_ms: the wall clock.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, broker: Broker, routing_key: str, now_ms: Callable[[], int], clock: Callable[[], float]) -> None:
        self._broker, self._routing_key = broker, routing_key
        self._now_ms, self._clock = now_ms, clock
        self._sent: Future[None] | None = None
        self._due = self._heard_at = clock()
        self.is_bound = True
        self.newest: int | None = None  # when it was sent, in epoch milliseconds

    @property
    def behind_s(self) -> float:
        """Seconds since a mark came."""
        return self._clock() - self._heard_at

    def send(self) -> None:
        """Send a mark if one is due, and if RabbitMQ has answered to the one before."""
        if self._clock() < self._due:
            return
        if self._sent is not None:
            if not self._sent.done():
                return
            self._look(self._sent)
            self._sent = None
        self._due = self._clock() + _INTERVAL_S
        mark = Message(b"", None, MARK_TYPE, None, {_SENT_AT: self._now_ms()})
        with suppress(BrokerError):  # it is closed
            self._sent = self._broker.publish_nowait([Outgoing(topology.MQTT_EXCHANGE, self._routing_key, mark)])

    def read(self, message: Message) -> bool:
        """Take a mark. Return False if the message is none."""
        sent_at = message.headers.get(_SENT_AT)
        if message.type != MARK_TYPE or not isinstance(sent_at, int):
            return False
        if self.newest is None:
            advice = "it hears devices if rabbitmq-plugins list -e shows rabbitmq_mqtt"  # AMQP does not say
            _log.info("RabbitMQ leads the topics of devices here", key=self._routing_key, advice=advice)
        self.newest = min(sent_at, self._now_ms())
        self._heard_at = self._clock()
        return True

    def _look(self, sent: Future[None]) -> None:
        error = sent.exception()
        if error is not None and not isinstance(error, Unroutable):
            return  # RabbitMQ is away, and devices know it
        if self.is_bound != (error is None):
            self.is_bound = error is None
            if error is None:
                _log.info("RabbitMQ keeps what devices send")
            else:
                _log.error("RabbitMQ drops what devices send, though it confirms it", key=self._routing_key)
