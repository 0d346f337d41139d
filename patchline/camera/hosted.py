"""A camera in a process of its own: `host_loop.py`, with the file that speaks to one kind of camera.

The process makes every call end: one that does not return in time is killed, and the camera opened anew. A crash of the
camera's library ends no other process.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchline import config
from patchline.camera.base import BrokenFrameError, CameraError, CameraLostError, Frame, NoFrameError
from patchline.devices.child_process import UnkillableProcesses
from patchline.runtime.parent import end_with_parent

_FOLDER = Path(__file__).parent
_CALL_S, _GRACE_S, _LIST_S, _END_S = 15.0, 8.0, 60.0, 2.0
_MIN_FIRST_FRAME_S = 1.0
_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 65_536
_MAX_FRAME_BYTES = 1 << 31
_ENDED = "the process of the camera has ended"
_UNKILLABLE = UnkillableProcesses()
_ERRORS: dict[str, type[CameraError]] = {"no_frame": NoFrameError, "broken": BrokenFrameError}


@dataclass(frozen=True)
class Host:
    """What runs the process of one kind of camera.

    Attributes:
        python: that has the camera's library.
        file: its name in this folder.
        needs: said if the library is not installed.
        advice: said if `python` cannot be started.
    """

    python: str
    file: str
    needs: str
    advice: str


@dataclass(frozen=True)
class FoundCamera:
    """A camera that a library sees.

    Attributes:
        place: names it in a source, after the kind and the colon.
        name: vendor, model and serial number, for people.
        state: whether it can be opened, for people.
    """

    place: str
    name: str
    state: str


class MissingLibraryError(CameraLostError):
    """The library of the camera is not installed. The text says what is needed."""


class HostProcess:
    """The process, from `start` to `end`. One call at a time."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    @property
    def pid(self) -> int | None:
        """Its process id; None: there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process anew.

        Raises:
            CameraLostError: it cannot be started.
        """
        self.end()
        try:
            self._process = subprocess.Popen(
                [self._host.python, "-I", str(_FOLDER / "host_loop.py"), str(_FOLDER / self._host.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                preexec_fn=end_with_parent(),
            )
        except OSError as error:
            text = f"{self._host.python} cannot be started ({error.strerror}); {self._host.advice}"
            raise CameraLostError(text) from error

    def call(self, name: str, limit_s: float = _CALL_S, **arguments: object) -> tuple[dict[str, Any], bytes]:
        """Send a request, and return the answer and the bytes that follow it.

        Raises:
            CameraError: the host says so.
            CameraLostError: there is no process, or it did not answer in time and was killed.
            MissingLibraryError: the library is not installed.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise CameraLostError("the camera is not open")
        deadline = time.monotonic() + limit_s
        try:
            process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
            answer = _parse(self._read_line(process.stdout.fileno(), deadline))
            data = self._read(process.stdout.fileno(), answer.get("size", 0), deadline)
        except (OSError, ValueError, RecursionError) as error:
            process.kill()
            reason = _ENDED if isinstance(error, BrokenPipeError) else error
            raise CameraLostError(f"{name}: {reason}") from error
        if answer.get("error") == "missing":
            raise MissingLibraryError(f"{self._host.needs} ({answer.get('text')})")
        if "error" in answer:
            raise _ERRORS.get(str(answer["error"]), CameraLostError)(str(answer.get("text")))
        return answer, data

    def end(self) -> None:
        """End the process. Raises nothing."""
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


class HostedCamera:
    """One camera. See `Camera`.

    Args:
        host: of its kind.
        place: its address or serial number.
        rules: the settings of the camera.
    """

    def __init__(self, host: Host, place: str, rules: config.CameraRules) -> None:
        self._process = HostProcess(host)
        self._place = place
        self._settings = rules.of_device()
        self._frame_s = max(_MIN_FIRST_FRAME_S, rules.frame_timeout_ms / 1000)

    def open(self) -> None:
        """See `Camera`."""
        self._process.start()
        try:
            limit_s = _CALL_S + self._frame_s
            self._process.call("open", limit_s, place=self._place, settings=self._settings, frame_s=self._frame_s)
        except CameraError:
            self.close()
            raise

    def arm(self) -> None:
        """See `Camera`."""
        self._process.call("arm")

    def trigger(self) -> None:
        """See `Camera`."""
        self._process.call("trigger")

    def grab(self, timeout_s: float) -> Frame:
        """See `Camera`."""
        answer, data = self._process.call("grab", timeout_s + _GRACE_S, timeout_s=timeout_s)
        return Frame(data, *_fields(answer, "grab", pixel_format=str, width=int, height=int))

    @property
    def pid(self) -> int | None:
        """The process that speaks to the camera."""
        return self._process.pid

    @property
    def has_frame(self) -> bool:
        """A frame waits to be grabbed."""
        (frames,) = _fields(self._process.call("arrived")[0], "arrived", frames=int)
        return bool(frames)

    def close(self) -> None:
        """See `Camera`."""
        self._process.end()


def find(host: Host) -> list[FoundCamera]:
    """Return the cameras that a library sees on this host.

    Raises:
        CameraLostError: they cannot be listed.
        MissingLibraryError: the library is not installed.
    """
    process = HostProcess(host)
    try:
        process.start()
        answer, _ = process.call("find", _LIST_S)
    finally:
        process.end()
    (cameras,) = _fields(answer, "find", cameras=list)
    return [FoundCamera(*_fields(camera, "find", place=str, name=str, state=str)) for camera in cameras]


def _parse(line: bytes) -> dict[str, Any]:
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError(f"the answer is no JSON object: {line[:60]!r}")
    size = answer.get("size", 0)
    if not isinstance(size, int) or not 0 <= size <= _MAX_FRAME_BYTES:
        raise ValueError(f"the answer says a size of {size!r}")
    return answer


def _fields(answer: object, call: str, **kinds: type) -> list[Any]:
    """Return the fields of an answer. Raise CameraLostError if one is missing, or of another type."""
    for name, kind in kinds.items():
        if not isinstance(answer, dict) or not isinstance(answer.get(name), kind):
            raise CameraLostError(f"{call}: the answer of the camera's process has no {name}: {str(answer)[:200]}")
    assert isinstance(answer, dict)
    return [answer[name] for name in kinds]


def _read_some(pipe: int, deadline: float, size: int = _MAX_HEADER_BYTES) -> bytes:
    readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    if not readable:
        raise TimeoutError("the process of the camera does not answer, and is ended")
    data = os.read(pipe, size)
    if not data:
        raise OSError(_ENDED)
    return data
