"""The process that exports traces: consumes verdicts and exports their spans. No job waits for it."""

from __future__ import annotations

import threading
import typing

import structlog

from patchline import config
from patchline.broker.base import Delivery
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError, Unusable
from patchline.runtime import connections
from patchline.runtime.metrics import Registry
from patchline.runtime.queue_keeper import QueueKeeper, QueueMetrics

if typing.TYPE_CHECKING:
    from patchline.tracing.exporter import Exporter

_log = structlog.get_logger(__name__)
_TICK_S = 0.5
_PREFETCH = 100


def run(settings: config.Config, stop: threading.Event) -> None:
    """Export the trace of every verdict until `stop` is set.

    Raises:
        SetupError: the extra `tracing` is not installed.
        BrokerError: the broker cannot be used.
    """
    try:
        from patchline.tracing.exporter import Exporter
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; traces need: pip install 'patchline[tracing]'") from error
    exporter = Exporter()
    with connections.connect(settings, "traces") as broker:
        keeper = QueueKeeper(broker, settings, topology.traces(), topology.traces(), QueueMetrics(Registry()))
        keeper.declare()
        verdicts = broker.consume(topology.TRACES, prefetch=_PREFETCH)
        _log.info("trace exporter started")
        with keeper:
            while not stop.is_set():
                delivery = verdicts.take(_TICK_S)
                if delivery is not None:
                    _export(exporter, delivery)
        verdicts.cancel()
    exporter.close()


def _export(exporter: Exporter, delivery: Delivery) -> None:
    try:
        exporter.export(messages.parse_verdict(delivery.message))
    except Unusable as error:
        _log.error("invalid verdict", message_id=delivery.message.message_id, reason=error.detail)
    delivery.ack()
