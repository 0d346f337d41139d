"""The process that speaks to a camera, and what is made of its answers. The library of the camera is a file here."""

import sys

import pytest

from patchline import config
from patchline.camera import hosted
from patchline.camera.base import CameraLostError
from patchline.camera.hosted import Host, HostedCamera, HostProcess, MissingLibraryError

LIBRARY = """
class Lost(Exception):
    pass

LOST = (Lost,)

class Host:
    def open(self, place, settings, frame_s):
        if place == "unplugged":
            raise Lost("no such camera")
        return {}
    def arm(self): pass
    def trigger(self): raise KeyError("SensorReadout")
    def grab(self, timeout_s): return {"size": 3}, b"abc"
    def find(self): return {"cameras": [{"place": "1"}]}
    def arrived(self): return ANSWER
    def close(self): pass
"""


@pytest.fixture
def host(tmp_path):
    def host(answer="{}", library=LIBRARY):
        path = tmp_path / "library.py"
        path.write_text(library.replace("ANSWER", answer))
        return Host(sys.executable, str(path), "the library is needed", "install Python")

    return host


@pytest.fixture
def opened(host):
    cameras = []

    def opened(answer="{}"):
        cameras.append(HostedCamera(host(answer), "1", config.CameraRules()))
        cameras[-1].open()
        return cameras[-1]

    yield opened
    for camera in cameras:
        camera.close()


def test_whatever_a_library_raises_is_the_reason_why_its_camera_is_lost_and_its_process_goes_on(opened):
    camera = opened()
    with pytest.raises(CameraLostError, match="KeyError: 'SensorReadout'"):
        camera.trigger()
    camera.arm()


def test_a_camera_that_its_library_calls_lost_is_lost_with_that_reason(host):
    camera = HostedCamera(host(), "unplugged", config.CameraRules())
    with pytest.raises(CameraLostError, match="no such camera"):
        camera.open()


@pytest.mark.parametrize("answer", ["[1]", "'text'", "7"])
def test_an_answer_that_is_no_object_is_said_and_ends_nothing_else(opened, answer):
    with pytest.raises(CameraLostError, match="arrived: the answer is no JSON object"):
        _ = opened(answer).has_frame


@pytest.mark.parametrize("size", ["-1", "'much'", "1 << 40", "None"])
def test_an_answer_whose_size_makes_no_sense_is_said(opened, size):
    with pytest.raises(CameraLostError, match="the answer says a size of"):
        _ = opened(f"{{'size': {size}}}").has_frame


def test_an_answer_without_its_fields_is_said(host, opened):
    with pytest.raises(CameraLostError, match="grab: the answer of the camera's process has no pixel_format"):
        opened().grab(0.1)
    with pytest.raises(CameraLostError, match="find: the answer of the camera's process has no name"):
        hosted.find(host())


def test_a_request_that_is_no_object_is_answered(host):
    process = HostProcess(host())
    process.start()
    process._process.stdin.write(b"[]\n")
    with pytest.raises(CameraLostError, match="TypeError"):
        process.call("arm")
    process.end()


def test_a_library_that_cannot_be_loaded_is_said_with_what_is_needed(host):
    with pytest.raises(MissingLibraryError, match=r"the library is needed \(.*no such thing"):
        hosted.find(host(library="raise AttributeError('no such thing')"))
