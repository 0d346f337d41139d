"""Network cameras: GStreamer's RTSP server on loopback, read by PyAV in a process of its own."""

import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from patchline import config
from patchline.camera import stream
from patchline.camera.base import BrokenFrameError, CameraLostError, NoFrameError
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from tests import network_camera
from tests.camera_contract import FRAME_S, CameraContract
from tests.network_camera import NetworkCamera, number_of
from tests.proxy import Proxy
from tests.system.cameras import configure, start_by_hand, trigger
from tests.system.conftest import records, wait_for

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not network_camera.is_installed(),
        reason="gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly or python3-gi is missing",
    ),
]
MAX_DIFFERENCE = 4  # grey levels between a picture and what a lossy stream makes of it, in the mean
CUT_S = 10.0
PART_S = 0.2  # between two parts
LATENCY_MS = 300  # the test's camera needs 60 at 20 pictures a second; the rest is for a busy machine


def rules(**values):
    return config.CameraRules(latency_ms=LATENCY_MS, frame_timeout_ms=2000, **values)


def grey(frame):
    return np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, -1)[..., 0]


@pytest.fixture
def shows(tmp_path):
    """Start network cameras. All are killed at the end."""
    cameras = []

    def shows(**options):
        cameras.append(NetworkCamera(tmp_path, **options))
        cameras[-1].start()
        return cameras[-1]

    yield shows
    for camera in cameras:
        camera.kill()


class PatientCamera(stream.NetworkCamera):
    """The test's camera sends nothing after 2 of 30 openings. Whoever uses a camera opens a silent one again."""

    def open(self):
        for _ in range(2):
            try:
                super().open()
            except CameraLostError as error:
                if "silent" not in str(error):
                    raise
            else:
                return
        super().open()


def camera_with(address, settings=None):
    settings = settings or rules()
    return PatientCamera(f"rtsp:{address}", settings, settings.latency_ms)


class TestStreamCamera(CameraContract):
    @pytest.fixture
    def device(self, shows):
        return shows()

    @pytest.fixture
    def camera(self, device):
        return camera_with(device.address)

    @pytest.fixture
    def kill(self, device):
        return device.kill

    @pytest.fixture
    def revive(self, device):
        return device.start


class TestFrozenStreamCamera(TestStreamCamera):
    """A camera that freezes keeps its connections, accepts new ones, and says nothing."""

    @pytest.fixture
    def kill(self, device):
        return device.freeze

    @pytest.fixture
    def revive(self, device):
        return device.thaw


def trigger_and_grab(camera):
    camera.trigger()
    return camera.grab(FRAME_S)


@pytest.mark.parametrize("codec", ["h264", "h264-damaged", "jpeg"])
def test_a_picture_is_whole_and_was_taken_after_its_trigger(shows, opened, codec):
    device = shows(codec=codec)
    camera = opened(device.address)
    whole = broken = 0
    while whole < 10 or (codec == "h264-damaged" and not broken):
        before = time.monotonic()
        camera.trigger()
        try:
            picture = grey(camera.grab(FRAME_S))
        except BrokenFrameError:
            broken += 1
            camera.arm()
            continue
        whole += 1
        number = number_of(picture)
        assert device.shown_at(number, time.monotonic()) > before
        assert np.abs(picture - network_camera.numbered_picture(number).astype(int)).mean() < MAX_DIFFERENCE


def test_pictures_that_waited_in_the_network_are_those_of_no_later_trigger(shows, opened):
    device = shows()
    proxy = Proxy(device.port)
    camera = opened(f"//127.0.0.1:{proxy.port}/parts")
    for _ in range(3):
        trigger_and_grab(camera)
        proxy.hold()
        camera.trigger()
        with pytest.raises(NoFrameError):
            camera.grab(1.5)
        camera.arm()
        before = time.monotonic()
        camera.trigger()
        proxy.release()
        picture = camera.grab(FRAME_S)
        assert device.shown_at(number_of(grey(picture)), time.monotonic()) > before
    proxy.close()


@pytest.mark.parametrize(("pixel_format", "channels"), [(None, 3), ("BGR8", 3), ("Mono8", 1)])
def test_the_pixel_format_can_be_chosen(shows, opened, pixel_format, channels):
    device = shows()
    frame = trigger_and_grab(opened(device.address, rules(pixel_format=pixel_format)))
    assert (frame.pixel_format, frame.width, frame.height) == (pixel_format or "BGR8", 320, 240)
    shown = network_camera.numbered_picture(number_of(grey(frame))).astype(int)
    assert len(frame.data) == 320 * 240 * channels
    assert np.abs(grey(frame) - shown).mean() < MAX_DIFFERENCE


def test_user_and_password_come_from_a_file_and_are_in_no_list_of_processes(shows, opened, tmp_path, monkeypatch):
    device = shows(login="operator:p@ss/w:rd")
    (tmp_path / "login").write_text("operator:p@ss/w:rd\n")
    monkeypatch.setenv(f"{stream.LOGIN}_FILE", str(tmp_path / "login"))
    camera = opened(device.address)
    assert trigger_and_grab(camera).data
    assert b"p@ss" not in Path(f"/proc/{camera.pid}/cmdline").read_bytes()
    (tmp_path / "login").write_text("operator:secret")
    with pytest.raises(CameraLostError, match="refuses the user and password") as error:
        opened(device.address)
    assert "secret" not in str(error.value)


def test_a_path_that_the_camera_does_not_have_is_said(shows, opened):
    device = shows()
    with pytest.raises(CameraLostError, match="no stream at the path"):
        opened(device.address.replace("parts", "others"))


def test_a_camera_that_accepts_connections_and_says_nothing_is_lost_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        camera = stream.network(f"//127.0.0.1:{silent.getsockname()[1]}/parts", rules())()
        before = time.monotonic()
        with pytest.raises(CameraLostError, match="the camera is silent"):
            camera.open()
        assert time.monotonic() - before < 15


def test_a_process_that_freezes_is_killed_and_the_camera_can_be_opened_again(shows, opened):
    camera = opened(shows().address)
    os.kill(camera.pid, signal.SIGSTOP)
    with pytest.raises(CameraLostError, match="does not answer"):
        camera.grab(0.1)
    camera.open()
    camera.arm()
    assert trigger_and_grab(camera).data


class JudgedLine:
    """A line whose camera is triggered by hand. Each part has one verdict and one act."""

    def __init__(self, line, folder, source):
        configure(line, folder, latency_ms=LATENCY_MS, frame_timeout_ms=1000, encoding="raw")
        self._line, self._parts = line, 0
        line.worker("--category", "brick")
        self._gate = line.start("gate", "--line", "l1", "--dry-run")
        self.camera = start_by_hand(line, source)
        self.without_image = []  # the reasons of the verdicts, and what the gate did
        self.details = []  # of those verdicts

    def judges_part(self):
        """Trigger the camera, and return whether the part was judged. Otherwise it had no image."""
        self._parts += 1
        time.sleep(PART_S)
        trigger(self.camera, f'{{"part_id": "p:{self._parts}"}}')
        (verdict,) = self._line.verdicts(1)
        act = records(self._gate.stdout.readline())[0]
        assert (verdict.part_id, act["job_id"]) == (f"p:{self._parts}", verdict.job_id)
        if verdict.decision is Decision.ERROR:
            self.without_image.append((verdict.reason, act["action"]))
            self.details.append(verdict.detail or "")
        return verdict.decision is not Decision.ERROR

    def metric(self, name):
        return self._line.metric(self.camera.metrics_port, name)


@pytest.mark.parametrize("is_killed", [False, True], ids=["frozen", "killed"])
def test_the_parts_of_a_stream_that_is_cut_for_10_s_are_rejected_and_pictures_flow_again(
    shows, line, tmp_path, is_killed
):
    device = shows()
    judged = JudgedLine(line, tmp_path / "line", f"rtsp:{device.address}")
    wait_for(judged.judges_part)
    (device.kill if is_killed else device.freeze)()
    back_at, judged_in_cut, was_lost = time.monotonic() + CUT_S, 0, False
    while time.monotonic() < back_at or not was_lost or len(judged.without_image) < 4:
        judged_in_cut += judged.judges_part()
        was_lost |= judged.metric("patchline_camera_ready") == 0
    assert judged_in_cut <= 1  # the picture of the first part may have been on its way
    (device.start if is_killed else device.thaw)()
    wait_for(judged.judges_part)
    assert set(judged.without_image) == {(Reason.NO_IMAGE, "reject")}
    assert judged.metric("patchline_camera_no_image_total") == len(judged.without_image)
    assert judged.metric("patchline_camera_ready") == 1
    judged.camera.terminate()
    log = judged.camera.communicate(timeout=60)[1]
    assert "camera lost, opening it anew" in log
    assert log.count("camera open") > 1


def test_parts_of_a_stream_that_comes_back_with_another_resolution_are_rejected_and_the_verdicts_say_why(
    shows, line, tmp_path
):
    device = shows()
    judged = JudgedLine(line, tmp_path / "line", f"rtsp:{device.address}")
    wait_for(judged.judges_part)
    device.kill()
    pictures = [network_camera.numbered_picture(number)[:120, :160] for number in range(8)]
    small = shows(pictures=pictures, port=device.port)
    why = "the frame has 160 x 120 pixels, and the first one had 320 x 240; set the camera back"

    def three_are_unfit():
        assert not judged.judges_part()
        return sum(why in detail for detail in judged.details) >= 3

    wait_for(three_are_unfit)
    assert set(judged.without_image) == {(Reason.NO_IMAGE, "reject")}
    small.kill()
    device.start()
    wait_for(judged.judges_part)
