"""Reads a network camera (RTSP) or a camera at the host (V4L2) through PyAV. Run by `host_loop.py`, in the Python that
has PyAV. Only the standard library and PyAV are used.

Such a camera has no trigger: it shows pictures at its own rate. A thread decodes all of them, so none waits in a
buffer, and keeps the first one that was taken after the trigger.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import deque
from typing import Any

import av

_CONNECT_S = 5.0  # of the connection and of the description of the stream, each
_FIRST_S = 13.0  # until there is a whole picture; the caller waits for 15 s
_SILENT_S = 3.0  # without a picture: the camera is lost
_SETTLED_S = 1.0  # what waited in buffers while the stream was opened has passed
_MAX_LAG_S = 5.0  # a stream that is so late is opened anew
_END_S = 1.0  # to tell the camera that nobody watches any more
_GAP = 1.4  # of the shortest time between two of the latest pictures
_DRIFT = 200e-6  # two quartz clocks differ by less
_BROKEN = "the picture or one that it builds upon is damaged, or the stream has no constant rate"
_WRITE = "write v4l2:/dev/video0, as v4l2-ctl --list-devices shows it"
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EIO)  # the last one: its name is unknown
_OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp", "allowed_media_types": "video", "analyzeduration": "500000"},
    "v4l2": {},
}


class Lost(Exception):
    """The camera is gone, or refuses what is needed."""


LOST = (Lost,)


class StreamClock:
    """Says when a picture would have arrived if nothing had delayed it, on the monotonic clock of the host.

    A picture that waited in a buffer of the network arrives late, with the time stamp that it always had. The least
    difference between arrival and time stamp is that of the pictures that did not wait.
    """

    def __init__(self) -> None:
        self._difference_s = float("inf")
        self._last = 0.0

    def moment(self, stamp_s: float, arrived: float) -> float:
        """Return the moment of a picture from its time stamp and its arrival, all in seconds."""
        drifted = self._difference_s + _DRIFT * (arrived - self._last)
        self._difference_s = min(drifted, arrived - stamp_s)
        self._last = arrived
        return stamp_s + self._difference_s


class Sequence:
    """Says whether a picture is missing since the last key frame, on which the next ones build.

    FFmpeg decodes H.264 on after a lost picture, without an error and without a mark (8.1). The time stamps show it.
    """

    def __init__(self) -> None:
        self._steps_s: deque[float] = deque(maxlen=31)
        self._last_s: float | None = None
        self._longest_s = 0.0

    def lacks_picture(self, stamp_s: float, is_key_frame: bool) -> bool:
        """Take the time stamp of the next picture, in seconds, and return True if one before it is missing."""
        if self._last_s is not None and stamp_s > self._last_s:
            self._steps_s.append(stamp_s - self._last_s)
            self._longest_s = max(self._longest_s, self._steps_s[-1])
        self._last_s = stamp_s
        if is_key_frame:
            self._longest_s = 0.0
        return bool(self._steps_s) and self._longest_s > _GAP * min(self._steps_s)


class Stream(threading.Thread):
    """Decodes a stream until it ends or fails.

    A picture counts as damaged from a sign of damage until the next whole picture that needs no other one: what a
    decoder makes up for lost data looks like the pictures before, and a defect would be missing in it.
    """

    def __init__(self, url: str, kind: str) -> None:
        super().__init__(name="stream", daemon=True)
        self._url, self._kind = url, kind
        self._clock, self._sequence = StreamClock(), Sequence()
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._damaged = True
        self._failure: str | None = None
        self._whole_since: float | None = None
        self._last = time.monotonic()
        self._wanted_from: float | None = None
        self._found: Any = None

    def run(self) -> None:
        """Decode the pictures."""
        started = time.monotonic()
        try:
            self._read()
            failure = "the stream has ended"
        except Lost as error:
            failure = str(error)
        except (av.FFmpegError, OSError, ValueError) as error:  # their texts quote the url, with its password
            failure = _reason(error, time.monotonic() - started)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises, the camera is opened anew
            failure = type(error).__name__
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def wait_for_pictures(self, timeout_s: float) -> None:
        """Return when whole pictures come, and none of them waited in a buffer. Raise Lost if none come."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._whole_since is None or time.monotonic() < self._whole_since + _SETTLED_S:
                if self._failure is not None:
                    raise Lost(self._failure)
                if time.monotonic() > deadline:
                    raise Lost(f"no whole picture within {timeout_s:.0f} s; set a shorter interval of key frames")
                self._changed.wait(0.1)

    def want(self, moment: float | None) -> None:
        """Keep the first picture from this moment on; None: keep none."""
        with self._changed:
            self._check()
            self._wanted_from, self._found = moment, None

    def take(self, timeout_s: float) -> Any:
        """Return the picture that was wanted, or None if it does not come in time. It is wanted no more."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._check()
            while self._wanted_from is not None and self._found is None and time.monotonic() < deadline:
                self._changed.wait(min(0.1, max(0.0, deadline - time.monotonic())))
                self._check()
            found, self._wanted_from, self._found = self._found, None, None
        return found

    def end(self) -> None:
        """End the stream, and tell the camera."""
        self._ended.set()
        self.join(_END_S)

    def _check(self) -> None:
        if self._failure is not None:
            raise Lost(self._failure)
        if time.monotonic() > self._last + _SILENT_S:
            raise Lost(f"no picture for {_SILENT_S:.0f} s")

    def _read(self) -> None:
        timeouts = (_CONNECT_S, _SILENT_S)
        with av.open(self._url, format=self._kind, options=_OPTIONS[self._kind], timeout=timeouts) as container:
            if not container.streams.video:
                raise Lost("the stream has no pictures; name the path of the video stream, as the camera's manual says")
            video = container.streams.video[0]
            video.thread_type = "SLICE"  # threads for whole frames would delay each picture by some frames
            for packet in container.demux(video):
                if self._ended.is_set():
                    return
                self._decode(packet, time.monotonic())

    def _decode(self, packet: Any, arrived: float) -> None:
        try:
            pictures = packet.decode()
        except av.InvalidDataError:
            self._damaged = True
            return
        for picture in pictures:
            is_whole = not (packet.is_corrupt or picture.is_corrupt)
            self._damaged = not is_whole or (self._damaged and not picture.key_frame)
            if picture.pts is not None:
                stamp_s = float(picture.pts * picture.time_base)
                is_damaged = self._sequence.lacks_picture(stamp_s, picture.key_frame) or self._damaged
                self._add(picture, is_damaged, self._clock.moment(stamp_s, arrived))

    def _add(self, picture: Any, is_damaged: bool, moment: float) -> None:
        now = time.monotonic()
        if now > moment + _MAX_LAG_S:
            raise Lost(
                f"the pictures are {now - moment:.0f} s late; the network or this host is too slow for the stream"
            )
        with self._changed:
            self._last = now
            if self._whole_since is None and not is_damaged:
                self._whole_since = now
            if self._wanted_from is not None and self._found is None and moment >= self._wanted_from:
                self._found = (picture, is_damaged)
            self._changed.notify_all()


class Host:
    """One camera."""

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._pixel_format = ""

    def open(self, place: str, settings: dict[str, Any], frame_s: float) -> dict[str, Any]:
        """Open the stream, and wait for its pictures."""
        kind = "rtsp" if place.startswith("rtsp:") else "v4l2"
        if kind == "v4l2":
            _check_device(place)
        self._pixel_format = settings["pixel_format"] or "BGR8"
        self._stream = Stream(place, kind)
        self._stream.start()
        self._stream.wait_for_pictures(_FIRST_S + frame_s)
        return {}

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            self._stream.end()
        os._exit(0)  # the thread may be in a call to a device that never returns

    def arm(self) -> dict[str, Any]:
        """Want no picture."""
        self._opened().want(None)
        return {}

    def trigger(self, taken_from: float) -> dict[str, Any]:
        """Want the first picture of this moment of the monotonic clock, or later."""
        self._opened().want(taken_from)
        return {}

    def grab(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Return the picture that was wanted."""
        found = self._opened().take(timeout_s)
        if found is None:
            return {"error": "no_frame", "text": f"no picture within {timeout_s * 1000:.0f} ms"}, b""
        picture, is_damaged = found
        if is_damaged:
            return {"error": "broken", "text": _BROKEN}, b""
        pixels = picture.to_ndarray(format={"Mono8": "gray", "BGR8": "bgr24"}[self._pixel_format])
        data = pixels.tobytes()
        header = {"width": picture.width, "height": picture.height, "size": len(data)}
        return header | {"pixel_format": self._pixel_format}, data

    def _opened(self) -> Stream:
        if self._stream is None:
            raise Lost("the camera is not open")
        return self._stream


def _check_device(path: str) -> None:
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):  # noqa: PTH116 - one call
            raise Lost(f"{path} is no device; {_WRITE}")
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        raise Lost(f"{path}: permission denied; add the user to the group of the device, mostly video") from None
    except OSError as error:
        raise Lost(f"{path}: {error.strerror}; {_WRITE}") from None


def _reason(error: Exception, after_s: float) -> str:
    if isinstance(error, (av.ExitError, av.InvalidDataError)) and after_s >= _SILENT_S:
        return "the camera is silent"  # FFmpeg calls an answer that does not come invalid, too
    if isinstance(error, av.HTTPUnauthorizedError):
        return "the camera refuses the user and password of PATCHLINE_CAMERA_LOGIN, or wants some"
    if isinstance(error, av.HTTPNotFoundError):
        return "the camera has no stream at the path of this url; its manual names the path"
    if isinstance(error, ConnectionRefusedError):
        return "the host of this url takes no connection; switch RTSP on in the camera, and write its port (mostly 554)"
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return f"the host of this url is not reached ({error.strerror}); check its address, and ping it from here"
    return getattr(error, "strerror", None) or type(error).__name__
