"""Encodes frames and hands them to the publisher, on a thread of its own: both may take a while, and parts pass."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from patchline.camera.base import CameraError, Frame
from patchline.publisher.source import Capture

_log = structlog.get_logger(__name__)
_NO_ROOM = "neither RabbitMQ nor the spool took the images before"


class TooLargeError(CameraError):
    """No worker would take the image."""

    cause = "too_large"


class ImageSender:
    """Sends the jobs of parts, in order.

    Args:
        encode: a frame -> the image and its content type. Raises CameraError if there is none.
        accept: hands a capture to the publisher; it waits while there is no room, and returns False at the end.
        max_frames: frames that may wait; the parts of further ones have no image.
        max_bytes: of an image.
        on_no_image: called with the cause if the frame of a part does not become its image.
        read_id: an image and its content type -> the id of the part that it shows; None: that of the trigger. Raises
            CameraError if there must be one.
        on_image: called with each image that is sent, and its content type. Raises nothing.
    """

    def __init__(
        self,
        encode: Callable[[Frame], tuple[bytes, str]],
        accept: Callable[[Capture], bool],
        max_frames: int,
        max_bytes: int,
        on_no_image: Callable[[str], None],
        read_id: Callable[[bytes, str], str | None] = lambda *_: None,
        on_image: Callable[[bytes, str], None] = lambda *_: None,
    ) -> None:
        self._encode, self._accept = encode, accept
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self._on_no_image, self._read_id, self._on_image = on_no_image, read_id, on_image
        self._queue: queue.SimpleQueue[tuple[Capture, Frame | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="image sender", daemon=True)
        self._thread.start()

    def send(self, capture: Capture, frame: Frame | None) -> None:
        """Send the job of a part. It waits for nothing. Without a frame, the capture says why."""
        if frame is not None and self._queue.qsize() >= self._max_frames:
            capture, frame = self._without_image(capture, "no_room", _NO_ROOM), None
        self._queue.put((capture, frame))

    def end(self) -> None:
        """Nothing more is sent."""
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """After `end`, wait until everything is handed over. Return False if that takes too long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self, timeout_s: float) -> bool:
        """See `end` and `join`."""
        self.end()
        return self.join(timeout_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            capture, frame = item
            if not self._accept(capture if frame is None else self._with_image(capture, frame)):
                return

    def _with_image(self, capture: Capture, frame: Frame) -> Capture:
        try:
            image, content_type = self._encode(frame)
            if len(image) > self._max_bytes:
                raise TooLargeError(f"the image has {len(image)} bytes, and images.max_bytes is {self._max_bytes}")
            part_id = self._read_id(image, content_type) or capture.part_id
        except CameraError as error:
            return self._without_image(capture, error.cause, str(error))
        except Exception as error:  # noqa: BLE001 - one strange frame must not end the others
            _log.exception("frame cannot be encoded", job_id=capture.job_id)
            return self._without_image(capture, "unfit", f"{type(error).__name__}: {error}")
        self._on_image(image, content_type)
        return replace(capture, image=image, content_type=content_type, part_id=part_id)

    def _without_image(self, capture: Capture, cause: str, reason: str) -> Capture:
        self._on_no_image(cause)
        _log.error("part without an image", part_id=capture.part_id, job_id=capture.job_id, reason=reason)
        return replace(capture, no_image=reason[:500])
