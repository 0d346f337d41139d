"""Hears what is published to an exchange from now on. Nothing is kept for it while it is away (see `rabbitmq.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from patchline.broker.base import Message
from patchline.broker.headers import decode_headers, decode_message

_log = structlog.get_logger(__name__)
_RETRY_S = 10.0
_MAX_LENGTH = 1000  # if messages come faster than they are read, the oldest are dropped


class RabbitListener:
    """A queue without a name, which RabbitMQ deletes with its channel.

    Args:
        exchange: must exist. While it does not, or this user may not make queues, nothing is heard.
        pattern: of the routing keys.
        on_message: called on the I/O thread. It must not block.
    """

    def __init__(self, exchange: str, pattern: str, on_message: Callable[[Message], object]) -> None:
        self._exchange, self._pattern, self._on_message = exchange, pattern, on_message
        self._was_refused = False

    def start(self, channel: Any) -> None:
        """Listen on a newly opened channel, as long as it is open."""
        channel.add_on_close_callback(self._on_closed)
        arguments = {"x-max-length": _MAX_LENGTH, "x-overflow": "drop-head"}
        channel.queue_declare(
            "", exclusive=True, auto_delete=True, arguments=arguments, callback=partial(self._bind, channel)
        )

    def _bind(self, channel: Any, frame: Any) -> None:
        queue = frame.method.queue
        channel.queue_bind(queue, self._exchange, routing_key=self._pattern)
        channel.basic_consume(queue, self._on_delivery, auto_ack=True, callback=self._on_listening)

    def _on_listening(self, _: object) -> None:
        self._was_refused = False

    def _on_delivery(self, _: object, __: object, properties: Any, body: bytes) -> None:
        self._on_message(decode_message(properties, decode_headers(properties.headers), body))

    def _on_closed(self, channel: Any, reason: BaseException) -> None:
        connection = channel.connection
        if not connection.is_open:
            return
        if not self._was_refused:
            _log.warning("nothing is heard, trying again", exchange=self._exchange, reason=str(reason))
        self._was_refused = True
        connection.ioloop.call_later(_RETRY_S, partial(self._start_again, connection))

    def _start_again(self, connection: Any) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self.start)
