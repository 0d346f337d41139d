"""From a trigger to a job: the parts of a camera, its thread, and what becomes of the parts of a process that ended."""

import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from patchline import config
from patchline.camera import process
from patchline.camera.base import BrokenFrameError, CameraLostError, Frame, NoFrameError
from patchline.camera.camera_thread import CameraThread
from patchline.camera.codes import NoCodeError
from patchline.camera.exposures import ENDED, Exposures, Series
from patchline.camera.image_sender import ImageSender
from patchline.camera.metrics import Metrics
from patchline.camera.open_parts import OpenParts, PartsLeftError
from patchline.camera.order import Order
from patchline.camera.pixels import UnfitFrameError
from patchline.camera.simulated import Device, Plan, SimulatedCamera, texture
from patchline.camera.triggers import Objection, Trigger
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Job
from patchline.publisher.source import Capture
from patchline.runtime import damage
from patchline.runtime.metrics import Registry

NOW = 1_800_000_000_000
SERIES = Series("l", "c", NOW, 500, 0.25, 0.1)
FRAME = Frame(b"pixels")
PATIENCE_S = 30.0  # of a wait for another thread


class Line:
    """The parts of a camera, with a shutter that notes who was photographed."""

    def __init__(self, path):
        self.registry = Registry()
        self.path = path
        self.parts = OpenParts(path)
        self.announced, self.pressed, self.sent = [], [], []
        self.refusal, self.now = None, 1.0
        metrics = Metrics("l", "c", self.registry)
        self.exposures = Exposures(
            SERIES, self.announce, self.send, self.parts, self, metrics, lambda: NOW, lambda: self.now
        )

    def announce(self, capture, deadline):
        assert deadline == capture.deadline
        assert str(capture.job_id).encode() in self.path.read_bytes(), "it is on disk before it is announced"
        self.announced.append(capture)
        return replace(capture, traceparent="trace")

    def press(self, job_id, timeout_s, trigger_by):
        if self.refusal is None:
            self.pressed.append(job_id)
            self.trigger_by = trigger_by
        return self.refusal

    def send(self, capture, frame):
        self.sent.append((capture, frame))

    def count(self, name, **labels):
        return self.registry.get_sample_value(f"patchline_camera_{name}", {"line": "l", "category": "c", **labels})


@pytest.fixture
def line(tmp_path):
    line = Line(tmp_path / "l.c.open-parts")
    yield line
    line.parts.close()


def test_a_part_is_announced_at_its_trigger_and_its_frame_becomes_its_image(line):
    line.exposures.on_trigger(Trigger(number=7, encoder_count=-5), 1.0)
    (announced,) = line.announced
    assert (announced.number, announced.encoder_count, announced.deadline) == (7, -5, NOW + 500)
    assert (announced.job_id, announced.part_id) == (messages.job_id_at_trigger("l", "c", NOW, 1), f"{NOW}-1")
    assert (line.pressed, line.sent) == ([announced.job_id], [])
    line.exposures.on_result(announced.job_id, FRAME, 1.03)
    assert line.sent == [(replace(announced, traceparent="trace"), FRAME)]
    assert line.count("frame_seconds_sum") == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("error", "cause"), [(NoFrameError, "no_frame"), (BrokenFrameError, "broken"), (CameraLostError, "lost")]
)
def test_a_part_without_a_frame_is_sent_with_the_cause(line, error, cause):
    line.exposures.on_trigger(Trigger(), 1.0)
    line.exposures.on_result(line.pressed[0], error("no frame"), 1.2)
    ((capture, frame),) = line.sent
    assert (capture.job_id, capture.no_image, frame) == (line.pressed[0], "no frame", None)
    assert line.count("no_image_total", cause=cause) == 1


def test_a_part_whose_camera_does_not_return_is_given_up_and_its_late_frame_belongs_to_no_part(line):
    line.exposures.on_trigger(Trigger(), 1.0)
    line.exposures.on_time(1.3)
    assert line.sent == []
    line.exposures.on_time(1.4)
    assert line.sent[0][0].no_image == "the camera has not answered within 250 ms"
    line.exposures.on_trigger(Trigger(), 2.0)
    line.exposures.on_result(line.pressed[0], FRAME, 2.1)
    assert (len(line.sent), line.count("late_total")) == (1, 1)
    line.exposures.on_result(line.pressed[1], FRAME, 2.1)
    assert (line.sent[1][0].job_id, line.sent[1][1]) == (line.pressed[1], FRAME)


def test_a_second_trigger_before_the_frame_of_the_first_is_announced_and_has_no_image(line):
    line.exposures.on_trigger(Trigger(), 1.0)
    line.exposures.on_trigger(Trigger(), 1.01)
    assert [capture.part_id for capture in line.announced] == [f"{NOW}-1", f"{NOW}-2"]
    assert len(line.pressed) == 1
    assert line.sent[0][0].no_image == "the trigger before still waited for its frame"


def test_the_parts_of_a_lost_camera_are_announced_and_have_no_image(line):
    line.refusal = "the camera is lost: unplugged"
    line.exposures.on_trigger(Trigger(part_id="p"), 1.0)
    assert [capture.part_id for capture in line.announced] == ["p"]
    assert line.sent[0][0].no_image == line.refusal
    assert not line.exposures.outstanding


def test_a_part_whose_trigger_was_seen_too_late_is_announced_and_not_photographed(line):
    line.now = 1.11  # the announcement took its time
    line.exposures.on_trigger(Trigger(number=7), 1.0, since=1.0)
    assert [capture.number for capture in line.announced] == [7]
    assert line.pressed == []
    assert line.sent[0][0].no_image == "triggered up to 110 ms ago, and camera.trigger_late_ms is 100"
    assert line.count("no_image_total", cause="late_trigger") == 1
    line.exposures.on_trigger(Trigger(number=8), 1.1, since=1.02)
    assert line.pressed == [line.announced[1].job_id]
    assert line.trigger_by == pytest.approx(1.12)


def test_a_part_of_which_nobody_knows_when_it_was_triggered_is_not_photographed(line):
    line.exposures.on_trigger(Trigger(), 1.0, since=-math.inf)
    assert (line.pressed, line.sent[0][0].no_image) == (
        [],
        "triggered at an unknown time, and camera.trigger_late_ms is 100",
    )


def test_a_part_with_an_objection_is_announced_and_not_photographed(line):
    line.exposures.on_trigger(Trigger(number=7), 1.0, 1.0, Objection("other_product", "the PLC says product 2"))
    assert [capture.number for capture in line.announced] == [7]
    assert (line.pressed, line.sent[0][0].no_image) == ([], "the PLC says product 2")
    assert line.count("no_image_total", cause="other_product") == 1


def job(number):
    return Job(
        job_id=f"j{number}", line="l", category="c", part_id=f"p{number}", captured_at=NOW, deadline=NOW + 500,
        number=number, content_type=messages.NO_CONTENT,
    )  # fmt: skip


def left_in(path):
    parts = OpenParts(path)
    parts.close()
    return [job.job_id for job in parts.left]


def test_the_next_process_says_that_the_open_parts_of_the_one_before_have_no_image(tmp_path):
    path = tmp_path / "l.c.open-parts"
    before = OpenParts(path)
    for number in range(3):
        before.add(job(number))
    before.remove("j1")
    before.close()  # as its end by SIGKILL: nothing more is written
    line = Line(path)
    line.exposures.answer_left()
    assert [(capture.job_id, capture.number, frame) for capture, frame in line.sent] == [
        ("j0", 0, None),
        ("j2", 2, None),
    ]
    assert {capture.no_image for capture, _ in line.sent} == {ENDED}
    assert line.count("no_image_total", cause="ended") == 2
    assert left_in_after_closing(line, path) == ["j0", "j2"]


def left_in_after_closing(line, path):
    line.parts.close()
    return left_in(path)


def test_the_file_of_open_parts_is_empty_when_none_is_open_and_stays_small(tmp_path):
    path = tmp_path / "l.c.open-parts"
    parts = OpenParts(path, max_bytes=2000)
    for number in range(200):
        parts.add(job(number))
        if number:
            parts.remove(f"j{number}")
    assert path.stat().st_size < 2500
    parts.remove("j0")
    assert (path.stat().st_size, len(parts)) == (0, 0)
    parts.add(job(1))
    parts.close()
    assert left_in(path) == ["j1"]


def test_a_torn_line_hides_no_other_open_part(tmp_path):
    path = tmp_path / "l.c.open-parts"
    parts = OpenParts(path)
    parts.add(job(1))
    parts.close()
    with path.open("ab") as file:
        file.write(b'{"open":{"job_id":"j2",')
    parts = OpenParts(path)
    parts.add(job(3))
    parts.close()
    assert left_in(path) == ["j1", "j3"]


def test_a_line_that_was_written_in_part_hides_no_other_open_part(tmp_path, monkeypatch):
    path = tmp_path / "l.c.open-parts"
    parts = OpenParts(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:9]))  # as on a full disk
    parts.add(job(1))
    monkeypatch.undo()
    parts.add(job(2))
    parts.close()
    assert left_in(path) == ["j2"]


def test_open_parts_that_cannot_be_read_are_set_aside(tmp_path):
    path = tmp_path / "l.c.open-parts"
    parts = OpenParts(path)
    parts.add(job(1))
    parts.close()
    path.write_bytes(b"\x00\xff\n\n" + path.read_bytes())
    assert left_in(path) == ["j1"]
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


def test_two_processes_do_not_share_the_camera_of_a_line(tmp_path):
    parts = OpenParts(tmp_path / "open-parts")
    with pytest.raises(SetupError, match="another process runs the camera of this line"):
        OpenParts(tmp_path / "open-parts")
    parts.close()


def test_a_closed_standard_input_is_refused_if_it_is_to_trigger_the_camera(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    order = Order("l", "c", 500)
    with pytest.raises(SetupError, match="the standard input is closed"):
        process.run(None, order, None, None, threading.Event())


class Publishers:
    """The publishers of a process that has no RabbitMQ. They take a job once there is `room`, and it is safe then."""

    def __init__(self):
        self.room, self.announced, self.accepted = threading.Event(), threading.Event(), []
        self.in_window = 0

    @contextmanager
    def running(self, *_, **__):
        yield self

    def announce(self, capture, _):
        self.announced.set()
        return capture

    def accept(self, capture, _):
        self.room.wait(PATIENCE_S)
        self.accepted.append(capture)
        capture.on_accepted()
        return capture.job_id

    def depth(self):
        return 0


@pytest.fixture
def camera_process(tmp_path, monkeypatch):
    """Runs the process of a camera with one trigger on its standard input, on a thread."""
    publishers = Publishers()
    monkeypatch.setattr(process.publisher, "running", publishers.running)
    monkeypatch.setattr(process, "_END_S", 0.01)
    loaded = config.load(Path("config.yaml"))
    paths = loaded.paths.model_copy(update={"spool": tmp_path})
    camera = config.Camera(frame_timeout_ms=20_000, trigger_late_ms=20_000)
    loaded = loaded.model_copy(update={"paths": paths, "camera": camera})
    end, start = os.pipe()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: end))
    os.write(start, b'{"part_id": "p:7"}\n')
    os.close(start)
    stop = threading.Event()
    make = partial(SimulatedCamera, Device(Plan(frame_s=0.0)))
    order = Order("l", "bottle", 500)
    with ThreadPoolExecutor(1) as executor:
        ended = executor.submit(process.run, loaded, order, make, lambda *_: None, stop)
        assert publishers.announced.wait(PATIENCE_S)
        yield publishers, stop, ended
        publishers.room.set()


def test_at_the_end_of_its_input_a_process_waits_until_every_announced_part_has_its_job(camera_process):
    publishers, _, ended = camera_process
    threading.Timer(0.3, publishers.room.set).start()  # much later than a process waits that is told to end
    ended.result(PATIENCE_S)
    assert [capture.part_id for capture in publishers.accepted] == ["p:7"]


def test_a_process_that_is_told_to_end_and_leaves_announced_parts_without_jobs_names_them(camera_process, tmp_path):
    _, stop, ended = camera_process
    stop.set()
    with pytest.raises(PartsLeftError, match=r"1 announced parts have no job: .* took it \(p:7\)") as error:
        ended.result(PATIENCE_S)
    assert error.value.exit_code == 1
    assert [job.part_id for job in OpenParts(tmp_path / "l.bottle.open-parts").left] == ["p:7"]


# The sender


class Sink:
    """What the publisher would get. It takes images while `room` is set."""

    def __init__(self):
        self.room = threading.Event()
        self.room.set()
        self.taken, self.causes = [], []

    def accept(self, capture):
        assert self.room.wait(PATIENCE_S)
        self.taken.append(capture)
        return True

    def sender(self, encode=lambda frame: (frame.data, "image/png"), **limits):
        return ImageSender(
            encode, self.accept, **{"max_frames": 4, "max_bytes": 100} | limits, on_no_image=self.causes.append
        )


def capture(number):
    return Capture(f"p{number}", messages.NO_CONTENT, NOW, b"", job_id=f"j{number}")


def test_a_frame_is_encoded_and_handed_over_in_order():
    sink = Sink()
    sender = sink.sender()
    for number in range(3):
        sender.send(capture(number), FRAME)
    assert sender.close(PATIENCE_S)
    assert [(taken.part_id, taken.image, taken.content_type) for taken in sink.taken] == [
        (f"p{number}", b"pixels", "image/png") for number in range(3)
    ]


def test_a_frame_that_becomes_no_image_is_a_part_without_one():
    def encode(frame):
        if frame.data == b"unfit":
            raise UnfitFrameError("10 bits")
        return (1 // len(frame.data)) * frame.data, "image/png"

    sink = Sink()
    sender = sink.sender(encode)
    for number, data in enumerate([b"unfit", b"", b"x"]):
        sender.send(capture(number), Frame(data))
    sender.close(PATIENCE_S)
    assert [taken.no_image for taken in sink.taken] == [
        "10 bits",
        "ZeroDivisionError: integer division or modulo by zero",
        None,
    ]
    assert sink.causes == ["unfit", "unfit"]


def test_an_image_that_no_worker_takes_is_a_part_without_one():
    sink = Sink()
    sender = sink.sender(max_bytes=5)
    sender.send(capture(0), FRAME)
    sender.close(PATIENCE_S)
    assert sink.taken[0].no_image == "the image has 6 bytes, and images.max_bytes is 5"


def test_the_id_that_an_image_shows_becomes_that_of_its_part():
    def read_id(image, _):
        if image == b"bare":
            raise NoCodeError("no code")
        return "SN-7" if image == b"marked" else None

    sink = Sink()
    sender = sink.sender(read_id=read_id)
    for number, data in enumerate([b"marked", b"plain", b"bare"]):
        sender.send(capture(number), Frame(data))
    sender.close(PATIENCE_S)
    assert [(taken.part_id, taken.job_id, taken.no_image) for taken in sink.taken] == [
        ("SN-7", "j0", None),
        ("p1", "j1", None),
        ("p2", "j2", "no code"),
    ]
    assert sink.causes == ["no_code"]


def test_while_nothing_takes_images_frames_are_dropped_and_their_parts_are_not():
    sink = Sink()
    sink.room.clear()
    sender = sink.sender(max_frames=2)
    for number in range(10):
        sender.send(capture(number), FRAME)
    sink.room.set()
    sender.close(PATIENCE_S)
    assert [taken.part_id for taken in sink.taken] == [f"p{number}" for number in range(10)]
    with_image = sum(taken.no_image is None for taken in sink.taken)
    assert 2 <= with_image <= 3
    assert sink.causes == ["no_room"] * (10 - with_image)


# The thread


class Results:
    """What a thread reports, and waits for it."""

    def __init__(self, make, clock=time.monotonic):
        self.results, self.arrived = [], threading.Condition()
        self.thread = CameraThread(make, 0.05, self.add, clock)

    def add(self, job_id, result):
        with self.arrived:
            self.results.append((job_id, result))
            self.arrived.notify_all()

    def shoot(self, job_id, timeout_s=5.0, trigger_by=math.inf):
        """Take a picture, once the camera is ready. Return the result."""
        deadline = time.monotonic() + PATIENCE_S
        while self.thread.press(job_id, timeout_s, trigger_by) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with self.arrived:
            assert self.arrived.wait_for(lambda: job_id in dict(self.results), PATIENCE_S)
        return dict(self.results)[job_id]


@pytest.fixture
def run():
    started = []

    def run(device, clock=time.monotonic):
        started.append(Results(lambda: SimulatedCamera(device), clock))
        return started[-1]

    yield run
    for results in started:
        results.thread.end()
        results.thread.join(PATIENCE_S)


def test_a_thread_takes_one_picture_for_each_press(run):
    camera = run(Device(Plan(frame_s=0.0)))
    assert [camera.shoot(f"j{number}") for number in range(3)] == [texture(0, number) for number in range(3)]


def test_a_frame_is_passed_on_before_its_camera_is_ready_again_and_a_trigger_meanwhile_is_busy():
    arming, ready = [], threading.Event()

    class SlowToArm(SimulatedCamera):
        def arm(self):
            super().arm()
            arming.append(True)
            if len(arming) > 1:  # the first one is that of the opening
                assert ready.wait(PATIENCE_S)

    camera = Results(lambda: SlowToArm(Device(Plan(frame_s=0.0))))
    assert isinstance(camera.shoot("j1"), Frame)
    assert camera.thread.press("j2", 5.0) == "the camera was still busy with the trigger before"
    ready.set()
    assert isinstance(camera.shoot("j3"), Frame)
    camera.thread.end()
    camera.thread.join(PATIENCE_S)


def test_a_thread_opens_a_lost_camera_anew(run):
    device = Device(Plan(die=1.0, down_s=0.0, frame_s=0.0))
    camera = run(device)
    assert isinstance(camera.shoot("j1"), CameraLostError)
    device.plan = Plan(frame_s=0.0)
    assert isinstance(camera.shoot("j2"), Frame)
    assert camera.thread.opened == 2


def test_a_thread_goes_on_after_a_frame_that_did_not_come(run):
    device = Device(Plan(lost=1.0, frame_s=0.0))
    camera = run(device)
    assert isinstance(camera.shoot("j1", 0.01), NoFrameError)
    device.plan = Plan(frame_s=0.0)
    assert isinstance(camera.shoot("j2"), Frame)
    assert camera.thread.opened == 1


@pytest.mark.parametrize(("trigger_by", "passes"), [(1.0, True), (0.9, False)])
def test_a_frame_whose_trigger_has_reached_the_camera_too_late_may_show_another_part(run, trigger_by, passes):
    camera = run(Device(Plan(frame_s=0.0)), lambda: 1.0)
    results = [camera.shoot(f"j{number}", trigger_by=trigger_by) for number in range(4)]
    assert [isinstance(result, Frame) for result in results] == [passes] * 4
    if not passes:
        reason = "the camera had its trigger 100 ms too late (camera.trigger_late_ms)"
        assert {str(result) for result in results} == {reason}
        assert {type(result).cause for result in results} == {"late_trigger"}
    assert camera.thread.opened == 1


def test_a_frame_that_comes_after_its_time_limit_may_show_another_part_and_its_camera_is_well(run):
    now = [1.0]

    def picture(number):
        now[0] += 0.3  # this process or that of the camera stands meanwhile
        return texture(0, number)

    camera = run(Device(Plan(frame_s=0.0), picture), lambda: now[0])
    results = [camera.shoot(f"j{number}", timeout_s=0.25) for number in range(4)]
    assert {str(result) for result in results} == {"its frame came 50 ms too late (camera.frame_timeout_ms)"}
    assert {type(result).cause for result in results} == {"no_frame"}
    assert camera.thread.opened == 1


def test_a_camera_that_takes_triggers_and_gives_no_frames_is_opened_anew(run):
    device = Device(Plan(lost=1.0, frame_s=0.0))
    camera = run(device)
    for number in range(3):
        assert isinstance(camera.shoot(f"j{number}", 0.01), NoFrameError)
    device.plan = Plan(frame_s=0.0)
    assert isinstance(camera.shoot("j3"), Frame)
    assert camera.thread.opened == 2


def test_a_busy_thread_says_so_at_once_and_shows_how_long_its_call_takes(run):
    blocked, entered = threading.Event(), threading.Event()

    def wait(_):
        entered.set()
        blocked.wait(PATIENCE_S)

    camera = run(Device(Plan(block=1.0), wait=wait))
    while camera.thread.press("j1", 0.01) is not None:
        time.sleep(0.001)
    assert entered.wait(PATIENCE_S)
    assert camera.thread.press("j2", 0.01) == "the camera was still busy with the trigger before"
    assert camera.thread.in_call_s > 0
    camera.thread.end()
    blocked.set()
    camera.thread.join(PATIENCE_S)
    assert camera.results == []


def test_a_camera_that_waits_for_a_frame_as_long_as_it_may_is_ready_and_one_that_waits_longer_is_not(run):
    now, entered, ended = [1.0], threading.Event(), threading.Event()

    def picture(number):
        entered.set()
        assert ended.wait(PATIENCE_S)
        return texture(0, number)

    camera = run(Device(Plan(frame_s=0.0), picture), lambda: now[0])
    while camera.thread.press("j1", timeout_s=10.0) is not None:
        time.sleep(0.001)
    assert entered.wait(PATIENCE_S)
    now[0] += 11.0
    assert camera.thread.is_open
    now[0] += 1.5
    assert not camera.thread.is_open
    ended.set()


def test_whatever_a_driver_raises_the_camera_is_opened_anew(run):
    device = Device(Plan(frame_s=0.0), picture=lambda number: {1: FRAME}[number])
    camera = run(device)
    assert str(camera.shoot("j1")) == "KeyError: 0"
    assert camera.shoot("j2") == FRAME
