"""What can be opened on this host: the cameras that each library sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from patchline import config
from patchline.camera import aravis, pylon, video_devices
from patchline.camera.base import CameraError
from patchline.camera.hosted import FoundCamera

# For each kind of source that can be searched for. A function raises CameraError if its library is missing or fails.
_FINDERS: dict[str, Callable[[config.CameraRules], list[FoundCamera]]] = {
    "aravis": aravis.find,
    "pylon": lambda _: pylon.find(),
    "v4l2": lambda _: video_devices.find(),
}


def lines(rules: config.CameraRules) -> Iterator[str]:
    """Yield a line for each camera: its source, its name, and whether it can be opened. Or why there is none."""
    for kind, find in _FINDERS.items():
        try:
            cameras = find(rules)
        except CameraError as error:
            yield f"{kind}: {error}"
            continue
        for camera in cameras:
            yield f"{kind}:{camera.place}  {camera.name}  {camera.state}"
        if not cameras:
            yield f"{kind}: no camera answers"
