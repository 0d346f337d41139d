"""GigE Vision and USB3 Vision cameras, through Aravis in a process of the system's Python.

Debian has the bindings of Aravis for its own Python only. The process also makes every call end: a register of a dead
camera blocks for 2.5 s, and one that never comes back is killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from patchline import config
from patchline.camera.base import BrokenFrameError, CameraError, CameraLostError, Frame, NoFrameError
from patchline.devices.child_process import UnkillableProcesses
from patchline.runtime.parent import end_with_parent

_HOST = Path(__file__).with_name("aravis_host.py")
_CALL_S, _GRACE_S, _END_S, _EXIT_S = 15.0, 8.0, 2.0, 0.5
_MIN_FIRST_FRAME_S = 1.0
_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 65_536
_UNKILLABLE = UnkillableProcesses()
_ERRORS: dict[str, type[CameraError]] = {"no_frame": NoFrameError, "broken": BrokenFrameError}


class AravisCamera:
    """One camera. See `Camera`.

    Args:
        address: the camera's IP address, or the name that `arv-tool-0.8` shows for a USB3 Vision camera. With two
            network cards, a GigE Vision camera that is opened by its name may answer and give no frame.
        rules: the settings of the camera.
    """

    def __init__(self, address: str, rules: config.CameraRules) -> None:
        self._address = address
        self._python = str(rules.system_python)
        self._settings = rules.model_dump(include={"pixel_format", "region", "exposure_us", "gain"})
        self._first_frame_s = max(_MIN_FIRST_FRAME_S, rules.frame_timeout_ms / 1000)
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def open(self) -> None:
        """See `Camera`."""
        self.close()
        try:
            self._process = subprocess.Popen(
                [self._python, "-I", str(_HOST)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                preexec_fn=end_with_parent(),
            )
        except OSError as error:
            advice = "set camera.system_python to the Python of the system"
            raise CameraLostError(f"{self._python} cannot be started ({error.strerror}); {advice}") from error
        try:
            self._call(
                "open",
                _CALL_S + self._first_frame_s,
                address=self._address,
                settings=self._settings,
                frame_s=self._first_frame_s,
            )
        except CameraError:
            self.close()
            raise

    def arm(self) -> None:
        """See `Camera`."""
        self._call("arm")

    def trigger(self) -> None:
        """See `Camera`."""
        self._call("trigger")

    def grab(self, timeout_s: float) -> Frame:
        """See `Camera`."""
        answer, data = self._call("grab", timeout_s + _GRACE_S, timeout_s=timeout_s)
        return Frame(data, answer["pixel_format"], answer["width"], answer["height"])

    @property
    def pid(self) -> int | None:
        """The process of the system's Python."""
        return None if self._process is None else self._process.pid

    @property
    def has_frame(self) -> bool:
        """A frame waits to be grabbed."""
        return bool(self._call("arrived")[0]["frames"])

    def close(self) -> None:
        """See `Camera`."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            _UNKILLABLE.kill(process)

    def _call(self, name: str, limit_s: float = _CALL_S, **arguments: object) -> tuple[dict[str, Any], bytes]:
        """Send a request, and return the answer and the bytes that follow it."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise CameraLostError("the camera is not open")
        deadline = time.monotonic() + limit_s
        try:
            process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
            answer = json.loads(self._read_line(process.stdout.fileno(), deadline))
            data = self._read(process.stdout.fileno(), answer.get("size", 0), deadline)
        except (OSError, ValueError) as error:
            raise CameraLostError(f"{name}: {error}; {_end(process)}") from error
        if "error" in answer:
            raise _ERRORS.get(answer["error"], CameraLostError)(answer["text"])
        return answer, data

    def _read_line(self, pipe: int, deadline: float) -> bytes:
        while b"\n" not in self._unread:
            if len(self._unread) > _MAX_HEADER_BYTES:
                raise ValueError("the answer is no line of JSON")
            self._unread += _read_some(pipe, deadline)
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _read(self, pipe: int, size: int, deadline: float) -> bytes:
        chunks, missing = [self._unread[:size]], size - len(self._unread)
        self._unread = self._unread[size:]
        while missing > 0:
            chunks.append(_read_some(pipe, deadline, min(missing, _CHUNK_BYTES)))
            missing -= len(chunks[-1])
        return b"".join(chunks)


def _read_some(pipe: int, deadline: float, size: int = _MAX_HEADER_BYTES) -> bytes:
    readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    if not readable:
        raise TimeoutError("the process of the camera does not answer")
    data = os.read(pipe, size)
    if not data:
        raise OSError("the process of the camera has ended")
    return data


def _end(process: subprocess.Popen[bytes]) -> str:
    """Kill the process, unless it ends by itself, and return what to do."""
    try:
        code = process.wait(_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = None
    if code == 1:
        return "Debian's packages gir1.2-aravis-0.8 and python3-gi are needed"
    return "the process of the camera is ended"
