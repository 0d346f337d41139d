"""`python -m bench.publishing`: a watched folder against `publish` of the same files, and its delay."""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import line as lines
from bench.line import Line
from bench.plant import pictures
from bench.table import Row, measure_in_turn, print_rows, ratio_row
from patchline import config
from patchline.runtime import logs
from patchline.services import server

_IMAGES = 600
_SINGLE_IMAGES = 50
_PAUSE_S = 0.1
_DELAY_LIMIT_MS = 500.0
_TIMEOUT_S = 120.0
_DEADLINE_MS = "600000"  # no image of the benchmark is late


def main() -> None:
    """Measure and print a table."""
    logs.configure("error")
    settings = config.load(Path("config.yaml"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = settings.paths.model_copy(update={"spool": folder / "spool"})
        settings = settings.model_copy(update={"paths": paths})
        config.save(settings, folder / "config.yaml")
        with lines.running(folder, settings) as line:
            print_rows("publishing", rows(line, next(iter(settings.categories))))


def rows(line: Line, category: str) -> list[Row]:
    """Compare the two ways to publish files, and measure the delay of single images."""
    images = pictures(_IMAGES, "image/png")
    numbers = itertools.count()

    def folder_of_images() -> Path:
        folder = line.folder / f"images-{next(numbers)}"
        folder.mkdir()
        for number, image in enumerate(images):
            (folder / f"{number:04}.png").write_bytes(image)
        return folder

    rate = measure_in_turn(
        "publish --watch : publish",
        "images/s",
        lambda: _watched_per_second(line, category, folder_of_images()),
        lambda: _published_per_second(line, category, folder_of_images()),
    )
    delay = _median_delay_ms(line, category, images[:_SINGLE_IMAGES])
    name = f"publish --watch: moved in until confirmed, median : {_DELAY_LIMIT_MS:.0f} ms"
    return [rate, ratio_row(name, "ms", delay, _DELAY_LIMIT_MS)]


@dataclass(frozen=True)
class _Publisher:
    """A publisher and the file that it writes its records to."""

    records: Path
    log: Path

    def wait(self, count: int) -> float:
        """Wait for `count` records. Return the time."""
        return _wait(lambda: self.records.read_bytes().count(b"\n") >= count)


@contextmanager
def _publisher(line: Line, category: str, *arguments: str) -> Iterator[_Publisher]:
    """Run `patchline publish`. Its jobs are removed at the end."""
    records, log = line.folder / "records.jsonl", line.folder / "publisher.log"
    command = [sys.executable, "-m", "patchline", "publish", "--line", "bench", "--category", category, *arguments]
    command += ["--deadline-ms", _DEADLINE_MS, "--config", str(line.folder / "config.yaml")]
    with records.open("wb") as output, log.open("wb") as errors:
        guard = server.start_guarded(command, output, errors, {"PATCHLINE_AMQP_URL": line.servers.amqp_url})
        try:
            yield _Publisher(records, log)
        finally:
            server.stop_guarded(guard)
    line.drain_jobs(category)


@contextmanager
def _watch(line: Line, category: str) -> Iterator[tuple[_Publisher, Path]]:
    """Run `patchline publish --watch` on an empty folder, and yield both once it watches."""
    with tempfile.TemporaryDirectory(dir=line.folder) as name, _publisher(line, category, "--watch", name) as publisher:
        _wait(lambda: b"watching folder" in publisher.log.read_bytes())
        yield publisher, Path(name)


def _published_per_second(line: Line, category: str, images: Path) -> float:
    """Count from the first record, so that the start of the process does not matter."""
    with _publisher(line, category, str(images)) as publisher:
        started = publisher.wait(1)
        return (_IMAGES - 1) / (publisher.wait(_IMAGES) - started)


def _watched_per_second(line: Line, category: str, images: Path) -> float:
    """Count from the moment when the images begin to move in, all at once."""
    with _watch(line, category) as (publisher, folder):
        started = time.perf_counter()
        for path in sorted(images.iterdir()):
            path.rename(folder / path.name)
        return _IMAGES / (publisher.wait(_IMAGES) - started)


def _median_delay_ms(line: Line, category: str, images: list[bytes]) -> float:
    delays = []
    with _watch(line, category) as (publisher, folder):
        for number, image in enumerate(images):
            (folder / ".new.png").write_bytes(image)
            started = time.perf_counter()
            (folder / ".new.png").rename(folder / f"{number}.png")
            delays.append(publisher.wait(number + 1) - started)
            time.sleep(_PAUSE_S)
    return statistics.median(delays) * 1000


def _wait(condition: Callable[[], bool]) -> float:
    """Wait until `condition()` is true. Return the time.

    Raises:
        ServiceError: it is not true in time.
    """
    deadline = time.perf_counter() + _TIMEOUT_S
    while not condition():
        if time.perf_counter() > deadline:
            raise server.ServiceError("the publisher of the benchmark does not publish; see its log")
        time.sleep(0.002)
    return time.perf_counter()


if __name__ == "__main__":
    main()
