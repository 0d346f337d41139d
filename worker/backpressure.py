"""The lanes that wait because RabbitMQ refuses their messages: a queue is full, usually because nobody reads it."""

from __future__ import annotations

import threading

import structlog

_log = structlog.get_logger(__name__)


class Backpressure:
    """Which threads wait. A worker with a waiting lane is not ready."""

    def __init__(self) -> None:
        self._waiting: set[int] = set()

    @property
    def waiting(self) -> int:
        """The number of waiting lanes."""
        return len(self._waiting)

    def refused(self, exchange: str) -> None:
        """Record that RabbitMQ has refused a message of the calling thread. Log the first one."""
        if not self._waiting:
            _log.error("RabbitMQ refuses messages, the worker waits: a queue is full", exchange=exchange)
        self._waiting.add(threading.get_ident())

    def ended(self) -> None:
        """Record that the calling thread waits no longer. Log when no thread waits."""
        if threading.get_ident() in self._waiting:
            self._waiting.discard(threading.get_ident())
            if not self._waiting:
                _log.info("RabbitMQ takes messages again")
