"""The process of a camera: it announces a part at each trigger, and sends its image or why there is none."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import structlog

from patchline import config
from patchline.camera import codes, exposure, pixels
from patchline.camera.base import Camera, Frame
from patchline.camera.exposures import Exposures, Series
from patchline.camera.frame_size import FrameSize
from patchline.camera.image_sender import ImageSender
from patchline.camera.metrics import ExposureMetrics, Metrics
from patchline.camera.open_parts import OpenParts
from patchline.camera.order import Event, Order
from patchline.camera.shutter import Shutter, shutter_of
from patchline.camera.trigger_sources import triggers_of
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
_END_S = 5.0
_ALIVE_INTERVAL_S = 1.0


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
