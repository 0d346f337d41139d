"""Cameras, their pixels and their triggers, without waiting: the time of the simulated ones is passed in."""

import json
import math
import os
import queue
import random
import select
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from patchline import config
from patchline.camera import check, pixels, process, sources, stream, triggers
from patchline.camera.base import BrokenFrameError, CameraError, CameraLostError, Frame, NoFrameError
from patchline.camera.folder import FolderCamera
from patchline.camera.order import Order
from patchline.camera.pixels import UnfitFrameError
from patchline.camera.simulated import Device, Fault, Plan, SimulatedCamera, parse_plan
from patchline.camera.triggers import Trigger
from patchline.cli import main
from patchline.config import BitDepth, Images
from patchline.inspection import decode
from patchline.protocol.errors import SetupError
from tests.camera_contract import CameraContract

RULES = config.CameraRules()
LIMITS = Images(min_side_pixels=1)


class Time:
    """A clock that only waits move."""

    def __init__(self):
        self.now = 100.0

    def clock(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def time():
    return Time()


def device_of(time, **plan):
    return Device(Plan(**plan), clock=time.clock, wait=time.wait)


def opened(device):
    camera = SimulatedCamera(device)
    camera.open()
    camera.arm()
    return camera


class TestSimulatedCamera(CameraContract):
    @pytest.fixture
    def device(self, time):
        return device_of(time)

    @pytest.fixture
    def camera(self, device):
        return SimulatedCamera(device)

    @pytest.fixture
    def kill(self, device, time):
        def kill():
            device.down_until = float("inf")
            device.connections += 1

        return kill

    @pytest.fixture
    def revive(self, device):
        return lambda: setattr(device, "down_until", 0.0)


class TestFolderCamera(CameraContract):
    dies = False

    @pytest.fixture
    def camera(self, tmp_path):
        for number in range(7):
            (tmp_path / f"{number}.png").write_bytes(b"picture %d" % number)
        return FolderCamera(tmp_path)


def trigger_and_grab(camera, timeout_s=0.25):
    camera.trigger()
    return camera.grab(timeout_s)


def seed_of(fault, trigger=0, **plan):
    """Return a seed whose fault at a trigger is this one."""
    return next(seed for seed in range(10_000) if Plan(seed=seed, **plan).fault(trigger) is fault)


def test_the_same_seed_gives_the_same_pictures_and_faults(time):
    text = "seed=3,lost=0.2,broken=0.2,frame_s=0.01"
    outcomes = []
    for _ in range(2):
        camera = opened(Device(parse_plan(text), clock=time.clock, wait=time.wait))
        outcomes.append([])
        for _ in range(40):
            try:
                outcomes[-1].append(trigger_and_grab(camera).data)
            except (NoFrameError, BrokenFrameError) as error:
                outcomes[-1].append(str(error))
                camera.arm()
    assert outcomes[0] == outcomes[1]
    assert {"no frame within 250 ms", "the frame is incomplete"} < set(outcomes[0])


def test_a_late_frame_is_not_that_of_the_next_trigger(time):
    seed = seed_of(Fault.LATE, late=0.5)
    device = device_of(time, seed=seed, late=0.5, late_s=0.3)
    camera = opened(device)
    with pytest.raises(NoFrameError):
        trigger_and_grab(camera)
    camera.arm()
    device.plan = Plan(seed=seed)
    assert trigger_and_grab(camera) == device.show(1)


def test_a_trigger_during_the_exposure_of_another_one_is_merged_into_it_without_a_sign(time):
    camera = opened(device_of(time))
    camera.trigger()
    camera.trigger()
    camera.grab(0.25)
    with pytest.raises(NoFrameError):
        camera.grab(0.25)


def test_a_dead_camera_can_be_opened_once_it_is_back(time):
    camera = opened(device_of(time, die=1.0, down_s=3.0))
    with pytest.raises(CameraLostError):
        trigger_and_grab(camera)
    with pytest.raises(CameraLostError):
        camera.open()
    time.wait(3.0)
    camera.open()


def test_a_camera_may_block(time):
    camera = opened(device_of(time, block=1.0, block_s=2.5))
    before = time.now
    camera.trigger()
    assert time.now == before + 2.5


def test_a_folder_is_shown_in_the_order_of_its_names_round_and_round(tmp_path):
    for name in ("b.png", "a.jpg", "note.txt"):
        (tmp_path / name).write_bytes(name.encode())
    camera = sources.parse(f"folder:{tmp_path}", RULES)()
    camera.open()
    camera.arm()
    assert [trigger_and_grab(camera).data for _ in range(3)] == [b"a.jpg", b"b.png", b"a.jpg"]


def test_a_folder_without_pictures_is_a_lost_camera(tmp_path):
    with pytest.raises(CameraLostError, match="no image found"):
        FolderCamera(tmp_path).open()
    with pytest.raises(CameraLostError, match="no such file or folder"):
        FolderCamera(tmp_path / "none").open()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("webcam:0", "is no camera; write one of aravis:"),
        ("aravis:", "names no camera"),
        ("pylon:4711", "pypylon is not installed; install Patchline with its extra `pylon`"),
        ("folder:", "names no folder"),
        ("simulated:colour=1", "is no setting and number; known: seed, lost"),
        ("simulated:lost=often", "is no setting and number"),
    ],
)
def test_a_source_that_is_not_known_is_refused(text, error, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypylon", None)  # as if it was not installed
    with pytest.raises(SetupError, match=error):
        sources.parse(text, RULES)


@pytest.mark.parametrize("text", ["rtsp:", "rtsp://", "rtsp:///parts", "rtsp://host:port/parts", "rtsp://h\n/parts"])
def test_a_network_camera_needs_a_url(text):
    with pytest.raises(SetupError, match="names no stream; write rtsp://HOST:PORT/PATH"):
        sources.parse(text, RULES)


@pytest.mark.parametrize("text", ["rtsp://user:sesame@host/parts", "rtsps://user:sesame@host/parts"])
def test_a_password_on_the_command_line_is_refused_and_not_quoted(text):
    with pytest.raises(SetupError) as error:
        sources.parse(text, config.CameraRules(latency_ms=100))
    assert "sesame" not in str(error.value)


def test_the_password_of_a_network_camera_must_follow_a_user(monkeypatch):
    monkeypatch.setenv(stream.LOGIN, "sesame")
    with pytest.raises(SetupError, match=r"PATCHLINE_CAMERA_LOGIN: must be USER:PASSWORD$"):
        sources.parse("rtsp://host/parts", config.CameraRules(latency_ms=100))


@pytest.mark.parametrize("source", ["rtsp://host/parts", "v4l2:/dev/video0"])
@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({}, "set camera.latency_ms: how old a picture is"),
        ({"latency_ms": 100, "gain": 1.0}, "camera.gain cannot be set from here"),
        ({"latency_ms": 100, "features": {"Gamma": 1.0}}, "camera.features cannot be set from here"),
        ({"latency_ms": 100, "pixel_format": "Mono12"}, "must be one of Mono8, BGR8"),
    ],
)
def test_a_setting_that_does_not_fit_a_stream_is_refused(source, rules, error):
    with pytest.raises(SetupError, match=error):
        sources.parse(source, config.CameraRules(**rules))


@pytest.mark.parametrize("path", ["", "0", "video0", "/dev/video0?x", "/dev/video 0"])
def test_a_camera_at_the_host_needs_the_path_of_its_device(path):
    with pytest.raises(SetupError, match="names no device; write v4l2:/dev/video0"):
        sources.parse(f"v4l2:{path}", config.CameraRules(latency_ms=100))


def test_a_stream_without_its_package_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        SetupError, match="rtsp: the package av is needed; install Patchline with its extra `camera-stream`"
    ):
        sources.parse("rtsp://host/parts", config.CameraRules(latency_ms=100))


# Pixels


def frame_of(pixel_format, values):
    height, width = values.shape[:2]
    return Frame(values.tobytes(), pixel_format, width, height)


def judged(frame, depth, encoding="png"):
    """Return what a worker sees of a frame."""
    image, content_type = pixels.encode(frame, depth, encoding, 95)
    return decode.decode(image, content_type, LIMITS, depth)


@pytest.mark.parametrize("encoding", ["png", "raw"])
@pytest.mark.parametrize("alignment", ["low", "high"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_worker_judges_the_highest_bits_of_a_deep_camera(bits, alignment, encoding):
    values = np.random.default_rng(bits).integers(0, 2**bits, (20, 30)).astype("<u2")
    expected = np.repeat((values >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
    for depth in (BitDepth(), BitDepth(8), BitDepth(bits, alignment)):
        assert np.array_equal(judged(frame_of(f"Mono{bits}", values), depth, encoding), expected)


@pytest.mark.parametrize("encoding", ["png", "raw"])
@pytest.mark.parametrize("pixel_format", ["Mono8", "RGB8", "BGR8", "RGB8Packed", "BGR8Packed"])
def test_a_worker_sees_the_very_pixels_of_an_8_bit_camera(pixel_format, encoding):
    shape = (20, 30) if pixel_format == "Mono8" else (20, 30, 3)
    values = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    rgb = values[..., ::-1] if pixel_format.startswith("BGR8") else values
    expected = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else rgb
    assert np.array_equal(judged(frame_of(pixel_format, values), BitDepth(), encoding), expected)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("pattern", ["RG", "GR", "GB", "BG"])
def test_a_bayer_camera_gives_the_colours_of_its_pattern(pattern, bits):
    rows = {"RG": ("RG", "GB"), "GR": ("GR", "BG"), "GB": ("GB", "RG"), "BG": ("BG", "GR")}[pattern]
    level = {"R": 200, "G": 120, "B": 40}
    tile = np.array([[level[letter] for letter in row] for row in rows]) << (bits - 8)
    values = np.tile(tile, (8, 8)).astype(np.uint8 if bits == 8 else "<u2")
    rgb = judged(frame_of(f"Bayer{pattern}{bits}", values), BitDepth() if bits == 8 else BitDepth(bits))
    assert np.array_equal(np.unique(rgb[2:-2, 2:-2].reshape(-1, 3), axis=0), [[200, 120, 40]])


def test_a_jpeg_has_the_highest_8_bits():
    values = np.full((32, 32), 0x0ABC, "<u2")
    image, content_type = pixels.encode(frame_of("Mono12", values), BitDepth(), "jpeg", 95)
    assert content_type == "image/jpeg"
    assert abs(int(cv2.imdecode(np.frombuffer(image, np.uint8), 0).mean()) - 0xAB) <= 1


@pytest.mark.parametrize(
    ("pixel_format", "depth", "encoding", "error"),
    [
        ("Mono10", BitDepth(12), "png", "the camera sends 10 bits, and bit_depth of the category is 12"),
        ("Mono8", BitDepth(12), "raw", "the camera sends 8 bits"),
        ("Mono12", BitDepth(12), "jpeg", "a JPEG has 8"),
        ("Mono12Packed", BitDepth(), "png", "'Mono12Packed' packs pixels into shared bytes; set the camera to Mono12"),
        ("BayerRG10p", BitDepth(), "png", "set the camera to BayerRG10"),
        ("RGB10p", BitDepth(), "png", "set the camera to RGB10"),
        ("YUV422_8", BitDepth(), "png", "is not known"),
        ("Mono16", BitDepth(), "png", "the frame has 6 bytes, and 3 x 2 Mono16 has 12"),
    ],
)
def test_a_frame_that_does_not_fit_the_recipe_is_refused(pixel_format, depth, encoding, error):
    frame = Frame(b"pixels", pixel_format, 3, 2)
    if "bits" in error or "JPEG" in error:
        frame = frame_of(pixel_format, np.zeros((2, 3), np.uint8 if pixel_format == "Mono8" else "<u2"))
    with pytest.raises(UnfitFrameError, match=error):
        pixels.encode(frame, depth, encoding, 95)


def test_a_frame_of_another_size_than_the_first_one_is_no_image():
    loaded = config.load(Path("config.yaml"))
    encode = process.encoder(loaded, Order("l", "bottle", 500))
    large, small = (frame_of("Mono8", np.zeros(shape, np.uint8)) for shape in ((40, 60), (20, 30)))
    encode(large)
    encode(Frame(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()))  # a file is judged as it is
    with pytest.raises(UnfitFrameError, match="has 30 x 20 pixels, and the first one had 60 x 40; set the camera back"):
        encode(small)
    encode(large)


def test_a_camera_whose_jpegs_cannot_have_the_depth_of_the_category_does_not_start(tmp_path):
    packaged = yaml.safe_load(Path("config.yaml").read_text())
    packaged["camera"]["encoding"], packaged["categories"]["bottle"]["bit_depth"] = "jpeg", 12
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(packaged))
    with pytest.raises(
        SetupError, match=r"line l, category bottle: .* is 12, and a JPEG has 8; set camera.encoding: png"
    ):
        process.encoder(config.load(path), Order("l", "bottle", 500))


def test_an_encoded_file_stays_as_it_is():
    png = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    assert pixels.encode(Frame(png), BitDepth(12), "jpeg", 95) == (png, "image/png")


# Triggers


def test_a_line_is_a_trigger_whatever_stands_in_it():
    lines = ["\n", json.dumps({"number": 7, "encoder_count": -5, "part_id": "p:1"}), '{"number": "x"}', "[" * 5000]
    assert [triggers.parse(line, Trigger) for line in lines] == [
        Trigger(),
        Trigger(number=7, encoder_count=-5, part_id="p:1"),
        Trigger(),
        Trigger(),
    ]


def pipe_with(data):
    """Return a file descriptor from which the data can be read, and then its end."""
    end, start = os.pipe()
    os.write(start, data)
    os.close(start)
    return end


def read_all(data):
    """Return the parts of a pipe with these bytes. Nobody knows how long they have waited there."""
    events, lines = queue.Queue(), triggers.Lines(pipe_with(data))
    triggers.read_lines(lines, events.put)
    sightings = list(iter(lambda: events.get(timeout=30), None))
    assert {sighting.since for sighting in sightings} == {-math.inf}
    return sightings


def test_the_end_of_the_lines_is_said():
    assert [sighting.trigger for sighting in read_all(b"\n\n")] == [Trigger(), Trigger()]


def test_bytes_that_are_no_text_are_a_trigger_and_cost_no_other_one():
    sightings = read_all(b'{"number":1}\n\xff\xfe\n{"number":2}')
    assert [sighting.trigger for sighting in sightings] == [Trigger(number=1), Trigger(), Trigger(number=2)]


def test_of_lines_that_came_together_only_the_last_part_can_be_before_the_camera():
    objections = [sighting.objection for sighting in read_all(b"\n\n\n")]
    assert [objection and objection.cause for objection in objections] == ["late_trigger", "late_trigger", None]


class Pipe:
    """A pipe whose reader is looked into: `on_wait` is called whenever it waits for lines."""

    def __init__(self, time):
        self.end, self.start = os.pipe()
        self.time, self.on_wait = time, lambda: None
        self.lines = triggers.Lines(self.end, time.clock, self.wait)

    def wait(self, file, seconds):
        if seconds:
            self.time.wait(seconds)
            self.on_wait()
        return bool(select.select([file], [], [], 0)[0])

    def write(self, data):
        os.write(self.start, data)


@pytest.fixture
def pipe(time):
    pipe = Pipe(time)
    yield pipe
    os.close(pipe.end)
    os.close(pipe.start)


def test_a_line_that_waited_while_the_process_was_frozen_is_as_old_as_the_last_look_that_found_none(pipe, time):
    assert pipe.lines.read() == ([], 100.0)
    time.wait(5.0)  # nobody looks meanwhile, as after SIGSTOP
    pipe.write(b"1\n")
    assert pipe.lines.read() == ([b"1"], 100.0)
    pipe.lines.read()
    pipe.write(b"2\n")
    assert pipe.lines.read() == ([b"2"], 105.02)


def test_programs_write_triggers_into_a_named_pipe_that_does_not_end_between_them(tmp_path):
    path = tmp_path / "triggers"
    lines = triggers.Lines(triggers.open_pipe(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert lines.read()[0] == []
    for number in range(2):
        path.write_text(f"{number}\n")
        while not (found := lines.read()[0]):
            pass
        assert found == [str(number).encode()]
    with pytest.raises(SetupError, match="another process reads it; give each camera its own"):
        triggers.open_pipe(path)


def test_a_path_that_can_be_no_pipe_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="is no named pipe; remove it"):
        triggers.open_pipe(tmp_path / "file")
    with pytest.raises(SetupError, match=r"cannot be used \(No such file or directory\); name a path"):
        triggers.open_pipe(tmp_path / "none" / "triggers")


def test_a_process_that_was_frozen_while_it_waited_for_lines_does_not_take_one_for_new(pipe, time):
    def freeze():
        time.wait(5.0)
        pipe.write(b"1\n")

    pipe.on_wait = freeze
    pipe.lines.read()
    assert pipe.lines.read() == ([b"1"], 100.0)


def test_a_line_is_as_old_as_its_first_bytes_may_be(pipe, time):
    pipe.lines.read()
    pipe.write(b'{"number"')
    assert pipe.lines.read() == ([], 100.0)
    for _ in range(3):
        pipe.lines.read()
    pipe.write(b":1}\n{")
    assert pipe.lines.read() == ([b'{"number":1}'], 100.0)
    pipe.write(b"}\n")
    lines, since = pipe.lines.read()
    assert (lines, since) == ([b"{}"], pytest.approx(100.06))


@pytest.mark.parametrize("text", ["seed=-1", "lost=2", "lost=nan", "frame_s=-5", "block_s=1e300"])
def test_a_simulated_camera_refuses_numbers_that_make_no_sense(text):
    with pytest.raises(SetupError, match="must be between 0 and"):
        parse_plan(text)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SetupError, match="is no folder"):
        sources.parse(f"folder:{tmp_path / 'missing'}", config.CameraRules())


def test_a_rate_does_not_make_up_for_triggers_that_it_has_missed(time):
    stop = SimpleNamespace(wait=lambda seconds: time.wait(seconds))
    fired = []
    for _ in triggers.at_rate(10, stop, time.clock):
        fired.append(round(time.now - 100.0, 3))
        if len(fired) == 2:
            time.wait(1.04)  # somebody held it up
        if len(fired) == 5:
            break
    assert fired == [0.0, 0.1, 1.2, 1.3, 1.4]


def test_arbitrary_lines_are_triggers():
    letters = '{}[]":,0123456789eE-+.numberpart_id\\ \t'
    for seed in range(300):
        draw = random.Random(seed)
        assert isinstance(triggers.parse("".join(draw.choices(letters, k=draw.randrange(60))), Trigger), Trigger)


def test_a_rate_ends_with_its_stop_event():
    stop = threading.Event()
    stop.set()
    assert list(triggers.at_rate(10, stop)) == []


# The test of a camera

CATEGORY = config.Category(backbone="b", layer="l", resize=32, imagesize=32)


def report_of(time, frames, **rules):
    """Return the report on a camera that shows these frames, round and round."""
    device = Device(Plan(), lambda number: frames[number % len(frames)], time.clock, time.wait)
    return check.check(SimulatedCamera(device), config.CameraRules(**rules), CATEGORY, LIMITS, time.clock)


def test_the_test_of_a_camera_says_how_bright_and_sharp_it_is_and_how_fast(time):
    values = np.full((40, 60), 100, np.uint8)
    values[:, :6] = 255
    report = report_of(time, [frame_of("Mono8", values)])
    assert (report.width, report.height, len(report.frames_ms)) == (60, 40, 10)
    assert report.frames_ms == pytest.approx([20.0] * 10)
    assert (report.white, report.black, report.histogram[100 // 16]) == (0.1, 0.0, 0.9)
    assert "overexposed" in "\n".join(report.lines())


ADVICE = {(0.6, 0.1): "light the part evenly", (0.6, 0.0): "add light", (0.3, 0.1): "shorten the exposure"}


@pytest.mark.parametrize(("black", "white"), ADVICE)
def test_the_test_of_a_camera_advises_on_light(time, black, white):
    values = np.full(1000, 100, np.uint8)
    values[: int(1000 * black)] = 0
    values[-int(1000 * white) or 1000 :] = 255
    text = "\n".join(report_of(time, [frame_of("Mono8", values.reshape(20, 50))]).lines())
    assert [advice for advice in ADVICE.values() if advice in text] == [ADVICE[black, white]]


def test_a_blurred_picture_is_less_sharp(time):
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    blurred = cv2.GaussianBlur(sharp, (9, 9), 0)
    reports = [report_of(time, [frame_of("Mono8", values)]) for values in (sharp, blurred)]
    assert reports[0].sharpness > 10 * reports[1].sharpness


def test_the_test_of_a_camera_without_frames_says_why(time):
    device = device_of(time, lost=1.0)
    with pytest.raises(CameraError, match="none of 10 triggers gave a frame: no frame within 250 ms"):
        check.check(SimulatedCamera(device), RULES, CATEGORY, LIMITS, time.clock)


def test_the_command_tests_a_camera_without_rabbitmq(tmp_path):
    settings = config.load(config.PACKAGED)
    config.save(settings, tmp_path / "config.yaml")
    arguments = [
        "camera",
        "--line",
        "l",
        "--category",
        "bottle",
        "--test",
        "--out",
        str(tmp_path / "out"),
        "simulated:",
    ]
    result = CliRunner().invoke(main.app, [*arguments, "--config", str(tmp_path / "config.yaml")])
    assert result.exit_code == 0, result.output
    assert "frames: 10 of 10 triggers" in result.output
    assert cv2.imread(str(tmp_path / "out" / "camera.png")).shape == (128, 128, 3)
