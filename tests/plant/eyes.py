"""What looks at the belt: a stand-in for a camera, or `patchline camera` with an emulated one, which the PLC triggers.

- `files`: `patchline.plant.camera` sends the file of each part. Its triggers are datagrams.
- `pylon`: pylon's emulated camera shows what lies before it. The belt leads a link to the picture of that part, and the
  emulator reads it anew at each trigger, so a picture that is taken too late is that of another part.
- `aravis`: Aravis' fake camera, with pictures of its own. The parts have none; what counts is their acts.
"""

import contextlib
import importlib.util
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import psutil

from patchline.plant.belt import Geometry
from tests import fake_gige
from tests.plant.goods import SYNTHETIC

SERIAL = "0815-0000"
POLL_MS = 10  # between two looks at the PLC
DEADLINE_MS = 2000
_LOST_PER_THOUSAND = 50  # packets of 1,500 bytes; a frame of the fake camera has eleven


def missing(kind):
    """Return what a kind lacks on this machine; None if nothing."""
    if kind == "pylon" and importlib.util.find_spec("pypylon") is None:
        return "pypylon is missing (the extra `pylon`)"
    if kind == "aravis" and not fake_gige.is_installed():
        return "aravis-tools, gir1.2-aravis-0.8 or python3-gi is missing"
    return None


def has_no(kind, fault):
    """Return True if it is a fault of cameras that this kind cannot have."""
    eye = {"files": FileEye, "pylon": PylonEye, "aravis": AravisEye}[kind]
    return fault in AravisEye.faults and fault not in eye.faults


@contextmanager
def eye(kind, folder, pictures, rate):
    """Yield what looks at the belt.

    Args:
        kind: see above.
        folder: for its files.
        pictures: those of the parts.
        rate: parts a second, at most.
    """
    if kind == "files":
        yield FileEye()
    elif kind == "pylon":
        yield PylonEye(folder, pictures, rate)
    else:
        with fake_gige.fake_camera() as device:
            yield AravisEye(device)


class FileEye:
    """The stand-in."""

    faults, view = ("camera_kill",), None

    def __init__(self):
        self.environment, self.settings = {}, {}

    def arguments(self, line, category, plc, port):
        """Return the command of the camera's process, after `python -m`."""
        options = ("--line", line, "--category", category, "--port", str(port), "--deadline-ms", str(DEADLINE_MS))
        return ("patchline.plant.camera", *options)


class ProductEye:
    """The product's own process, and what can happen to its camera.

    Attributes:
        source: what names the camera.
        environment: variables of the process.
        settings: the section `camera`.
        view: the link that shows what lies before the camera; None if it does not show it.
    """

    faults = ("camera_kill", "camera_freeze", "camera_loss", "merged_triggers")
    view = None

    def arguments(self, line, category, plc, port):
        """See `FileEye`."""
        options = ("--line", line, "--category", category, "--deadline-ms", str(DEADLINE_MS))
        return ("patchline", "camera", *options, "--triggers", plc, self.source)


class PylonEye(ProductEye):
    """pylon's emulated camera. Its pictures are grey, and all have one size."""

    def __init__(self, folder, pictures, rate):
        self.source, self.environment = f"pylon:{SERIAL}", {"PYLON_CAMEMU": "1"}
        self.view = folder / "before-the-camera.png"
        shown = folder / "shown"
        shown.mkdir()
        self.view.symlink_to(Path(pictures[0]).resolve())
        for name in ("a.png", "b.png"):  # the emulator keeps a single file in its memory
            (shown / name).symlink_to(self.view)
        height, width = cv2.imread(str(pictures[0]), cv2.IMREAD_GRAYSCALE).shape
        geometry = Geometry()
        apart_ms = (geometry.pitch_mm - 2 * geometry.scatter_mm) / (geometry.pitch_mm * rate) * 1000
        self.settings = {
            # Together they end before the next part is before the camera.
            "trigger_late_ms": int(apart_ms / 2),
            "frame_timeout_ms": int(apart_ms / 2),
            "reopen_max_s": 1.0,
            "pixel_format": "Mono8",
            "region": [0, 0, width, height],
            "exposure_us": 100.0,
            "features": {"TestImageSelector": "Off", "ImageFilename": str(shown), "ImageFileMode": "On"},
        }

    def exposing(self, camera):
        """Return the process that takes the pictures of a camera's process."""
        return _child(camera, "pylon_host.py")

    def take_away(self, camera):
        """Take the camera away: the emulated one lives in the process that speaks to it."""
        self.exposing(camera).kill()

    def bring_back(self):
        """It is there again by itself."""


class AravisEye(ProductEye):
    """Aravis' fake camera. The link to it can lose packets."""

    faults = (*ProductEye.faults, "packet_loss")

    def __init__(self, device):
        self.device, self.source, self.environment = device, f"aravis:{fake_gige.ADDRESS}", {}
        self.settings = SYNTHETIC | {"trigger_late_ms": 60, "frame_timeout_ms": 150, "reopen_max_s": 1.0}

    def exposing(self, camera):
        """See `PylonEye`."""
        return self.device.process

    def take_away(self, camera):
        """Cut its cable."""
        self.device.kill()

    def bring_back(self):
        """Plug it in again."""
        self.device.launch()

    def lose_packets(self, wanted):
        """Let its link lose packets, or not."""
        self.device.kill()
        self.device.lost_per_thousand = _LOST_PER_THOUSAND if wanted else 0
        self.device.launch()


def _child(process, word):
    """Return a child of a process whose command has a word. It may just start anew."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):
            for child in process.children():
                if word in "".join(child.cmdline()):
                    return child
        time.sleep(0.02)
    raise AssertionError(f"{word} does not run")
