"""The text that names a camera, such as `folder:pictures`, and the camera."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from patchline import config
from patchline.camera import pylon, stream
from patchline.camera.aravis import AravisCamera
from patchline.camera.base import Camera, CameraError
from patchline.camera.folder import FolderCamera
from patchline.camera.pylon import PylonCamera
from patchline.camera.simulated import Device, SimulatedCamera, parse_plan
from patchline.protocol.errors import SetupError

Source = Callable[[], Camera]


def parse(text: str, settings: config.CameraRules) -> Source:
    """Return what makes a camera. Each camera of it is a new connection to the same device.

    Raises:
        SetupError: there is no such kind of source, or its place is missing.
    """
    kind, _, place = text.partition(":")
    makers: dict[str, Callable[[str, config.CameraRules], Source]] = {
        "aravis": _aravis,
        "folder": _folder,
        "pylon": _pylon,
        "rtsp": stream.network,
        "simulated": _simulated,
        "v4l2": stream.device,
    }
    if kind not in makers:  # the rest may be a url with a password
        kinds = ", ".join(f"{name}:..." for name in [*makers, "mqtt"])
        raise SetupError(f"{kind!r} is no camera; write one of {kinds}")
    return makers[kind](place, settings)


def _aravis(place: str, rules: config.CameraRules) -> Source:
    if not place:
        raise SetupError("aravis: names no camera; write aravis:ADDRESS, as arv-tool-0.8 shows it")
    return lambda: AravisCamera(place, rules)


def _folder(place: str, _: config.CameraRules) -> Source:
    if not place:
        raise SetupError("folder: names no folder; write folder:PATH")
    if not Path(place).is_dir():
        raise SetupError(f"folder:{place}: is no folder")
    camera = FolderCamera(Path(place))
    return lambda: camera


def _pylon(place: str, rules: config.CameraRules) -> Source:
    if importlib.util.find_spec("pypylon") is None:
        raise SetupError(f"pylon:{place}: {pylon.NEEDS}")
    if not place:
        raise SetupError(f"pylon: names no camera; write pylon:SERIAL. {_seen_by_pylon()}")
    return lambda: PylonCamera(place, rules)


def _seen_by_pylon() -> str:
    try:
        cameras = pylon.find()
    except CameraError as error:
        return str(error)
    names = ", ".join(f"pylon:{camera.place} ({camera.name})" for camera in cameras)
    return f"pylon sees {names or 'no camera'}"


def _simulated(place: str, _: config.CameraRules) -> Source:
    device = Device(parse_plan(place))
    return lambda: SimulatedCamera(device)
