"""GigE Vision cameras: Aravis in a process of the system's Python, against Aravis' fake camera on loopback."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from patchline import config
from patchline.camera import aravis
from patchline.camera.aravis import AravisCamera
from patchline.camera.base import BrokenFrameError, CameraLostError, NoFrameError
from patchline.protocol import messages
from tests import fake_gige
from tests.camera_contract import FRAME_S, NO_FRAME_S, CameraContract
from tests.fake_gige import ADDRESS
from tests.queues import JOBS_QUEUE
from tests.system.cameras import configure, start_by_hand, trigger
from tests.system.conftest import wait_for

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not fake_gige.is_installed(), reason="aravis-tools, gir1.2-aravis-0.8 or python3-gi is missing"),
]


@pytest.fixture
def fake():
    with fake_gige.fake_camera() as camera:
        yield camera


def camera_with(**rules):
    return AravisCamera(ADDRESS, config.CameraRules(**rules))


class TestAravisCamera(CameraContract):
    @pytest.fixture
    def camera(self, fake):
        return camera_with()

    @pytest.fixture
    def kill(self, fake):
        return fake.kill

    @pytest.fixture
    def revive(self, fake):
        return fake.start

    def test_arming_throws_away_the_frame_of_an_earlier_trigger(self, armed):
        armed.trigger()
        deadline = time.monotonic() + 30
        while not armed.has_frame:
            assert time.monotonic() < deadline
        armed.arm()
        with pytest.raises(NoFrameError):
            armed.grab(NO_FRAME_S)
        armed.trigger()
        assert armed.grab(FRAME_S).data


def test_the_first_trigger_after_every_opening_gives_a_frame(fake):
    """As root, Aravis took other packets on loopback for the first of a stream, and all frames for old ones."""
    camera = camera_with()
    for _ in range(10):
        camera.open()
        camera.arm()
        camera.trigger()
        assert camera.grab(FRAME_S).data
        camera.close()


def test_settings_are_applied_and_frames_have_their_size_and_format(fake, opened):
    camera = opened(pixel_format="Mono16", region=(0, 0, 128, 64), exposure_us=2000.0, gain=1.0)
    camera.trigger()
    frame = camera.grab(FRAME_S)
    assert (frame.pixel_format, frame.width, frame.height, len(frame.data)) == ("Mono16", 128, 64, 128 * 64 * 2)
    assert np.frombuffer(frame.data, "<u2").max() > 255


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"pixel_format": "Mono12Packed"}, "Mono12Packed"),
        ({"features": {"Colour": "red"}}, "the camera has no setting Colour"),
        ({"features": {"TriggerMode": True}}, "TriggerMode"),
        ({"features": {"TriggerMode": "Sometimes"}}, "'Sometimes', and the camera takes one of Off, On"),
        ({"features": {"ExposureTimeAbs": 1e9}}, "camera.features: ExposureTimeAbs is 1000000000, and the camera"),
        ({"features": {"Width": 12.5}}, "Width is 12.5, and the camera takes whole numbers"),
        ({"pixel_format": "Mono99"}, "camera.pixel_format is 'Mono99', and the camera takes one of .*Mono8"),
        ({"exposure_us": 5.0}, "camera.exposure_us is 5, and the camera takes 10 to 10000000"),
        ({"gain": 50.0}, "camera.gain is 50, and the camera takes 0 to 10"),
        ({"gain": 3.5}, "camera.gain was set to 3.5, and the camera has 3.0; write a value that it keeps"),
        ({"region": (0, 0, 5000, 64)}, "camera.region: its width is 5000, and the camera takes 1 to 2048"),
        ({"region": (0, 2000, 64, 64)}, r"offset and height are 2000 \+ 64, and the sensor has 2048 pixels"),
    ],
)
def test_a_setting_that_the_camera_refuses_or_does_not_have_room_for_is_said_with_its_bounds(fake, rules, error):
    camera = camera_with(**rules)
    with pytest.raises(CameraLostError, match=error):
        camera.open()
    camera.close()


def test_features_of_every_type_are_set_by_their_names(fake, opened):
    features = {
        "Width": 128,
        "Height": 64,
        "PixelFormat": "Mono16",
        "ExposureTimeAbs": 2000,
        "AcquisitionFrameRate": 9.5,
    }
    camera = opened(features=features)
    camera.trigger()
    frame = camera.grab(FRAME_S)
    assert (frame.pixel_format, frame.width, frame.height) == ("Mono16", 128, 64)


def test_a_camera_is_listed_with_its_address_and_whether_another_program_has_it(fake, opened):
    def listed():
        return [(camera.place, camera.name, camera.state) for camera in aravis.find(fake_gige.RULES)]

    assert listed() == [(ADDRESS, "Aravis Fake, PL01", "reachable")]
    opened()
    assert listed() == [(ADDRESS, "Aravis Fake, PL01", "used by another program")]


def test_a_second_program_is_told_that_another_one_controls_the_camera(fake, opened):
    opened()
    second = camera_with()
    with pytest.raises(CameraLostError, match="another program controls this camera"):
        second.open()
    second.close()


def test_a_frame_with_lost_packets_is_broken_and_the_next_one_is_taken(opened):
    with fake_gige.fake_camera(lost_per_thousand=20):
        camera = opened()
        outcomes = []
        for _ in range(30):
            camera.trigger()
            try:
                outcomes.append(type(camera.grab(FRAME_S)))
            except (BrokenFrameError, NoFrameError) as error:
                outcomes.append(type(error))
                camera.arm()
    assert BrokenFrameError in outcomes


def test_a_process_of_aravis_that_freezes_is_killed_and_the_camera_can_be_opened_again(fake, opened):
    camera = opened()
    os.kill(camera.pid, signal.SIGSTOP)
    with pytest.raises(CameraLostError, match="does not answer"):
        camera.grab(0.1)
    camera.open()
    camera.arm()
    camera.trigger()
    assert camera.grab(FRAME_S).data


def test_an_address_without_a_camera_is_said_with_how_to_find_one():
    camera = AravisCamera("127.0.0.77", config.CameraRules())
    with pytest.raises(CameraLostError, match=r"127\.0\.0\.77: .*; `patchline cameras` lists those that are seen"):
        camera.open()
    camera.close()


def test_a_python_without_aravis_is_said(tmp_path):
    camera = camera_with(system_python=Path(sys.executable))  # this environment has no gi
    with pytest.raises(CameraLostError, match=r"gir1\.2-aravis-0\.8 and python3-gi are needed \(.*'gi'\)"):
        camera.open()
    camera.close()
    with pytest.raises(CameraLostError, match=r"set camera\.system_python"):
        camera_with(system_python=tmp_path / "none").open()


def test_the_parts_of_a_camera_that_is_killed_and_comes_back_are_answered_and_frames_flow_again(fake, line, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=2000, encoding="raw")
    camera = start_by_hand(line, f"aravis:{ADDRESS}")

    def has_image():
        trigger(camera)
        return job_of(line).no_image is None

    wait_for(has_image)
    fake.kill()
    assert not has_image()
    fake.start()
    wait_for(has_image)  # the camera is opened anew by itself
    assert camera.poll() is None


def job_of(line):
    """Return the next job. It comes whether there is an image or not."""
    (message,) = line.messages(JOBS_QUEUE, 1)
    return messages.parse_job(message)
