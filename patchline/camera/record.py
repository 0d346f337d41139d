"""Fills a folder with the pictures of good parts, for `patchline fit`: triggered, encoded and named as on the line."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from patchline import config
from patchline.camera import codes
from patchline.camera.base import Camera
from patchline.camera.exposures import Exposures
from patchline.camera.image_sender import ImageSender
from patchline.camera.metrics import Metrics
from patchline.camera.order import Event, Order
from patchline.camera.process import encoder, series_of, serve
from patchline.camera.shutter import shutter_of
from patchline.camera.trigger_sources import triggers_of
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Job
from patchline.publisher.source import Capture
from patchline.runtime import connections
from patchline.runtime.metrics import Registry

_log = structlog.get_logger(__name__)
_MAX_WAITING = 64  # frames
_END_S = 30.0
_SUFFIXES = {content_type: suffix for suffix, content_type in reversed(image_files.CONTENT_TYPES.items())}


class _NoParts:
    """Nobody is told of the parts, so none is left open."""

    left: tuple[Job, ...] = ()

    def add(self, job: Job) -> None:
        """Forget a part."""


class _Album:
    """Writes images into a folder until there are enough."""

    def __init__(self, folder: Path, wanted: int, name: str) -> None:
        self._folder, self._wanted, self._name = folder, wanted, name
        self.count = 0
        self.error: OSError | None = None
        self.full = threading.Event()

    def accept(self, capture: Capture) -> bool:
        """Write the image of a part; return False if that is not possible. A part without one is left out."""
        if capture.no_image is not None or self.count == self._wanted:
            return True
        suffix = _SUFFIXES.get(capture.content_type)
        if suffix is None:
            _log.error("a frame is no image that fit reads", content_type=capture.content_type)
            return True
        path = self._folder / f"{self._name}-{self.count + 1:05}{suffix}"
        try:
            partial = path.with_name(path.name + ".part")
            partial.write_bytes(capture.image)
            partial.replace(path)
        except OSError as error:
            self.error = error
            self.full.set()
            return False
        self.count += 1
        if self.count == self._wanted:
            self.full.set()
        return True


def record(
    settings: config.Config,
    order: Order,
    make: Callable[[], Camera],
    folder: Path,
    wanted: int,
    stop: threading.Event,
    add: bool = False,
) -> int:
    """Write the images of triggered parts into a folder, until there are enough. Nobody is told of these parts.

    Args:
        settings: the configuration.
        order: the line, the category, and what triggers.
        make: makes the camera.
        folder: is created.
        wanted: number of images.
        stop: ends it before.
        add: the folder may hold other images.

    Returns:
        The number of images that were written.

    Raises:
        SetupError: the folder holds other images or cannot be written, or the triggers cannot be had.
    """
    _prepare(folder, add)
    rules, registry = settings.camera.rules(order.line), Registry()
    start_triggers = triggers_of(settings, order, registry)
    series, metrics = series_of(order, rules), Metrics(order.line, order.category, registry)
    album = _Album(folder, wanted, f"{order.category}-{series.started_at}")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    limit = settings.images.max_bytes
    read_id = codes.readers(settings, order.line, [order.category], registry)[order.category]
    sender = ImageSender(encoder(settings, order), album.accept, _MAX_WAITING, limit, metrics.no_image, read_id)
    shutter = shutter_of(rules, make, events)
    exposures = Exposures(
        series, lambda capture, _: capture, sender.send, _NoParts(), shutter, metrics, connections.now_ms
    )
    start_triggers(shutter, events, stop)
    serve(exposures, shutter, events, stop, album.full)
    shutter.close()
    sender.close(_END_S)
    if album.error is not None:
        raise SetupError(f"{folder}: an image cannot be written ({album.error.strerror})") from album.error
    return album.count


def _prepare(folder: Path, add: bool) -> None:
    """Create the folder. Raise SetupError if it holds images that are not to be mixed with the new ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--out {folder}: cannot be created ({error.strerror}); name another folder") from error
    if add:
        return
    try:
        found = image_files.find([folder])
    except SetupError:
        return
    advice = "name an empty folder with --out, or mix them with --add"
    raise SetupError(f"{folder}: holds {len(found)} images already, such as {found[0].name}; {advice}")
