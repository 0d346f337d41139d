"""Metrics of what the devices of a line send by MQTT."""

from __future__ import annotations

from collections.abc import Callable

from patchline.runtime.metrics import Counter, Gauge, Registry

CAUSES = ("unusable", "too_large", "not_an_image", "no_code", "clock_ahead")


class MqttMetrics:
    """Counts messages and what is refused of them, and shows whether devices reach this process."""

    def __init__(self, line: str, registry: Registry) -> None:
        self._line, self._registry = line, registry
        self._messages = Counter("patchline_mqtt_messages", "MQTT messages.", ("line",), registry=registry)
        self._refused = Counter(
            "patchline_mqtt_refused", "MQTT messages that are no image of a part.", ("line", "cause"), registry=registry
        )
        self._messages.labels(line)
        for cause in CAUSES:  # a series that starts at 1 would hide its first message from increase()
            self._refused.labels(line, cause)

    def show(self, is_bound: Callable[[], bool], behind_s: Callable[[], float]) -> None:
        """Show whether a message would reach the queue, and since when none has come through it."""
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("patchline_mqtt_bound", "0 if RabbitMQ drops what devices send.", lambda: float(is_bound())),
            ("patchline_mqtt_behind_seconds", "Since the newest mark that came through the queue.", behind_s),
        )
        for name, text, value in gauges:
            Gauge(name, text, ("line",), registry=self._registry).labels(self._line).set_function(value)

    def count(self) -> None:
        """Count a message."""
        self._messages.labels(self._line).inc()

    def refused(self, cause: str) -> None:
        """Count a message that is no image of a part."""
        self._refused.labels(self._line, cause).inc()
