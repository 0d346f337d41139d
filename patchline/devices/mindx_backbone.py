"""The Ascend device: keeps a `mindx_host` process, talks to it, and replaces it when it fails.

The host has one image at a time. Whatever is not a complete answer to that image in time (a fault, an error code, an
empty or a wrong result, silence, a dead process) ends the host, so that no result can ever belong to another image.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.protocol.errors import DeviceLostError, Reason, Retry, SetupError

_log = structlog.get_logger(__name__)
_HOST = Path(__file__).with_name("mindx_host.py")
_BACKOFF_S = (0.2, 5.0)
_REPLY_BYTES = 65_536


@dataclass(frozen=True)
class Sdk:
    """Where the vendor's SDK is and how it is used; from the environment of the worker, since it differs by machine.

    `MX_SDK_HOME` is the SDK's own variable. PATCHLINE_MINDX_PYTHON is the interpreter that it wants (python3.9),
    PATCHLINE_MINDX_SURFACE is `stream`, `base` or `auto`, PATCHLINE_MINDX_TIMEOUT_MS the patience with one image.
    """

    python: str
    surface: str
    timeout_ms: int
    start_s: float
    most_failures: int
    environment: dict[str, str]

    @classmethod
    def from_environment(cls) -> Sdk:
        """Raises SetupError when a variable is none of its values."""
        surface = os.environ.get("PATCHLINE_MINDX_SURFACE", "auto")
        timeout = os.environ.get("PATCHLINE_MINDX_TIMEOUT_MS", "2000")
        if surface not in ("auto", "stream", "base") or not timeout.isdecimal() or not 1 <= int(timeout) <= 60_000:
            raise SetupError("PATCHLINE_MINDX_SURFACE is auto, stream or base; PATCHLINE_MINDX_TIMEOUT_MS 1 to 60000")
        return cls(
            python=os.environ.get("PATCHLINE_MINDX_PYTHON", "python3.9"),
            surface=surface,
            timeout_ms=int(timeout),
            start_s=60.0,
            most_failures=8,
            environment=_sdk_environment(os.environ.get("MX_SDK_HOME")),
        )


class HostFailedError(Exception):
    """The host gave no complete answer; it is ended already."""


class Host:
    """One `mindx_host` process, from its start to its first fault."""

    def __init__(self, sdk: Sdk, model: Path, side: int, device: int, features_bytes: int) -> None:
        self._timeout_s = sdk.timeout_ms / 1000 + 1.0  # the SDK's own timeout comes first, and says more
        self._image_bytes = side * side * 3
        # Room behind the expected features shows a result that is too long.
        size = self._image_bytes + features_bytes + 4096
        memory_fd = os.memfd_create("patchline-mindx")
        os.ftruncate(memory_fd, size)
        self._memory = mmap.mmap(memory_fd, size)
        requests_end, self._requests = os.pipe()
        self._replies, replies_end = os.pipe()
        inherited = (memory_fd, requests_end, replies_end)
        request = {
            "memory_fd": memory_fd,
            "requests_fd": requests_end,
            "replies_fd": replies_end,
            "memory_bytes": size,
            "model": str(model),
            "device": device,
            "side": side,
            "surface": sdk.surface,
            "timeout_ms": sdk.timeout_ms,
        }
        command = [sdk.python, str(_HOST), json.dumps(request)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=inherited, env=sdk.environment, stdin=subprocess.DEVNULL, stdout=2
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            advice = "PATCHLINE_MINDX_PYTHON names the SDK's interpreter"
            raise SetupError(f"{sdk.python}: cannot be started ({error.strerror}); {advice}") from error
        finally:
            for each in inherited:
                os.close(each)
        self.surface = self._reply(sdk.start_s).get("ready")

    def infer(self, image: NDArray[np.uint8]) -> tuple[bytes, str]:
        """The features of one image, as bytes with their dtype. Raises HostFailedError, and the host is gone."""
        self._memory[: self._image_bytes] = image.tobytes()
        try:
            os.write(self._requests, b"i")
        except OSError as error:
            raise self._failed(f"it does not take requests ({error.strerror})") from error
        reply = self._reply(self._timeout_s)
        count = reply.get("bytes")
        if not isinstance(count, int) or not isinstance(reply.get("dtype"), str):
            raise self._failed(f"it answered {reply}")
        return self._memory[self._image_bytes : self._image_bytes + count], reply["dtype"]

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for end in (self._requests, self._replies):
            os.close(end)
        self._memory.close()

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        """The next line of the host, which is the answer to our one request."""
        deadline, line = time.monotonic() + timeout_s, b""
        while not line.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._replies], [], [], left_s)[0]:
                raise self._failed(f"it was silent for {timeout_s:g} s")
            piece = os.read(self._replies, _REPLY_BYTES)
            if not piece:
                raise self._failed("it died")
            line += piece
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise self._failed(f"it answered {line[:100]!r}") from error
        if not isinstance(reply, dict) or "error" in reply:
            raise self._failed(str(reply["error"] if isinstance(reply, dict) else reply))
        return reply

    def _failed(self, why: str) -> HostFailedError:
        self.close()
        return HostFailedError(why)


class MindxBackbone:
    """Implements `backbone.Backbone` on one Ascend chip. Lanes take turns: one image is in flight."""

    precision: Precision = "f16"

    def __init__(
        self,
        model: Path,
        manifest: ModelManifest,
        side: int,
        device: int,
        on_failure: Callable[[], None],
    ) -> None:
        self.manifest = manifest
        self.side = side
        self.grid = manifest.grid(side)
        self._on_failure = on_failure
        self._shape = (self.grid[0] * self.grid[1], manifest.dim)
        self._sdk = Sdk.from_environment()
        self._model, self._device = model, device
        self._turn = threading.Lock()
        self._failures = 0
        self._host: Host | None = None
        try:
            self._host = self._start()
        except HostFailedError as error:
            raise SetupError(f"device ascend:{device}: {error}; see what `patchline doctor` finds") from error

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, side, side, 3] RGB -> float32 [n, patches, dim]; images go to the chip one by one.

        Raises:
            Retry: the host failed, and is replaced before the next image.
            DeviceLostError: it failed too often without one good answer between.
        """
        return np.stack([self._one(image) for image in images])

    def close(self) -> None:
        """End the host."""
        with self._turn:
            if self._host is not None:
                self._host.close()
                self._host = None

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._turn:
            try:
                self._host = self._host or self._start()
                content, dtype = self._host.infer(image)
                features = self._checked(content, dtype)
            except HostFailedError as error:
                self._host = None
                raise self._count(str(error)) from error
            self._failures = 0
            return features

    def _checked(self, content: bytes, dtype: str) -> NDArray[np.float32]:
        expected = self._shape[0] * self._shape[1]
        if dtype not in ("float16", "float32") or len(content) != expected * np.dtype(dtype).itemsize:
            if self._host is not None:
                self._host.close()
            raise HostFailedError(f"its result is {len(content)} bytes of {dtype}, expected {self._shape}")
        return np.frombuffer(content, dtype).reshape(self._shape).astype(np.float32)

    def _start(self) -> Host:
        if self._failures:
            first, longest = _BACKOFF_S
            time.sleep(min(longest, first * 2 ** (self._failures - 1)))
        bytes_at_most = self._shape[0] * self._shape[1] * 4
        host = Host(self._sdk, self._model, self.side, self._device, bytes_at_most)
        _log.info("ascend host started", device=self._device, surface=host.surface, model=self._model.name)
        return host

    def _count(self, why: str) -> Retry | DeviceLostError:
        self._failures += 1
        _log.warning("ascend host failed", device=self._device, why=why, failures=self._failures)
        self._on_failure()
        if self._failures >= self._sdk.most_failures:
            return DeviceLostError(f"device ascend:{self._device} failed {self._failures} times in a row: {why}")
        return Retry(Reason.DEVICE_FAILED, f"device ascend:{self._device}: {why}")


def _sdk_environment(home: str | None) -> dict[str, str]:
    """What the SDK's set_env.sh sets, for the host alone: its libraries break other programs (docs/ascend.md)."""
    if home is None:
        return dict(os.environ)
    libraries = [f"{home}/lib", f"{home}/opensource/lib", f"{home}/opensource/lib64"]
    added = {
        "MX_SDK_HOME": home,
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
        "PYTHONPATH": ":".join([f"{home}/python", os.environ.get("PYTHONPATH", "")]),
        "GST_PLUGIN_SCANNER": f"{home}/opensource/libexec/gstreamer-1.0/gst-plugin-scanner",
        "GST_PLUGIN_PATH": f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins",
    }
    return dict(os.environ) | added
