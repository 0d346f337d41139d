"""The video devices (V4L2) of this host, as the kernel lists them. None is opened: a driver may block."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from patchline.camera import stream
from patchline.camera.base import CameraError
from patchline.camera.hosted import FoundCamera

_ROOT = Path("/")
_NAME = re.compile(r"video(\d+)")
_MAX_NAME = 80


def find(root: Path = _ROOT) -> list[FoundCamera]:
    """Return the video devices, by their numbers.

    A camera may have several: the first one gives pictures, the others mostly data about them. That they give pictures
    is not known without opening them.

    Args:
        root: folder with `sys` and `dev`.

    Raises:
        CameraError: the package that reads them is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise CameraError(stream.NEEDS)
    folder = root / "sys" / "class" / "video4linux"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
    return [_found(folder / f"video{number}", root / "dev" / f"video{number}") for number in numbers]


def _found(entry: Path, device: Path) -> FoundCamera:
    index = _read(entry / "index")
    if not device.exists():
        state = "not reachable: there is no such device"
    elif not os.access(device, os.R_OK | os.W_OK):
        state = "not reachable: permission denied; add the user to the group of the device"
    elif index not in ("0", ""):
        state = f"reachable, but it is device {index} of its camera, mostly without pictures"
    else:
        state = "reachable"
    return FoundCamera(str(device), _read(entry / "name") or "a device without a name", state)


def _read(path: Path) -> str:
    """Return the line of a file in printable characters; nothing if it cannot be read."""
    try:
        text = path.read_bytes().decode(errors="replace").strip()
    except OSError:  # it was unplugged
        return ""
    return "".join(character if character.isprintable() else "?" for character in text)[:_MAX_NAME]
