"""The video devices that `patchline cameras` lists, in a folder tree as the kernel makes it."""

import importlib.util
import os

import pytest

from patchline import config
from patchline.camera import aravis, listing, pylon, video_devices
from patchline.camera.base import CameraError
from patchline.camera.hosted import FoundCamera


@pytest.fixture
def host(tmp_path):
    """Plug a device in: its number, its name, and which one of its camera it is."""
    (tmp_path / "dev").mkdir()

    def plug(number, name, index="0\n", there=True):
        entry = tmp_path / "sys" / "class" / "video4linux" / f"video{number}"
        entry.mkdir(parents=True)
        for file, content in (("name", name), ("index", index)):
            if content is not None:
                (entry / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        if there:
            (tmp_path / "dev" / f"video{number}").touch()

    plug.root = tmp_path
    return plug


@pytest.fixture(autouse=True)
def reader_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_devices_are_listed_by_number_with_what_is_said_of_them(host):
    host(10, "Industrial Camera\n")
    host(2, "HD Webcam: HD Webcam\n")
    host(3, "HD Webcam: HD Webcam\n", index="1\n")
    (host.root / "sys" / "class" / "video4linux" / "v4l-subdev0").mkdir()
    found = video_devices.find(host.root)
    assert found == [
        FoundCamera(f"{host.root}/dev/video2", "HD Webcam: HD Webcam", "reachable"),
        FoundCamera(
            f"{host.root}/dev/video3",
            "HD Webcam: HD Webcam",
            "reachable, but it is device 1 of its camera, mostly without pictures",
        ),
        FoundCamera(f"{host.root}/dev/video10", "Industrial Camera", "reachable"),
    ]


def test_a_device_that_cannot_be_opened_is_listed_with_the_reason(host, monkeypatch):
    host(0, "unplugged", there=False)
    host(1, "of another group")
    monkeypatch.setattr(os, "access", lambda *_: False)
    states = [camera.state for camera in video_devices.find(host.root)]
    assert states == [
        "not reachable: there is no such device",
        "not reachable: permission denied; add the user to the group of the device",
    ]


def test_a_name_cannot_disturb_the_list(host):
    host(0, b"\x1b[2J\xffevil\nname" + b"x" * 500)
    host(1, None, index=None)
    first, second = (camera.name for camera in video_devices.find(host.root))
    assert first.isprintable()
    assert len(first) == 80
    assert second == "a device without a name"


def test_a_host_without_video_devices_or_without_their_reader_says_so(host, monkeypatch):
    assert video_devices.find(host.root) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CameraError, match="the package av is needed"):
        video_devices.find(host.root)


def test_the_list_of_cameras_has_the_source_to_copy(host, monkeypatch):
    host(0, "HD Webcam")
    find = video_devices.find
    monkeypatch.setattr(video_devices, "find", lambda: find(host.root))
    for library in (aravis, pylon):
        monkeypatch.setattr(library, "find", lambda *_: [])
    assert list(listing.lines(config.CameraRules())) == [
        "aravis: no camera answers",
        "pylon: no camera answers",
        f"v4l2:{host.root}/dev/video0  HD Webcam  reachable",
    ]
