"""The process of a camera: it announces a part at each trigger, and sends its image or why there is none."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from patchline import config
from patchline.camera import codes, exposure, pixels, plc_triggers, triggers
from patchline.camera.base import Camera, CameraError, Frame
from patchline.camera.camera_thread import CameraThread
from patchline.camera.exposures import Exposures, Series
from patchline.camera.frame_size import FrameSize
from patchline.camera.image_sender import ImageSender
from patchline.camera.metrics import ExposureMetrics, Metrics, PlcMetrics
from patchline.camera.open_parts import OpenParts
from patchline.camera.triggers import Sighting, Trigger
from patchline.protocol.errors import SetupError
from patchline.publisher import process as publisher
from patchline.publisher.job_state import OnState
from patchline.publisher.pipelines import Pipelines
from patchline.publisher.source import Capture
from patchline.runtime import connections, garbage, notify
from patchline.runtime.metrics import Registry

_log = structlog.get_logger(__name__)
_TICK_S = 0.05
_FIRST_OPEN_S = 10.0
_END_S = 5.0
_ALIVE_INTERVAL_S = 1.0
Event = Trigger | Sighting | tuple[str, Frame | CameraError] | None  # None: there are no more triggers
StartTriggers = Callable[["Shutter", "queue.SimpleQueue[Event]", threading.Event], None]


@dataclass(frozen=True)
class Order:
    """What `patchline camera` is to do.

    Attributes:
        line: the line of the camera.
        category: the category of the parts.
        deadline_ms: time for a verdict, from the trigger.
        rate: triggers a second; None reads them from the standard input, one line each, unless there is a PLC.
        count: triggers after which the process ends; None: never.
        metrics_port: port of the metrics; None serves none.
        plc: address of the PLC, MQTT broker or named pipe that triggers; None: there is none.
    """

    line: str
    category: str
    deadline_ms: int
    rate: float | None = None
    count: int | None = None
    metrics_port: int | None = None
    plc: str | None = None


class Shutter:
    """The current thread of the camera. One that is stuck in a call is replaced, and left behind."""

    def __init__(self, start: Callable[[], CameraThread], stuck_s: float) -> None:
        self._start, self._stuck_s = start, stuck_s
        self._thread = start()
        self._opened_before = 0

    @property
    def is_ready(self) -> bool:
        """The camera waits for a trigger."""
        return self._thread.is_ready

    @property
    def is_open(self) -> bool:
        """The camera is open, and answers."""
        return self._thread.is_open

    @property
    def opened(self) -> int:
        """How often the camera was opened."""
        return self._opened_before + self._thread.opened

    def press(self, job_id: str, timeout_s: float, trigger_by: float) -> str | None:
        """See `CameraThread.press`."""
        return self._thread.press(job_id, timeout_s, trigger_by)

    def check(self) -> None:
        """Replace a thread that is stuck."""
        stuck_s = self._thread.in_call_s
        if stuck_s > self._stuck_s:
            _log.error("a call to the camera does not return, opening it anew", seconds=round(stuck_s, 1))
            self._thread.end()
            self._opened_before += self._thread.opened
            self._thread = self._start()

    def close(self) -> None:
        """Close the camera, unless it is stuck."""
        self._thread.end()
        self._thread.join(_END_S)


def run(
    settings: config.Config,
    order: Order,
    make: Callable[[], Camera],
    on_state: OnState,
    stop: threading.Event,
) -> None:
    """Take pictures until the triggers end or `stop` is set, then wait until their jobs are confirmed or spooled.

    Raises:
        SetupError: the spool cannot be used, another process has the camera of this line and category, the standard
            input is closed and nothing else triggers, or the address of the PLC is not valid.
        TopologyMismatch: a queue exists with different arguments.
        PartsLeftError: parts were announced whose jobs neither RabbitMQ nor the spool has.
    """
    registry = Registry()
    start_triggers = triggers_of(settings, order, registry)
    read_id = codes.readers(settings, order.line, [order.category], registry)[order.category]
    meter = _exposure_meter(settings, order, registry)
    metrics = Metrics(order.line, order.category, registry)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    rules = settings.camera.rules(order.line)
    publisher_stop = threading.Event()
    path = settings.paths.spool / f"{order.line}.{order.category}.open-parts"
    with closing(OpenParts(path)) as parts:
        with publisher.running(
            settings, order.line, order.category, order.metrics_port, on_state, publisher_stop, registry
        ) as publishers:
            sender = _sender(settings, order, publishers, parts, metrics, read_id, meter)
            shutter = shutter_of(rules, make, events)
            series = series_of(order, rules)
            metrics.show(lambda: shutter.is_open, lambda: shutter.opened, lambda: len(parts), series.frame_timeout_s)
            exposures = Exposures(series, publishers.announce, sender.send, parts, shutter, metrics, connections.now_ms)
            exposures.answer_left()
            garbage.settle()
            start_triggers(shutter, events, stop)
            serve(exposures, shutter, events, stop, publisher_stop)
            shutter.close()
            _hand_over(sender, publisher_stop, stop)
            _settle(publishers, publisher_stop, stop)
        parts.require_none("the next start of this camera says that they have no image")


def serve(
    exposures: Exposures,
    shutter: Shutter,
    events: queue.SimpleQueue[Event],
    stop: threading.Event,
    failed: threading.Event,
) -> None:
    """Handle triggers and frames until there are no more triggers, and the last part has its frame or none."""
    taking, alive_at = True, time.monotonic()
    notify.send(notify.READY)
    while (taking and not stop.is_set() and not failed.is_set()) or exposures.outstanding:
        try:
            event = events.get(timeout=_TICK_S)
        except queue.Empty:
            pass
        else:
            if event is None:
                taking = False
            elif isinstance(event, Trigger):
                exposures.on_trigger(event, time.monotonic())
            elif isinstance(event, Sighting):
                exposures.on_trigger(event.trigger, time.monotonic(), event.since, event.objection)
            else:
                exposures.on_result(*event, time.monotonic())
        exposures.on_time(now := time.monotonic())
        shutter.check()
        if now >= alive_at:
            notify.send(notify.ALIVE)
            alive_at = now + _ALIVE_INTERVAL_S
    notify.send(notify.STOPPING)


def series_of(order: Order, rules: config.CameraRules) -> Series:
    """Return the series of triggers that begins now."""
    frame_timeout_s, late_s = rules.frame_timeout_ms / 1000, rules.trigger_late_ms / 1000
    return Series(order.line, order.category, connections.now_ms(), order.deadline_ms, frame_timeout_s, late_s)


def triggers_of(settings: config.Config, order: Order, registry: Registry) -> StartTriggers:
    """Return what starts the triggers. Raises SetupError if they cannot be had."""
    if order.plc is not None and order.plc.partition(":")[0] in ("mqtt", "mqtts"):
        return _mqtt_triggers(settings, order, order.plc, registry)
    if order.plc is not None and order.plc.startswith("pipe:"):
        return _line_triggers(triggers.open_pipe(Path(order.plc.removeprefix("pipe:"))))
    if order.plc is not None:
        return _plc_triggers(settings, order, order.plc, registry)
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


def encoder(settings: config.Config, order: Order) -> Callable[[Frame], tuple[bytes, str]]:
    """Return what makes a frame the image of a job. It raises CameraError if the frame does not fit.

    Raises:
        SetupError: no JPEG can have the depth of the category.
    """
    rules, depth = settings.camera.rules(order.line), settings.category(order.category).depth
    try:
        pixels.check_encoding(depth, rules.encoding)
    except pixels.UnfitFrameError as error:
        raise SetupError(f"camera of line {order.line}, category {order.category}: {error}") from error
    size = FrameSize()

    def encode(frame: Frame) -> tuple[bytes, str]:
        size.check(frame)
        return pixels.encode(frame, depth, rules.encoding, rules.jpeg_quality)

    return encode


def shutter_of(rules: config.CameraRules, make: Callable[[], Camera], events: queue.SimpleQueue[Event]) -> Shutter:
    """Return the thread of a camera, whose results become events."""
    return Shutter(
        lambda: CameraThread(make, rules.reopen_max_s, lambda job_id, result: events.put((job_id, result))),
        rules.stuck_limit_s,
    )


def _sender(
    settings: config.Config,
    order: Order,
    publishers: Pipelines,
    parts: OpenParts,
    metrics: Metrics,
    read_id: codes.ReadId,
    meter: exposure.ExposureMeter,
) -> ImageSender:
    def accept(capture: Capture) -> bool:
        job_id = str(capture.job_id)
        capture = replace(capture, on_accepted=lambda: parts.remove(job_id))
        return publishers.accept(capture, capture.deadline) is not None

    return ImageSender(
        encoder(settings, order),
        accept,
        settings.publisher.window,
        settings.images.max_bytes,
        metrics.no_image,
        read_id,
        meter.look,
    )


def _exposure_meter(settings: config.Config, order: Order, registry: Registry) -> exposure.ExposureMeter:
    limits, depth = settings.images, settings.category(order.category).depth
    at_fit = exposure.of_bank(settings.paths.memory_banks / order.category, limits, depth)
    metrics = ExposureMetrics(order.line, order.category, at_fit, registry)
    return exposure.ExposureMeter(limits, depth, metrics.show)


def _hand_over(sender: ImageSender, publisher_stop: threading.Event, stop: threading.Event) -> None:
    """Wait until the publisher has the job of each part. A process that is told to end waits for some seconds."""
    sender.end()
    while not sender.join(_TICK_S) and not publisher_stop.is_set():
        if stop.is_set():
            sender.join(_END_S)
            return


def _settle(publishers: Pipelines, publisher_stop: threading.Event, stop: threading.Event) -> None:
    """Wait until every image has a state. A process that is not told to end also waits until the spool is empty."""
    while publishers.in_window and not publisher_stop.is_set() and not stop.wait(_TICK_S):
        pass
    while publishers.depth() and not publisher_stop.is_set() and not stop.wait(_TICK_S):
        pass
