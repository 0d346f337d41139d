"""Keeps the exchanges and queues of a process on RabbitMQ: made at the start, and again whenever they have gone."""

from __future__ import annotations

import threading

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, TopologyMismatch
from patchline.protocol.errors import SetupError
from patchline.protocol.topology import Topology
from patchline.runtime import connections
from patchline.runtime.metrics import Counter, Gauge, Registry

_log = structlog.get_logger(__name__)
_INTERVAL_S, _RETRY_S = 1.0, 5.0


class QueueMetrics:
    """The metrics of what is missing on RabbitMQ."""

    def __init__(self, registry: Registry) -> None:
        text = "1 if an exchange or queue that this process needs is missing or has other arguments, else 0."
        self._missing = Gauge("patchline_queues_missing", text, registry=registry)
        text = "Times that this process has made missing exchanges or queues again."
        self._made_again = Counter("patchline_queues_made_again", text, registry=registry)

    def missing(self) -> None:
        """Record that something is missing, or has other arguments."""
        self._missing.set(1)

    def complete(self, made_again: bool) -> None:
        """Record that nothing is missing, or that what was missing has been made again."""
        self._missing.set(0)
        self._made_again.inc(made_again)


class QueueKeeper:
    """Declares the exchanges and queues of a process again after every connection, and when one is missing.

    A context manager: it works on a background thread until the end of the block.

    Args:
        broker: the connection.
        settings: the configuration.
        queues: what the process needs.
        watched: what is looked for every few seconds, because neither a consumer nor a returned message shows its loss.
        metrics: the metrics.
    """

    def __init__(
        self, broker: Broker, settings: config.Config, queues: Topology, watched: Topology, metrics: QueueMetrics
    ) -> None:
        self._broker, self._settings = broker, settings
        self._queues, self._watched = queues, watched
        self._metrics = metrics
        self._doubts = -1  # at the last declaration
        self._declared = self._was_missing = False
        self._reason = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queues", daemon=True)

    def __enter__(self) -> QueueKeeper:
        self._broker.watch(self._watched, passive=not self._settings.broker.make_queues)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def add(self, queues: Topology) -> None:
        """Create or check further queues, and keep them, too. See `declare` for the errors."""
        connections.declare(self._broker, self._settings, queues)
        new = [queue for queue in queues.queues if queue not in self._queues.queues]
        self._queues |= Topology((), tuple(new))

    def declare(self) -> None:
        """Create or check everything.

        Raises:
            TopologyMismatch: an exchange or queue is missing and may not be made, or has other arguments.
            BrokerError: RabbitMQ cannot be used.
            SetupError: the file with the url cannot be read.
        """
        doubts = self._broker.topology_doubts
        self._was_missing = self._was_missing or (self._declared and not self._exists())
        try:
            connections.declare(self._broker, self._settings, self._queues)
        except TopologyMismatch:
            self._metrics.missing()
            raise
        self._metrics.complete(made_again=self._was_missing)
        if self._was_missing:
            _log.error("exchanges or queues were missing on RabbitMQ, made again; what was in them is lost")
        self._doubts, self._declared, self._was_missing, self._reason = doubts, True, False, ""

    def _exists(self) -> bool:
        try:
            self._broker.declare(self._queues, passive=True)
        except TopologyMismatch:
            self._metrics.missing()
            return False
        return True

    def _run(self) -> None:
        pause_s = _INTERVAL_S
        while not self._stop.wait(pause_s):
            pause_s = _INTERVAL_S
            if not self._broker.connected or self._broker.topology_doubts == self._doubts:
                continue
            try:
                self.declare()
            except (BrokerError, SetupError) as error:
                if str(error) != self._reason:
                    _log.error("queues cannot be used, retrying", reason=str(error))
                self._reason, pause_s = str(error), _RETRY_S
