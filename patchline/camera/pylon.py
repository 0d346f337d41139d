"""Cameras of Basler, through pylon in a process of its own.

pypylon is an extra: its wheel brings pylon's runtime, under a licence of Basler's. A process that ends while one of its
threads waits for a frame crashes in it, and so does a fork that uses it. Therefore it has a process of its own.
"""

from __future__ import annotations

import sys

from patchline import config
from patchline.camera import hosted
from patchline.camera.hosted import FoundCamera, Host, HostedCamera

NEEDS = "pypylon is not installed; install Patchline with its extra `pylon`"
_HOST = Host(
    python=sys.executable,
    file="pylon_host.py",
    needs=NEEDS,
    advice="install Python and Patchline again",
)


class PylonCamera(HostedCamera):
    """One camera. See `Camera`.

    Args:
        serial: the camera's serial number.
        rules: the settings of the camera.
    """

    def __init__(self, serial: str, rules: config.CameraRules) -> None:
        super().__init__(_HOST, serial, rules)


def find() -> list[FoundCamera]:
    """Return the cameras that pylon sees. See `hosted.find`."""
    return hosted.find(_HOST)
