"""Cameras as real processes."""

import os
import subprocess
import sys

from patchline import config
from patchline.services import server
from tests.system.conftest import wait_for

CAMERA = ("camera", "--line", "l1", "--category", "brick")


def configure(line, folder, plc=None, **camera):
    """Change settings of the camera, in a folder with a spool of its own. On a busy machine triggers are read late."""
    folder.mkdir(exist_ok=True)
    paths = line.settings.paths.model_copy(update={"spool": folder / "spool", "gate": folder / "gate"})
    changes = {"camera": config.Camera(**{"trigger_late_ms": 20_000} | camera), "paths": paths} | (
        {} if plc is None else {"plc": plc}
    )
    settings = line.settings.model_copy(update=changes)
    config.save(settings, folder / "config.yaml")
    line.folder = folder


def start_by_hand(line, source):
    """Start a camera whose triggers are lines, and wait until it is open. Its metrics are at `metrics_port`."""
    (port,) = server.free_ports(1)
    options = ["--deadline-ms", "60000", "--metrics-port", str(port), "--config", str(line.folder / "config.yaml")]
    camera = subprocess.Popen(
        [sys.executable, "-m", "patchline", *CAMERA, *options, source],
        env=os.environ | line.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line.on_exit(camera)
    camera.metrics_port = port
    address = f"http://127.0.0.1:{port}/metrics"
    wait_for(lambda: server.responds(address) and line.metric(port, "patchline_camera_ready") == 1)
    return camera


def trigger(camera, part=""):
    """Trigger a camera by hand."""
    camera.stdin.write(part + "\n")
    camera.stdin.flush()
