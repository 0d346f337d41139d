"""Cameras of Basler: pylon in a process of its own, against its emulated cameras, which show pictures from files."""

import contextlib
import importlib.util
import os
import re
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from patchline import config
from patchline.camera import hosted, pixels, pylon, sources
from patchline.camera.base import BrokenFrameError, CameraLostError, NoFrameError
from patchline.camera.hosted import Host, MissingLibraryError
from patchline.camera.pylon import PylonCamera
from patchline.cli import main
from patchline.config import BitDepth
from patchline.demo import cells
from patchline.inspection import decode
from patchline.protocol import messages
from patchline.protocol.errors import Reason, SetupError
from tests.camera_contract import FRAME_S, NO_FRAME_S, CameraContract
from tests.queues import JOBS_QUEUE
from tests.system.cameras import configure, start_by_hand, trigger
from tests.system.conftest import wait_for

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(importlib.util.find_spec("pypylon") is None, reason="pypylon is missing (the extra `pylon`)"),
]
SERIAL = "0815-0000"
HEIGHT, WIDTH = 64, 96


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Two emulated cameras in each process that uses pylon."""
    monkeypatch.setenv("PYLON_CAMEMU", "2")


@pytest.fixture
def pictures(tmp_path):
    """A folder with grey pictures for the camera, and their pixels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    values = [np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8) for number in range(7)]
    for number, picture in enumerate(values):
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder, values


def showing(folder, size=(WIDTH, HEIGHT)):
    """The settings of an emulated camera that shows the pictures of a folder, in the order of their names."""
    features = {"TestImageSelector": "Off", "ImageFilename": str(folder), "ImageFileMode": "On"}
    return {"features": features, "region": (0, 0, *size), "pixel_format": "Mono8", "exposure_us": 100.0}


def camera_with(**rules):
    return PylonCamera(SERIAL, config.CameraRules(**rules))


def shoot(camera):
    camera.arm()
    camera.trigger()
    return camera.grab(FRAME_S)


class TestPylonCamera(CameraContract):
    dies = False  # nothing can take an emulated camera away: it lives in the process that uses it

    @pytest.fixture
    def camera(self, pictures):
        return camera_with(**showing(pictures[0]))


def test_arming_throws_away_a_frame_that_has_come(opened, pictures):
    camera = opened(**showing(pictures[0]))
    camera.trigger()
    wait_for(lambda: camera.has_frame)
    camera.arm()
    with pytest.raises(NoFrameError):
        camera.grab(NO_FRAME_S)
    assert shoot(camera).data


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_grey_pictures_come_pixel_for_pixel(opened, pictures, tmp_path, suffix):
    _, values = pictures
    folder = tmp_path / suffix
    folder.mkdir()
    for number, picture in enumerate(values):
        assert cv2.imwrite(str(folder / f"{number}{suffix}"), picture)
    camera = opened(**showing(folder))
    frames = [shoot(camera) for _ in values]
    assert [(frame.pixel_format, frame.width, frame.height) for frame in frames] == [("Mono8", WIDTH, HEIGHT)] * 7
    in_turn = [*values[1:], values[0]]  # opening has taken the first one
    assert [frame.data for frame in frames] == [picture.tobytes() for picture in in_turn]


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", ["Mono", "BayerRG"])
def test_a_deep_camera_gives_16_bits_for_each_pixel_and_its_image_has_all_bits(opened, kind, bits):
    frame = shoot(opened(pixel_format=f"{kind}{bits}", region=(0, 0, 1024, 64)))
    values = np.frombuffer(frame.data, "<u2").reshape(64, 1024)
    assert 2**8 <= values.max() < 2**bits
    image, content_type = pixels.encode(frame, BitDepth(bits), "png", 95)
    judged = decode.decode(image, content_type, config.Images(), BitDepth(bits))
    if kind == "Mono":
        assert np.array_equal(judged[..., 0], (values >> (bits - 8)).astype(np.uint8))
    assert judged.shape == (64, 1024, 3)


@pytest.mark.parametrize("pixel_format", ["RGB8Packed", "BGR8Packed"])
def test_a_colour_camera_gives_colours_under_the_names_of_gige_vision(opened, pixel_format, tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :] = (10, 120, 230)  # blue, green, red
    assert cv2.imwrite(str(tmp_path / "colour.png"), picture)
    frame = shoot(opened(**showing(tmp_path) | {"pixel_format": pixel_format}))
    image, content_type = pixels.encode(frame, BitDepth(), "png", 95)
    judged = decode.decode(image, content_type, config.Images(), BitDepth())
    assert np.array_equal(judged, picture[..., ::-1])


def test_settings_are_applied(opened):
    camera = opened(region=(32, 16, 128, 64), exposure_us=20_000.0, gain=3.0, features={"ReverseX": True, "Gamma": 1})
    frame = shoot(camera)
    assert (frame.width, frame.height, len(frame.data)) == (128, 64, 128 * 64)


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"pixel_format": "Mono12p"}, "PixelFormat of the camera cannot be set to Mono12p"),
        ({"exposure_us": 1e12}, "ExposureTime of the camera cannot be set to 1000000000000.0"),
        ({"gain": 1e6}, "Gain of the camera cannot be set to 1000000.0"),
        ({"region": (0, 0, 60_000, 10)}, "Width of the camera cannot be set to 60000"),
        ({"features": {"Colour": "red"}}, "the camera has no setting Colour"),
        ({"features": {"ImageFileMode": True}}, "put words such as 'On' into quotes"),
        ({"features": {"Gamma": "bright"}}, "Gamma of the camera cannot be set to bright"),
    ],
)
def test_a_setting_that_the_camera_refuses_is_said(rules, error):
    camera = camera_with(**rules)
    with pytest.raises(CameraLostError, match=error):
        camera.open()
    camera.close()


def test_a_frame_that_pylon_calls_incomplete_is_broken_and_the_next_one_is_taken(opened, pictures):
    rules = showing(pictures[0])
    rules["features"] |= {"ForceFailedBufferCount": 3, "ForceFailedBuffer": "1"}  # and the one of its opening
    camera = opened(**rules)
    for _ in range(2):
        with pytest.raises(BrokenFrameError, match="incompletely grabbed"):
            shoot(camera)
    assert shoot(camera).data


@pytest.mark.parametrize(("signal_", "error"), [(signal.SIGSTOP, "does not answer"), (signal.SIGKILL, "has ended")])
def test_a_process_of_pylon_that_freezes_or_is_killed_is_noticed_and_the_camera_can_be_opened_again(
    opened, pictures, signal_, error
):
    camera = opened(**showing(pictures[0]))
    os.kill(camera.pid, signal_)
    with pytest.raises(CameraLostError, match=error):
        camera.grab(0.1)
    camera.open()
    camera.arm()
    assert shoot(camera).data


def test_a_serial_number_that_no_camera_has_is_said():
    camera = PylonCamera("4711", config.CameraRules())
    with pytest.raises(CameraLostError, match="no camera has the serial number 4711; `patchline cameras` lists"):
        camera.open()
    camera.close()


# What can be opened


def test_cameras_are_listed_with_the_source_to_copy():
    assert [(camera.place, camera.name, camera.state) for camera in pylon.find()] == [
        (f"0815-000{number}", f"Basler Emulation, 0815-000{number}", "reachable") for number in range(2)
    ]
    result = CliRunner().invoke(main.app, ["cameras"])
    assert result.exit_code == 0, result.output
    assert f"pylon:{SERIAL}  Basler Emulation, {SERIAL}  reachable\n" in result.output


def test_a_source_without_a_serial_number_is_refused_with_the_cameras_that_pylon_sees():
    with pytest.raises(SetupError, match=f"write pylon:SERIAL. pylon sees pylon:{SERIAL}"):
        sources.parse("pylon:", config.CameraRules())


def test_a_library_that_is_missing_is_said_in_one_line_of_the_list(tmp_path):
    camera = config.Camera(system_python=Path(sys.executable))  # this environment has no gi
    settings = config.load(config.PACKAGED).model_copy(update={"camera": camera})
    config.save(settings, tmp_path / "config.yaml")
    result = CliRunner().invoke(main.app, ["cameras", "--config", str(tmp_path / "config.yaml")])
    assert result.exit_code == 0, result.output
    assert re.search("(?m)^aravis: Debian's packages gir1.2-aravis-0.8 and python3-gi are needed", result.output)
    assert f"pylon:{SERIAL}  " in result.output


def test_a_python_without_the_library_is_said():
    host = Host(sys.executable, "aravis_host.py", "Aravis is needed", "")  # this environment has no gi
    with pytest.raises(MissingLibraryError, match=r"Aravis is needed \(.*No module named 'gi'\)"):
        hosted.find(host)


# On the line


def scores_of(line, folder, part_ids):
    """Publish the images of a folder. Return the scores of the parts in this order."""
    published = line.run("publish", "--line", "l1", "--category", "brick", "--deadline-ms", "100000", str(folder))
    assert published.returncode == 0, published.err
    verdicts = {verdict.part_id: verdict.scores for verdict in line.verdicts(len(part_ids))}
    return [verdicts[part_id] for part_id in part_ids]


def scores_through_pylon(line, count):
    """Let the emulated camera show as many images, one after the other. Return the scores of the parts.

    A trigger that comes too soon after a frame shows nothing, and the next one shows what it would have shown.
    """
    camera = start_by_hand(line, f"pylon:{SERIAL}")
    scores = []
    while len(scores) < count:
        trigger(camera)
        (verdict,) = line.verdicts(1)
        if verdict.reason is Reason.NO_IMAGE:
            assert "busy with the trigger before" in verdict.detail
        else:
            scores.append(verdict.scores)
    return scores


def compare(line, folder, work, paths, size, encoding):
    """Assert that the pictures have the same scores as files and through pylon's emulated camera."""
    configure(line, work, frame_timeout_ms=30_000, encoding=encoding, **showing(folder, size))
    line.worker("--category", "brick")
    from_files = scores_of(line, folder, [path.stem for path in [*paths[1:], paths[0]]])  # opening takes the first one
    through_pylon = scores_through_pylon(line, len(paths))
    assert len(set(from_files)) == len(paths)
    assert through_pylon == from_files


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_grey_pictures_have_the_very_same_scores_through_pylon_and_from_files(line, texture_folder, tmp_path, encoding):
    folder = tmp_path / "grey"
    folder.mkdir()
    for path in (texture_folder / "test").glob("*/*.png"):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert cv2.imwrite(str(folder / path.name), grey)
    paths = sorted(folder.iterdir())
    height, width = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE).shape
    compare(line, folder, tmp_path / "line", paths, (width, height), encoding)


def test_grey_cells_have_the_very_same_scores_through_pylon_and_from_files(line, tmp_path):
    try:
        images = cells.read("solar_cell_mono").defect[:10]
    except SetupError as error:
        pytest.skip(str(error))
    folder = tmp_path / "cells"
    folder.mkdir()
    for path in images:
        (folder / path.name).symlink_to(path)
    compare(line, folder, tmp_path / "line", sorted(folder.iterdir()), (300, 300), "png")


@pytest.mark.parametrize("signal_", [signal.SIGSTOP, signal.SIGKILL])
def test_frames_flow_again_after_the_process_of_pylon_has_frozen_or_died(line, tmp_path, pictures, signal_):
    configure(line, tmp_path / "line", frame_timeout_ms=2000, **showing(pictures[0]))
    camera = start_by_hand(line, f"pylon:{SERIAL}")

    def cause():
        """Trigger, and return why there is no image; the job comes in any case."""
        trigger(camera)
        (message,) = line.messages(JOBS_QUEUE, 1)
        return messages.parse_job(message).no_image

    wait_for(lambda: cause() is None)
    (host,) = hosts_of(camera)
    os.kill(host, signal_)
    assert cause() is not None
    wait_for(lambda: hosts_of(camera) not in ([], [host]))  # a frozen process is waited for and killed
    wait_for(lambda: cause() is None)
    assert camera.poll() is None


def hosts_of(camera):
    """The processes that speak to the camera."""
    hosts = []
    for child in psutil.Process(camera.pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "pylon_host.py" in "".join(child.cmdline()):
                hosts.append(child.pid)
    return hosts
