"""Network cameras (RTSP) and cameras at the host (V4L2), through PyAV in a process of its own.

They run freely, and have no trigger: the picture of a trigger is the first one that was taken after it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
import urllib.parse
from collections.abc import Callable

from patchline import config
from patchline.camera.base import CameraLostError
from patchline.camera.hosted import Host, HostedCamera
from patchline.protocol import secret_files
from patchline.protocol.errors import SetupError

LOGIN = "PATCHLINE_CAMERA_LOGIN"
NEEDS = "the package av is needed; install Patchline with its extra `camera-stream`"
_HOST = Host(sys.executable, "stream_host.py", NEEDS, "install Python and Patchline again")
_PIXEL_FORMATS = ("Mono8", "BGR8")
_DEVICE = re.compile(r"/[\w./:+-]+")


class StreamCamera(HostedCamera):
    """A camera with a device of V4L2. See `Camera`.

    Args:
        place: the path of its device.
        rules: the settings of the camera.
        latency_ms: the age of a picture when it comes, at most.
    """

    def __init__(self, place: str, rules: config.CameraRules, latency_ms: int) -> None:
        super().__init__(_HOST, place, rules)
        self._latency_s = latency_ms / 1000

    def trigger(self) -> None:
        """See `Camera`."""
        self._process.call("trigger", taken_from=time.monotonic() + self._latency_s)


class NetworkCamera(StreamCamera):
    """A camera with an RTSP stream, by its url. User and password are read whenever it is opened: see `LOGIN`."""

    def __init__(self, url: str, rules: config.CameraRules, latency_ms: int) -> None:
        super().__init__(url, rules, latency_ms)
        self._url = url

    def open(self) -> None:
        """See `Camera`."""
        try:
            self._place = _with_login(self._url)  # it goes through a pipe, which no list of processes shows
        except SetupError as error:
            raise CameraLostError(str(error)) from error
        super().open()


def network(address: str, rules: config.CameraRules) -> Callable[[], NetworkCamera]:
    """Return what makes the camera of `rtsp:ADDRESS`.

    Raises:
        SetupError: the address, the login or a setting cannot be used. The text quotes no password.
    """
    try:
        parts = urllib.parse.urlsplit(f"rtsp:{address}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not address.isascii() or not address.isprintable() or " " in address:
        raise SetupError("rtsp: names no stream; write rtsp://HOST:PORT/PATH, as the camera's manual says")
    if "@" in parts.netloc:
        advice = f"put USER:PASSWORD into a file, and its path into {LOGIN}_FILE"
        raise SetupError(f"rtsp: every list of processes would show the user and password of the url; {advice}")
    latency_ms = _latency_ms("rtsp", rules)
    _with_login(parts.geturl())
    return lambda: NetworkCamera(parts.geturl(), rules, latency_ms)


def device(path: str, rules: config.CameraRules) -> Callable[[], StreamCamera]:
    """Return what makes the camera of `v4l2:PATH`.

    Raises:
        SetupError: the path or a setting cannot be used.
    """
    if not _DEVICE.fullmatch(path):
        raise SetupError("v4l2: names no device; write v4l2:/dev/video0, as v4l2-ctl --list-devices shows it")
    latency_ms = _latency_ms("v4l2", rules)
    return lambda: StreamCamera(path, rules, latency_ms)


def _with_login(url: str) -> str:
    """Return the url with the user and password of the environment, if it has some."""
    login = secret_files.secret(LOGIN)
    if login is None:
        return url
    user, colon, password = login.partition(":")
    if not user or not colon:
        raise SetupError(f"{LOGIN}: must be USER:PASSWORD")
    encoded = ":".join(urllib.parse.quote(word, safe="") for word in (user, password))
    return url.replace("//", f"//{encoded}@", 1)


def _latency_ms(kind: str, rules: config.CameraRules) -> int:
    """Return the latency. Raise SetupError if a setting does not fit a stream."""
    if importlib.util.find_spec("av") is None:
        raise SetupError(f"{kind}: {NEEDS}")
    for name in ("exposure_us", "gain", "region", "features"):
        if getattr(rules, name):
            advice = "in the camera's own pages" if kind == "rtsp" else "with v4l2-ctl"
            raise SetupError(f"{kind}: camera.{name} cannot be set from here; set it {advice}, and remove it here")
    if rules.pixel_format not in (None, *_PIXEL_FORMATS):
        raise SetupError(f"{kind}: camera.pixel_format must be one of {', '.join(_PIXEL_FORMATS)}")
    if rules.latency_ms is None:
        raise SetupError(
            f"{kind}: set camera.latency_ms: how old a picture is when it comes, at most. "
            "Without it, the picture of a part could show what was there before; docs/camera.md says how to measure it"
        )
    return rules.latency_ms
