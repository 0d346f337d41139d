"""What the time stamps of a stream say, without a stream."""

import errno
import os
import random

import pytest

pytest.importorskip("av")

from patchline.camera import stream_host
from patchline.camera.stream_host import Sequence, StreamClock

PERIOD_S = 0.04


def test_a_picture_that_waited_has_the_moment_of_one_that_did_not():
    clock = StreamClock()
    for number in range(10):
        assert clock.moment(number * PERIOD_S, 100 + number * PERIOD_S) == pytest.approx(100 + number * PERIOD_S)
    for number in range(10, 30):  # all of them come at once
        moment = clock.moment(number * PERIOD_S, 103.0)
        assert moment == pytest.approx(100 + number * PERIOD_S, abs=0.002)


def test_pictures_that_wait_while_a_stream_is_opened_are_not_taken_for_newer_ones_once_it_flows():
    clock = StreamClock()
    for number in range(10):
        clock.moment(number * PERIOD_S, 101.0)
    assert clock.moment(10 * PERIOD_S, 101.0) == pytest.approx(101.0)
    assert clock.moment(30 * PERIOD_S, 101.2) == pytest.approx(101.2)
    assert clock.moment(31 * PERIOD_S, 101.9) == pytest.approx(101.24, abs=0.001)


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_the_clock_of_a_camera_may_run_faster_or_slower_for_days(drift):
    clock = StreamClock()
    jitter = random.Random(0)
    late = []
    for second in range(200_000):
        arrived = second * (1 + drift) + jitter.random() * 0.01
        late.append(arrived - clock.moment(second, arrived))
    assert max(late) < 0.02


def test_pictures_that_build_upon_a_missing_one_are_told_from_those_after_the_next_key_frame():
    sequence = Sequence()
    stamps = [number for number in range(40) if number != 23]
    lacking = [number for number in stamps if sequence.lacks_picture(number * PERIOD_S, number % 10 == 0)]
    assert lacking == [24, 25, 26, 27, 28, 29]


def test_a_picture_that_is_missing_at_the_start_is_noticed_once_the_usual_time_between_two_is_known():
    sequence = Sequence()
    lacking = [number for number in (0, 2, 3, 4, 5, 6) if sequence.lacks_picture(number * PERIOD_S, number == 0)]
    assert lacking == [3, 4, 5, 6]


def test_a_rate_that_varies_hides_no_missing_picture():
    sequence = Sequence()
    for number in range(0, 40, 2):
        sequence.lacks_picture(number * PERIOD_S, number == 0)
    assert not sequence.lacks_picture(40 * PERIOD_S, False)
    assert sequence.lacks_picture(43 * PERIOD_S, False)


def test_no_picture_of_a_stream_of_key_frames_builds_upon_another():
    sequence = Sequence()
    assert not any(sequence.lacks_picture(stamp * PERIOD_S, True) for stamp in (0, 1, 5, 6, 20))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ECONNREFUSED, "switch RTSP on in the camera, and write its port"),
        (errno.EHOSTUNREACH, "check its address, and ping it from here"),
        (errno.EIO, "check its address, and ping it from here"),
    ],
)
def test_a_stream_that_cannot_be_reached_is_said_with_what_to_do(number, advice):
    error = OSError(number, os.strerror(number))
    assert advice in stream_host._reason(error, after_s=0.1)


def test_a_path_that_is_no_device_is_said_with_what_to_write(tmp_path):
    for path, text in ((tmp_path, "is no device"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(stream_host.Lost, match=f"{text}; write v4l2:/dev/video0"):
            stream_host._check_device(str(path))
