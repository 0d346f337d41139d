"""GigE Vision and USB3 Vision cameras, through Aravis in a process of the system's Python.

Debian has the bindings of Aravis for its own Python only. The process also makes every call end: a register of a dead
camera blocks for 2.5 s, and one that never comes back is killed.
"""

from __future__ import annotations

from patchline import config
from patchline.camera import hosted
from patchline.camera.hosted import FoundCamera, Host, HostedCamera


class AravisCamera(HostedCamera):
    """One camera. See `Camera`.

    Args:
        address: the camera's IP address, or the name that `patchline cameras` shows for a USB3 Vision camera. With two
            network cards, a GigE Vision camera that is opened by its name may answer and give no frame.
        rules: the settings of the camera.
    """

    def __init__(self, address: str, rules: config.CameraRules) -> None:
        super().__init__(_host(rules), address, rules)


def find(rules: config.CameraRules) -> list[FoundCamera]:
    """Return the cameras that Aravis sees. See `hosted.find`."""
    return hosted.find(_host(rules))


def _host(rules: config.CameraRules) -> Host:
    needs = "Debian's packages gir1.2-aravis-0.8 and python3-gi are needed"
    advice = "set camera.system_python to the Python of the system"
    return Host(str(rules.system_python), "aravis_host.py", needs, advice)
