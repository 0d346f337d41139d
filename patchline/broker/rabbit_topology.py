"""Exchanges and queues on RabbitMQ: how they are made, and how a process notices that they have gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from patchline.broker.advice import INTERNAL_ERROR
from patchline.protocol.topology import Topology

_log = structlog.get_logger(__name__)
_INTERVAL_S = 2.0
_PAUSES_S = (2.0, 4.0)


def declare(connect: Callable[[], Any], topology: Topology, passive: bool) -> None:
    """Create exchanges, queues and bindings. If `passive`, only check that exchanges and queues exist.

    A node that fails inside (reply 541) is asked again, on a new connection: on a disk that stalls it cannot choose a
    leader of a new quorum queue within its five seconds.
    """
    pauses_s = list(_PAUSES_S)
    while True:
        try:
            with connect() as connection:
                _declare(connection.channel(), topology, passive)
            return
        except Exception as error:
            if getattr(error, "reply_code", None) != INTERNAL_ERROR or not pauses_s:
                raise
            _log.warning("RabbitMQ failed at a declaration, asking again", reason=str(error), in_s=pauses_s[0])
            time.sleep(pauses_s.pop(0))


def _declare(channel: Any, topology: Topology, passive: bool) -> None:
    for exchange in topology.exchanges:
        channel.exchange_declare(exchange, exchange_type="topic", durable=True, passive=passive)
    for queue in () if passive else topology.retired:
        for exchange, pattern in queue.bindings:
            channel.queue_unbind(queue.name, exchange, routing_key=pattern)
    for queue in topology.queues:
        channel.queue_declare(queue.name, durable=True, arguments=queue.arguments, passive=passive)
        for exchange, pattern in () if passive else queue.bindings:
            channel.queue_bind(queue.name, exchange, routing_key=pattern)


class TopologyWatch:
    """Looks every few seconds whether exchanges and queues exist, on a channel of its own.

    RabbitMQ confirms a message that has reached any queue. That another one has missed it, nobody is told.

    Args:
        topology: what to look for. Its bindings are made again, unless it is watched passively.
        passive: only look.
        on_missing: called on the I/O thread when something is missing.
    """

    def __init__(self, topology: Topology, passive: bool, on_missing: Callable[[], None]) -> None:
        self._topology = topology
        self._passive = passive
        self._on_missing = on_missing

    def start(self, channel: Any) -> None:
        """Look on a newly opened channel, as long as it is open."""
        channel.add_on_close_callback(self._on_closed)
        self._look(channel)

    def _look(self, channel: Any) -> None:
        """Send passive declarations without a reply: RabbitMQ closes the channel if something is missing.

        It handles the methods of a channel in order, so the reply to the last one says that it has handled all.
        """
        if not channel.is_open:
            return
        for exchange in self._topology.exchanges:
            channel.exchange_declare(exchange, passive=True)
        for queue in self._topology.queues:
            channel.queue_declare(queue.name, passive=True)
            for exchange, pattern in () if self._passive else queue.bindings:
                channel.queue_bind(queue.name, exchange, routing_key=pattern)
        channel.basic_qos(prefetch_count=0, callback=lambda _: self._look_later(channel))

    def _look_later(self, channel: Any) -> None:
        channel.connection.ioloop.call_later(_INTERVAL_S, partial(self._look, channel))

    def _on_closed(self, channel: Any, _: BaseException) -> None:
        connection = channel.connection
        if connection.is_open:
            self._on_missing()
            connection.ioloop.call_later(_INTERVAL_S, partial(self._start_again, connection))

    def _start_again(self, connection: Any) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self.start)
