"""What triggers a camera: a rate, lines of the standard input or of a pipe, a PLC, or an MQTT broker."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from patchline import config
from patchline.camera import plc_triggers, triggers
from patchline.camera.metrics import PlcMetrics
from patchline.camera.order import Event, Order
from patchline.camera.shutter import Shutter
from patchline.protocol.errors import SetupError
from patchline.runtime.metrics import Registry

_TICK_S = 0.05
_FIRST_OPEN_S = 10.0
StartTriggers = Callable[[Shutter, "queue.SimpleQueue[Event]", threading.Event], None]


def triggers_of(settings: config.Config, order: Order, registry: Registry) -> StartTriggers:
    """Return what starts the triggers. Raises SetupError if they cannot be had."""
    if order.triggered_by is not None and order.triggered_by.partition(":")[0] in ("mqtt", "mqtts"):
        return _mqtt_triggers(settings, order, order.triggered_by, registry)
    if order.triggered_by is not None and order.triggered_by.startswith("pipe:"):
        return _line_triggers(triggers.open_pipe(Path(order.triggered_by.removeprefix("pipe:"))))
    if order.triggered_by is not None:
        return _plc_triggers(settings, order, order.triggered_by, registry)
    if order.rate is not None:
        return partial(_fire, order.rate, order.count)
    if sys.stdin is None:
        raise SetupError("the standard input is closed, and it is what triggers the camera; use --rate, or open it")
    return _line_triggers(sys.stdin.fileno())


def _line_triggers(file: int) -> StartTriggers:
    lines = triggers.Lines(file)
    return lambda _shutter, events, _stop: triggers.read_lines(lines, events.put)


def _fire(
    rate: float, count: int | None, shutter: Shutter, events: queue.SimpleQueue[Event], stop: threading.Event
) -> None:
    """Trigger evenly in time on a background thread, from when the camera is open."""

    def fire() -> None:
        patience = time.monotonic() + _FIRST_OPEN_S
        while not shutter.is_ready and time.monotonic() < patience and not stop.wait(_TICK_S):
            pass
        for number, trigger in enumerate(triggers.at_rate(rate, stop), 1):
            events.put(trigger)
            if number == count:
                break
        events.put(None)

    threading.Thread(target=fire, name="triggers", daemon=True).start()


def _plc_triggers(settings: config.Config, order: Order, address: str, registry: Registry) -> StartTriggers:
    plc, camera = settings.plc.rules(order.line), settings.camera.rules(order.line)
    source = plc_triggers.PlcTriggers(
        plc_triggers.open_reader(address, plc),
        plc_triggers.Rules(order.category, settings.plc.codes, camera.trigger_late_counts),
        PlcMetrics(order.line, order.category, registry),
    )
    return lambda _shutter, events, stop: source.run(plc.poll_ms / 1000, events.put, stop)


def _mqtt_triggers(settings: config.Config, order: Order, address: str, registry: Registry) -> StartTriggers:
    try:
        from patchline.camera import mqtt_triggers
    except ModuleNotFoundError as error:
        raise SetupError(f"mqtt: needs the package {error.name}; install patchline[plc]") from error
    plc, camera = settings.plc.rules(order.line), settings.camera.rules(order.line)
    metrics = PlcMetrics(order.line, order.category, registry)
    source = mqtt_triggers.open_triggers(address, order.line, camera, plc, metrics)
    return lambda _shutter, events, stop: source.run(events.put, stop)
