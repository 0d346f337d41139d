"""`python -m bench.camera`: from a trigger to the announcement, and from the frame to the confirmed job.

A camera shows files, so that its jobs have the bytes of files that `publish` sends, some time after its trigger, as
cameras do. In each round an announcement is published alone, then the camera is triggered, then the same file is
published: all three share one RabbitMQ and one state of the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import line as lines
from bench.line import Line
from bench.plant import pictures
from bench.table import Row, of_this_machine, ratio_row
from patchline import config
from patchline.broker.base import Message
from patchline.camera import process
from patchline.camera.base import Frame
from patchline.camera.folder import FolderCamera
from patchline.camera.order import Order
from patchline.protocol import messages, topology
from patchline.protocol.messages import Announcement, Job
from patchline.publisher.client import Client
from patchline.publisher.job_state import JobState
from patchline.runtime import connections, logs

CAMERA, FILES, BARE = "bench-camera", "bench-files", "bench-bare"  # lines
ROUNDS, WARM_UP = 300, 20
FRAME_MS = 25.0  # Aravis' fake camera needs 24 to 36, pylon's emulator 2.4
MAX_ANNOUNCEMENT, MAX_JOB = 2.0, 1.3
_PAUSE_S = 0.02
_TIMEOUT_S = 60.0
_DEADLINE_MS = 600_000


class Moments:
    """When things first happened, by name, in seconds of `time.perf_counter`. Thread-safe."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._changed = threading.Condition()

    def now(self, name: str) -> None:
        """Take note that something has happened."""
        with self._changed:
            self._at.setdefault(name, time.perf_counter())
            self._changed.notify_all()

    def wait(self, name: str) -> float:
        """Wait until it has happened. Return when.

        Raises:
            TimeoutError: it has not happened in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._at, _TIMEOUT_S):
                raise TimeoutError(f"{name}: did not happen within {_TIMEOUT_S:g} s")
            return self._at[name]


class TimedCamera(FolderCamera):
    """Shows files, and takes note of when it has given a frame."""

    def __init__(self, folder: Path, frame_s: float, moments: Moments) -> None:
        super().__init__(folder)
        self._frame_s, self._moments, self._frames = frame_s, moments, 0

    def grab(self, timeout_s: float) -> Frame:
        """See `Camera`."""
        time.sleep(self._frame_s)
        frame = super().grab(timeout_s)
        self._frames += 1
        self._moments.now(f"frame {self._frames}")
        return frame


@dataclass
class Times:
    """Milliseconds of each round."""

    bare: list[float] = field(default_factory=list)
    bare_delivered: list[float] = field(default_factory=list)
    announced: list[float] = field(default_factory=list)
    job: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        """Return the comparisons. The first and the third have a bound."""
        pairs = {
            f"trigger to announcement, delivered : publish and confirm (at most {MAX_ANNOUNCEMENT:g})": "bare",
            "trigger to announcement, delivered : published alone, delivered": "bare_delivered",
        }
        for name, other in pairs.items():
            yield _row(name, self.announced, getattr(self, other))
        yield _row(f"frame to confirmed job : publish of a file (at most {MAX_JOB:g})", self.job, self.published)


def main() -> int:
    """Measure, print, and write `out/bench-camera.json`. Return 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.camera", description=__doc__)
    parser.add_argument("--frame-ms", type=float, default=FRAME_MS, help="from the trigger to the frame")
    frame_s = parser.parse_args().frame_ms / 1000
    logs.configure("error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = config.load(Path("config.yaml"))
        paths = settings.paths.model_copy(update={"spool": folder / "spool"})
        camera = config.Camera(frame_timeout_ms=20_000, trigger_late_ms=20_000)
        settings = settings.model_copy(update={"paths": paths, "camera": camera})
        config.save(settings, folder / "config.yaml")
        with lines.running(folder, settings) as line:
            rows = tuple(measure(line, next(iter(settings.categories)), frame_s).rows())
    table = of_this_machine(rows)
    table.show()
    table.write(Path("out/bench-camera.json"))
    return int(rows[0].ratio > MAX_ANNOUNCEMENT or rows[2].ratio > MAX_JOB)


def measure(line: Line, category: str, frame_s: float) -> Times:
    """Run the rounds."""
    files = line.folder / "files"
    files.mkdir()
    images = pictures(50, "image/png")
    for number, image in enumerate(images):
        (files / f"{number:03}.png").write_bytes(image)
    os.environ["PATCHLINE_AMQP_URL"] = line.servers.amqp_url  # for the publisher in this process
    moments, times = Moments(), Times()
    with (
        _announcements(line, moments),
        _camera(line, category, TimedCamera(files, frame_s, moments), moments) as trigger,
        Client.connect(line.folder / "config.yaml", FILES, category) as client,
    ):
        for number in range(WARM_UP + ROUNDS):
            path = files / f"{number % len(images):03}.png"
            measured = (
                *_bare(line, category, number, moments),
                *_triggered(trigger, number + 1, moments),
                _published(client, path, number),
            )
            if number >= WARM_UP:
                for values, value in zip(vars(times).values(), measured, strict=True):
                    values.append(1000 * value)
            time.sleep(_PAUSE_S)
    return times


def _bare(line: Line, category: str, number: int, moments: Moments) -> tuple[float, float]:
    now = connections.now_ms()
    names: dict[str, Any] = {"line": BARE, "category": category, "part_id": f"p{number}"}
    part = Announcement(job_id=f"bare-{number}", captured_at=now, deadline=now + _DEADLINE_MS, **names)
    started = time.perf_counter()
    line.broker.publish(topology.PARTS, BARE, Message(b"", part.job_id, messages.PART_TYPE, None, part.headers()))
    confirmed = time.perf_counter() - started
    delivered = moments.wait(f"{BARE} p{number}") - started
    time.sleep(_PAUSE_S)
    return confirmed, delivered


def _triggered(trigger: int, number: int, moments: Moments) -> tuple[float, float]:
    started = time.perf_counter()
    os.write(trigger, b"\n")
    announced = moments.wait(f"{CAMERA} {number}") - started
    job = moments.wait(f"job {number}") - moments.wait(f"frame {number}")
    time.sleep(_PAUSE_S)
    return announced, job


def _published(client: Client, path: Path, number: int) -> float:
    started = time.perf_counter()
    client.send(path.read_bytes(), f"p{number}").result(_TIMEOUT_S)
    return time.perf_counter() - started


@contextmanager
def _announcements(line: Line, moments: Moments) -> Iterator[None]:
    """Take note of the announcements that a gate would get, until the block ends."""
    for name in (CAMERA, FILES, BARE):
        line.broker.declare(topology.gate(name, ["bench"]))
    ended = threading.Event()

    def listen(name: str) -> None:
        with connections.connect(line.settings, f"bench {name}") as broker:
            consumer = broker.consume(topology.gate_queue(name, "bench"), prefetch=100)
            while not ended.is_set():
                delivery = consumer.take(0.2)
                if delivery is not None:
                    part_id = messages.parse_announcement(delivery.message).part_id
                    moments.now(f"{name} {part_id.rpartition('-')[2]}")
                    delivery.ack()

    threads = [threading.Thread(target=listen, args=(name,), daemon=True) for name in (CAMERA, BARE)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(_TIMEOUT_S)


@contextmanager
def _camera(line: Line, category: str, camera: TimedCamera, moments: Moments) -> Iterator[int]:
    """Run the camera's process on a thread. Yields the end of a pipe: each line that is written triggers it."""
    reads, writes = os.pipe()
    before, stop = sys.stdin, threading.Event()

    def on_state(job: Job, state: JobState, reason: str | None) -> None:
        if state is not JobState.CONFIRMED:
            raise RuntimeError(f"a job of the benchmark is {state}: {reason}")
        moments.now(f"job {job.part_id.rpartition('-')[2]}")

    order = Order(CAMERA, category, _DEADLINE_MS)
    thread = threading.Thread(target=process.run, args=(line.settings, order, lambda: camera, on_state, stop))
    with os.fdopen(reads) as sys.stdin:
        thread.start()
        try:
            time.sleep(1.0)  # it is open then; the warm-up does not count
            yield writes
        finally:
            os.close(writes)
            thread.join(_TIMEOUT_S)
            sys.stdin = before


def _row(name: str, ours: list[float], other: list[float]) -> Row:
    return ratio_row(name, "ms", statistics.median(ours), statistics.median(other))


if __name__ == "__main__":
    sys.exit(main())
