"""Backbones on the Ascend: use a `mindx_host` process, and replace it when it fails.

The host processes one image at a time. Anything but a complete answer in time ends the host: a fault, an error code, an
empty or wrong result, silence, a dead process. So no result can belong to another image.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from patchline.devices import mindx_link
from patchline.devices.mindx_link import Assignment, HostAbsentError, HostFailedError, HostMismatchError
from patchline.devices.mindx_sdk import Sdk
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.devices.om_manifest import OmManifest
from patchline.protocol.errors import DeviceLostError, DeviceStuckError, MismatchError, Reason, Retry, SetupError

_log = structlog.get_logger(__name__)
_BACKOFF_S = (0.2, 5.0)
# The shape and the dtype of an image for a kind of `.om`.
_INPUTS: dict[str, Callable[[int], tuple[tuple[int, ...], str]]] = {
    "uint8_nhwc": lambda side: ((1, side, side, 3), "uint8"),
    "float32_nchw": lambda side: ((1, 3, side, side), "float32"),
}


class Host:
    """One host process with its shared memory, from its start to its first failure."""

    def __init__(self, sdk: Sdk, model: Path, om: OmManifest, device: int, features_bytes: int) -> None:
        self._timeout_s = sdk.timeout_ms / 1000 + 1.0  # the timeout of the SDK comes first and has a better message
        shape, dtype = _INPUTS[om.input](om.side)
        self._image_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        # The additional space reveals a result that is too long.
        size = self._image_bytes + features_bytes + 4096
        memory_fd = _make_memory(size)
        try:
            self._memory = mmap.mmap(memory_fd, size)
            assignment = Assignment(model, om.sha256, shape, dtype, self._image_bytes, device, memory_fd, size)
            self._link = mindx_link.connect(sdk, assignment)
        finally:
            os.close(memory_fd)
        self.surface = self._read_reply(sdk.start_timeout_s).get("ready")

    def infer(self, image: NDArray[Any]) -> tuple[bytes, str]:
        """Compute the features of one image, as bytes with their dtype.

        Raises:
            HostFailedError: the host failed, and was ended.
        """
        self._memory[: self._image_bytes] = image.tobytes()
        try:
            self._link.send(b"i")
        except OSError as error:
            raise self._end(f"it accepts no requests ({error.strerror})") from error
        reply = self._read_reply(self._timeout_s)
        count = reply.get("bytes")
        if not isinstance(count, int) or not isinstance(reply.get("dtype"), str):
            raise self._end(f"it answered {reply}")
        return self._memory[self._image_bytes : self._image_bytes + count], reply["dtype"]

    def close(self) -> None:
        """End the process.

        Raises:
            DeviceStuckError: it was killed, and does not end.
        """
        self._memory.close()
        self._link.close()

    def _read_reply(self, timeout_s: float) -> dict[str, Any]:
        try:
            return self._link.read_reply(timeout_s)
        except HostFailedError:
            self.close()
            raise

    def _end(self, reason: str) -> HostFailedError:
        self.close()
        return HostFailedError(reason)


class MindxBackbone:
    """Implements `backbone.Backbone` on one Ascend chip. A lock lets one image at a time onto the chip."""

    precision: Precision = "f16"

    def __init__(
        self,
        model: Path,
        manifest: ModelManifest,
        om: OmManifest,
        device: int,
        on_failure: Callable[[], None],
    ) -> None:
        self.manifest = manifest
        self.model_sha256, self.source_sha256 = om.sha256, om.source_sha256
        self.side = om.side
        self.grid = manifest.grid(om.side)
        self._om = om
        self._on_failure = on_failure
        self._shape = (self.grid[0] * self.grid[1], manifest.dim)
        self._sdk = Sdk.from_environment()
        self._model, self._device = model, device
        self._lock = threading.Lock()
        self._failures = 0
        self._host: Host | None = None
        try:
            self._host = self._start_first()
        except HostMismatchError as error:
            raise MismatchError(f"device ascend:{device}: {error}") from error
        except HostFailedError as error:
            raise SetupError(f"device ascend:{device}: {error}; run `patchline doctor` for the cause") from error

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Extract the features of images, one after the other.

        Args:
            images: uint8 [n, side, side, 3], RGB.

        Returns:
            float32 [n, patches, dim].

        Raises:
            Retry: the host failed; a new one starts before the next image.
            DeviceLostError: the host failed too often in a row, or cannot be ended.
        """
        return np.stack([self._extract_one(image) for image in images])

    def close(self) -> None:
        """End the host."""
        with self._lock:
            host, self._host = self._host, None
            with contextlib.suppress(DeviceStuckError):
                if host is not None:
                    host.close()

    def _extract_one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lock:
            try:
                self._host = self._host or self._start()
                content, dtype = self._host.infer(self._input(image))
                features = self._parse_features(content, dtype)
            except DeviceStuckError as error:
                self._host = None
                _log.error("ascend host cannot be ended", device=self._device, reason=str(error))
                self._on_failure()
                raise
            except HostFailedError as error:
                self._host = None
                raise self._record_failure(str(error)) from error
            self._failures = 0
            return features

    def _input(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """An image, uint8 [side, side, 3], as the `.om` takes it."""
        if self._om.input == "uint8_nhwc":
            return image
        mean, std = (np.array(values, np.float32) for values in (self.manifest.mean, self.manifest.std))
        normalised = (image.astype(np.float32) - mean) / std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def _parse_features(self, content: bytes, dtype: str) -> NDArray[np.float32]:
        expected = self._shape[0] * self._shape[1]
        if dtype not in ("float16", "float32") or len(content) != expected * np.dtype(dtype).itemsize:
            if self._host is not None:
                self._host.close()
            raise HostFailedError(f"its result is {len(content)} bytes of {dtype}, expected {self._shape}")
        features = np.frombuffer(content, dtype)
        if self._om.output == "nchw":
            return np.ascontiguousarray(features.reshape(self._shape[::-1]).T, np.float32)
        return features.reshape(self._shape).astype(np.float32)

    def _start_first(self) -> Host:
        """Start a host. One that listens elsewhere is waited for: after a boot it may come later than this process."""
        while True:
            try:
                host = self._start()
            except HostAbsentError as error:
                self._failures += 1
                _log.warning("ascend host absent", device=self._device, reason=str(error), failures=self._failures)
                if self._failures >= self._sdk.max_failures:
                    raise
            else:
                self._failures = 0
                return host

    def _start(self) -> Host:
        if self._failures:
            first_s, max_s = _BACKOFF_S
            time.sleep(min(max_s, first_s * 2 ** (self._failures - 1)))
        max_features_bytes = self._shape[0] * self._shape[1] * 4
        host = Host(self._sdk, self._model, self._om, self._device, max_features_bytes)
        _log.info("ascend host started", device=self._device, surface=host.surface, model=self._model.name)
        return host

    def _record_failure(self, reason: str) -> Retry | DeviceLostError:
        self._failures += 1
        _log.warning("ascend host failed", device=self._device, reason=reason, failures=self._failures)
        self._on_failure()
        if self._failures >= self._sdk.max_failures:
            return DeviceLostError(f"device ascend:{self._device} failed {self._failures} times in a row: {reason}")
        return Retry(Reason.DEVICE_FAILED, f"device ascend:{self._device}: {reason}")


def _make_memory(size: int) -> int:
    """A file descriptor of memory to share. It cannot shrink below this process, which would crash it (SIGBUS)."""
    descriptor = os.memfd_create("patchline-mindx", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor
