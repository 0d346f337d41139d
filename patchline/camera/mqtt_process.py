"""The process of devices that send their pictures by MQTT, to RabbitMQ's own plug-in. It reads them over AMQP."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial

import structlog

from patchline import config
from patchline.camera import codes
from patchline.camera.mqtt_marks import Marks
from patchline.camera.mqtt_message import Rules
from patchline.camera.mqtt_metrics import MqttMetrics
from patchline.camera.mqtt_source import MqttSource
from patchline.camera.mqtt_topic import TopicPattern
from patchline.protocol import topology
from patchline.publisher import process as publisher
from patchline.publisher.job_state import OnState
from patchline.publisher.source import Capture
from patchline.runtime import connections
from patchline.runtime.metrics import Registry

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    Attributes:
        line: the line of the devices.
        category: that of all parts; None if topic or user properties say it.
        topic: the pattern of the topics: see `TopicPattern`.
        deadline_ms: time for a verdict, from the capture.
        metrics_port: port of the metrics; None serves none.
    """

    line: str
    category: str | None
    topic: str
    deadline_ms: int
    metrics_port: int | None = None


def run(settings: config.Config, order: Order, on_state: OnState, stop: threading.Event) -> None:
    """Forward what devices send, until `stop` is set. What is not forwarded stays in its queue.

    Raises:
        SetupError: the topic or the spool cannot be used.
        TopologyMismatch: a queue exists with different arguments.
    """
    pattern = TopicPattern(order.topic, order.line)
    queue = topology.mqtt(order.line, pattern.binding, settings.broker.mqtt_max_bytes)
    registry, name = Registry(), f"devices of {order.line}"
    metrics = MqttMetrics(order.line, registry)
    categories = [order.category] if order.category else list(settings.categories)
    max_bytes, say_ahead = settings.images.max_bytes, partial(_say_ahead, metrics)
    rules = Rules(order.line, order.category, pattern, categories, order.deadline_ms, max_bytes, say_ahead)
    read_ids = codes.readers(settings, order.line, categories, registry)
    # Acknowledgements are on a connection of their own: RabbitMQ reads nothing from one that publishes in an alarm.
    with (
        connections.connect(settings, name) as consuming,
        connections.connect(settings, f"{name}, marks", quiet=True) as sending,
    ):
        marks = Marks(sending, pattern.key, connections.now_ms, time.monotonic)
        metrics.show(lambda: marks.is_bound, lambda: marks.behind_s)
        with publisher.running(
            settings, order.line, order.category, order.metrics_port, on_state, stop, registry, queue
        ) as publishers:

            def accept(capture: Capture) -> bool:
                return publishers.accept(capture, capture.deadline) is not None

            consumer = consuming.consume(topology.mqtt_queue(order.line), settings.publisher.window)
            MqttSource(
                rules,
                consumer,
                marks,
                sending,
                accept,
                publishers.announce,
                metrics,
                connections.now_ms,
                read_ids,
                stop,
            ).run()
            consumer.cancel()


def _say_ahead(metrics: MqttMetrics, name: str, ahead_ms: int) -> None:
    metrics.refused("clock_ahead")
    advice = "set the clock of the device, and keep it with NTP"
    _log.error("the clock of a device is ahead, its part expires", part=name, ahead_ms=ahead_ms, advice=advice)
