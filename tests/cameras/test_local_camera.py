"""Cameras at the host (V4L2), as far as a machine without one can tell: devices that are none, absent or forbidden."""

import os
import shutil
import stat
import sys
from dataclasses import replace

import pytest

pytest.importorskip("av")

from patchline import config
from patchline.camera import stream
from patchline.camera.base import CameraLostError

RULES = config.CameraRules(latency_ms=100)
NOBODY = 65534


def assert_lost(path, reason):
    camera = stream.device(str(path), RULES)()
    try:
        with pytest.raises(CameraLostError, match=reason):
            camera.open()
    finally:
        camera.close()


def test_a_device_that_is_not_there_is_said():
    assert_lost("/dev/no-such-camera", "/dev/no-such-camera: No such file or directory")


def test_a_file_that_is_no_device_is_said(tmp_path):
    (tmp_path / "video0").write_bytes(b"")
    assert_lost(tmp_path / "video0", "is no device; write v4l2:/dev/video0")


def test_a_device_that_is_no_camera_is_said():
    assert_lost("/dev/null", "Inappropriate ioctl for device")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_device_that_the_user_may_not_open_is_said(tmp_path, monkeypatch):
    device, python = tmp_path / "video0", tmp_path / "python"
    os.mknod(device, stat.S_IFCHR | 0o600, os.stat("/dev/null").st_rdev)  # noqa: PTH116 - a device number
    os.chown(device, NOBODY, NOBODY)
    python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(stream, "_HOST", replace(stream._HOST, python=str(python)))
    assert_lost(device, "permission denied; add the user to the group of the device")
