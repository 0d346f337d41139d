"""A fake GigE Vision camera of Aravis, as a process on loopback: real GVCP and GVSP packets."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from patchline import config
from patchline.camera.aravis import AravisCamera
from patchline.camera.base import CameraLostError

FAKE = "arv-fake-gv-camera-0.8"
ADDRESS = "127.0.0.1"  # it takes the address of an interface only, and its port is fixed
RULES = config.CameraRules()
_ENDED_S, _UP_S = 10.0, 60.0


def is_installed():
    """Return True if Debian's packages aravis-tools, gir1.2-aravis-0.8 and python3-gi are there."""
    script = "import gi; gi.require_version('Aravis', '0.8'); from gi.repository import Aravis"
    command = [str(RULES.system_python), "-I", "-c", script]
    return bool(shutil.which(FAKE)) and subprocess.run(command, capture_output=True, check=False).returncode == 0


class FakeCamera:
    """The camera. `lost_per_thousand` is the share of its packets that are lost, from its next start on."""

    def __init__(self, lost_per_thousand=0):
        self.lost_per_thousand = lost_per_thousand
        self.process = None

    def launch(self):
        """Start the camera."""
        command = [FAKE, "-i", ADDRESS, "-s", "PL01", "-r", str(self.lost_per_thousand)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self):
        """Start the camera, and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + _UP_S
        probe = AravisCamera(ADDRESS, RULES)
        while True:
            try:
                probe.open()
                break
            except CameraLostError:
                assert time.monotonic() < deadline, "the fake camera does not answer"
            finally:
                probe.close()

    def kill(self):
        """Kill the camera, as if its cable was cut."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_ENDED_S)
            self.process = None


@contextmanager
def fake_camera(lost_per_thousand=0):
    """Run a fake camera. One at a time on this machine, since all have the same port."""
    with Path(tempfile.gettempdir(), f"patchline-fake-gige-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        camera = FakeCamera(lost_per_thousand)
        try:
            camera.start()
            yield camera
        finally:
            camera.kill()
