"""How many verdicts a second an archive takes from RabbitMQ, against what one worker makes: both real processes."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from bench import line as lines
from bench import plant
from bench.line import Line
from bench.plant import DEFAULT
from bench.table import Row, measure_in_turn
from patchline import config
from patchline.broker.base import Message, Outgoing
from patchline.protocol import topology
from patchline.services import server

_IMAGES, _VERDICTS, _BATCH = 1_000, 30_000, 500
_TIMEOUT_S, _POLL_S = 300.0, 0.1
_STORED = "patchline_archive_verdicts_total"
_JPEG = "image/jpeg"


def build(folder: Path) -> config.Config:
    """Fill an empty folder with a plant of one category, whose archive is there, too."""
    settings = plant.build(folder, config.load(config.PACKAGED).paths.models, (DEFAULT,))
    paths = settings.paths.model_copy(update={"archive": folder / "archive"})
    built = settings.model_copy(update={"paths": paths})
    config.save(built, folder / "config.yaml")
    return built


def measure(line: Line, target: Path | str, verdicts: Iterator[Message]) -> Row:
    """Compare the verdicts a second of an archive and of one worker, in turn. The queue of each is full at its start.

    Args:
        line: of the worker, with nothing in its queues.
        target: the database of the archive, with what is in it already.
        verdicts: that it does not know yet.
    """
    images = plant.pictures(100, _JPEG)
    images *= _IMAGES // len(images)
    return measure_in_turn(
        "verdicts stored : made by one worker",
        "1/s",
        lambda: _stored_per_second(line, target, list(islice(verdicts, _VERDICTS))),
        lambda: lines.drained_per_second(line, DEFAULT, images, _JPEG),
    )


def _stored_per_second(line: Line, target: Path | str, verdicts: Sequence[Message]) -> float:
    """Fill the queue, start an archive, and return its rate without the first and the last tenth."""
    for first in range(0, len(verdicts), _BATCH):
        batch = verdicts[first : first + _BATCH]
        line.broker.publish_all([Outgoing(topology.VERDICTS, "bench.default.pass", message) for message in batch])
    with _archive(line, target) as port:
        begin = _wait_until_stored(port, len(verdicts) // 10)
        end = _wait_until_stored(port, len(verdicts) * 9 // 10)
        _wait_until_stored(port, len(verdicts))
    return (end[0] - begin[0]) / (end[1] - begin[1])


@contextmanager
def _archive(line: Line, target: Path | str) -> Iterator[int]:
    """Run an archive. Yield its port for metrics."""
    (port,) = server.free_ports(1)
    command = ["archive", "--metrics-port", str(port), "--config", str(line.folder / "config.yaml")]
    url = "" if isinstance(target, Path) else target
    environment = {"PATCHLINE_AMQP_URL": line.servers.amqp_url, "PATCHLINE_ARCHIVE_URL": url}
    with (line.folder / "archive.log").open("ab") as log:
        guard = server.start_guarded([sys.executable, "-m", "patchline", *command], log, log, environment)
        try:
            yield port
        finally:
            server.stop_guarded(guard)


def _wait_until_stored(port: int, count: int) -> tuple[float, float]:
    """Wait until an archive has committed so many verdicts. Return their number, and the time in seconds."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        stored, now = _stored(port), time.perf_counter()
        if stored >= count:
            return stored, now
        time.sleep(_POLL_S)
    raise server.ServiceError("the archive of the benchmark does not store verdicts; see its log")


def _stored(port: int) -> float:
    """The verdicts that an archive has committed; 0 while it does not serve its metrics yet."""
    try:
        with urllib.request.urlopen(f"http://{server.HOST}:{port}/metrics", timeout=_TIMEOUT_S) as page:
            text = page.read().decode()
    except OSError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(_STORED))
