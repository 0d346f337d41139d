"""A client for cameras that can call Python: the publisher and its spool inside the program of the camera."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from patchline import config
from patchline.protocol import image_files
from patchline.protocol.errors import PatchlineError
from patchline.protocol.messages import Job
from patchline.publisher.job_state import JobState
from patchline.publisher.pipelines import Pipelines
from patchline.publisher.process import running
from patchline.publisher.source import Capture
from patchline.runtime import connections, logs

_log = structlog.get_logger(__name__)


class NotAcceptedError(PatchlineError):
    """The image is neither with the broker nor in the spool. Send it again; it becomes the same job."""


@dataclass(frozen=True)
class Receipt:
    """The first state of a job: confirmed, spooled or refused. `reason` says why it was refused."""

    job_id: str
    state: JobState
    reason: str | None = None


class _Callbacks:
    """Calls code of the camera's program. What it raises is logged, and never ends a thread of the client."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def call(self, function: Callable[[], object], job: Job) -> None:
        """Call a function that tells the program what has become of a job."""
        self._thread.inside = True
        try:
            function()
        except BaseException:  # noqa: BLE001 - also SystemExit: it would end the thread that sends
            _log.exception("a callback of the camera's program failed", job_id=job.job_id, part_id=job.part_id)
        finally:
            self._thread.inside = False

    def require_outside(self, method: str) -> None:
        """Raise RuntimeError in a callback: its thread is the one that makes room, so it would wait for itself."""
        if getattr(self._thread, "inside", False):
            raise RuntimeError(
                f"{method} was called by on_state or by a callback of a future: the client would wait for itself; "
                "call it on another thread"
            )


class Client:
    """Sends the images of one line and category as jobs. Thread-safe. A context manager."""

    def __init__(
        self,
        publishers: Pipelines,
        deadline_ms: int,
        stop: threading.Event,
        stack: ExitStack,
        callbacks: _Callbacks | None = None,
    ) -> None:
        self._publishers = publishers
        self._deadline_ms = deadline_ms
        self._stop = stop
        self._stack = stack
        self._callbacks = callbacks or _Callbacks()

    @classmethod
    def connect(
        cls,
        config_file: str | Path,
        line: str,
        category: str,
        on_state: Callable[[str, JobState, str | None], None] = lambda *_: None,
    ) -> Self:
        """Open the spool and connect in the background. RabbitMQ may be away.

        Args:
            config_file: the configuration, as for `patchline publish`.
            line: the line of the camera.
            category: the category of the parts.
            on_state: called with the job id, the state and the reason of every change; also of jobs from the spool.
                What it raises is logged.

        Raises:
            SetupError: the configuration or the spool cannot be used.
            TopologyMismatch: a queue exists with different arguments.
        """
        logs.use_standard_logging()
        settings = config.load(Path(config_file))
        settings.category(category)
        stop, stack, callbacks = threading.Event(), ExitStack(), _Callbacks()

        def report(job: Job, state: JobState, reason: str | None) -> None:
            callbacks.call(lambda: on_state(job.job_id, state, reason), job)

        publishers = stack.enter_context(running(settings, line, category, None, report, stop))
        return cls(publishers, settings.publisher.deadline_ms, stop, stack, callbacks)

    def send(
        self,
        image: bytes | bytearray | memoryview,
        part_id: str,
        *,
        captured_at: int | None = None,
        deadline_ms: int | None = None,
        number: int | None = None,
        encoder_count: int | None = None,
    ) -> Future[Receipt]:
        """Send an encoded image. Wait while `publisher.window` images are on their way.

        Args:
            image: PNG, JPEG, BMP, TIFF, WebP, PGM or PPM. A bytearray or memoryview is copied: the camera may use it
                again at once.
            part_id: letters, digits and `._:-`, 128 at most.
            captured_at: epoch milliseconds; now by default. The same image of the same time becomes the same job.
            deadline_ms: time for a verdict, from the capture; `publisher.deadline_ms` by default.
            number: the number by which the PLC of the line knows the part, 0 to 4294967295.
            encoder_count: the count of the line's encoder at the trigger, as a signed number of 32 bits.

        Returns:
            A future. Its result is the job's receipt; the image is safe from then on. NotAcceptedError if the client
            was closed, or failed, while neither RabbitMQ nor the spool took the image. Cancelling it drops the receipt,
            not the image.

        Raises:
            ValueError: `part_id`, `captured_at`, `number` or `encoder_count` is not valid.
            TypeError: `image` is not bytes.
            NotAcceptedError: the client is closed, or has failed.
            RuntimeError: `send` was called by `on_state` or by a callback of a future.
        """
        self._callbacks.require_outside("send")
        image = _as_bytes(image)
        captured_at = connections.now_ms() if captured_at is None else captured_at
        content_type = image_files.detect_content_type(image)
        capture = Capture(part_id, content_type, captured_at, image, number=number, encoder_count=encoder_count)
        receipt: Future[Receipt] = Future()
        settled = partial(self._settle, receipt)
        if self._publishers.accept(capture, captured_at + (deadline_ms or self._deadline_ms), settled) is None:
            raise NotAcceptedError(f"image of part {part_id} is not accepted: the client is closed or has failed")
        return receipt

    def close(self) -> None:
        """Wait until every image has a state, then disconnect. The next start sends what is left in the spool.

        Raises:
            RuntimeError: `close` was called by `on_state` or by a callback of a future.
        """
        self._callbacks.require_outside("close")
        self._stop.set()
        self._stack.close()

    def _settle(self, receipt: Future[Receipt], job: Job, state: JobState | None, reason: str | None) -> None:
        """Finish a receipt with the first state of its job, unless the program has cancelled it."""
        if state is None:
            error = NotAcceptedError(f"image of part {job.part_id} is not accepted: {reason}")
            finish = partial(receipt.set_exception, error)
        else:
            finish = partial(receipt.set_result, Receipt(job.job_id, state, reason))
        if receipt.set_running_or_notify_cancel():
            self._callbacks.call(finish, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_bytes(image: object) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    raise TypeError(
        f"the image is of type {type(image).__name__}: give its encoded content as bytes, bytearray or memoryview"
    )
