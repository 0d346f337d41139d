"""Measures the line against its own limits: each row is a ratio of two things measured in turn in one run."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import cv2
import numpy as np

from broker import topology
from broker.base import Broker, Message
from inspection import backbone, config, decode, loading, memory_bank, message, preprocess
from inspection.inspector import Inspector
from process import line
from process.stopwatch import Stopwatch
from tools import fit, server, services, terminal

_SIDE = 300
_IMAGES = 200
_ROUNDS = 3
_CATEGORY = "solar_cell_mono"


class Row(message.Frozen):
    """Two measurements in turn: medians, their ratio, and the widest relative spread of the rounds."""

    name: str
    ours: float
    other: float
    ratio: float
    spread: float
    unit: str


class Table(message.Frozen):
    """`out/bench.json`."""

    cores: int
    rows: tuple[Row, ...]


def run(settings: config.Config, out: Path) -> None:
    """Measure, print a table and write it to `out`.

    Raises:
        ServiceError: a server is missing.
    """
    images = _pictures(_IMAGES)
    with tempfile.TemporaryDirectory() as name:
        settings = _small_plant(settings, Path(name), images)
        lanes = len(os.sched_getaffinity(0))
        inspect = loading.load(settings, [_CATEGORY], backbone.Device.parse("cpu"), lanes)[_CATEGORY]
        rows = [_inspection_row(inspect, images, lanes), *_stage_rows(inspect, images)]
        with services.running() as servers:
            settings = config.with_urls(settings, servers.amqp_url, servers.redis_url)
            rows.insert(0, _end_to_end_row(settings, Path(name), servers, inspect, images, lanes))
    table = Table(cores=lanes, rows=tuple(rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table.model_dump_json(indent=2) + "\n", encoding="utf-8")
    columns = ("measured", "ours", "other", "ratio", "spread", "unit")
    terminal.table(f"{lanes} cores, median of {_ROUNDS} rounds in turn", columns, list(map(_cells, rows)))
    print(out)


def _pictures(count: int) -> list[bytes]:
    """PNG files of 300 x 300 pixels with the fine grain of a real surface."""
    rng = np.random.default_rng(0)
    grain = (rng.integers(0, 255, (_SIDE, _SIDE), dtype=np.uint8) for _ in range(count))
    return [cv2.imencode(".png", cv2.GaussianBlur(each, (0, 0), 2))[1].tobytes() for each in grain]


def _small_plant(settings: config.Config, folder: Path, images: list[bytes]) -> config.Config:
    """A memory bank of 3,000 patches in a folder of its own."""
    good = folder / "good"
    good.mkdir()
    for number, image in enumerate(images[:100]):
        (good / f"{number:03}.png").write_bytes(image)
    recipe = settings.category(_CATEGORY).model_copy(update={"coreset_ratio": 0.0293})
    paths = settings.paths.model_copy(update={"memory_banks": folder / "banks"})
    settings = settings.model_copy(update={"paths": paths, "categories": {_CATEGORY: recipe}})
    config.save(settings, folder / "config.yaml")
    fit.fit(settings, _CATEGORY, good, seed=0)
    return settings


def _in_turn(name: str, unit: str, ours: Callable[[], float], other: Callable[[], float]) -> Row:
    pairs = [(ours(), other()) for _ in range(_ROUNDS)]
    mine, others = [list(each) for each in zip(*pairs, strict=True)]
    spread = max((max(each) - min(each)) / statistics.median(each) for each in (mine, others))
    first, second = statistics.median(mine), statistics.median(others)
    return Row(name=name, ours=first, other=second, ratio=first / second, spread=spread, unit=unit)


def _per_second(work: Callable[[int], object], count: int, lanes: int) -> float:
    """How many of `work(0) ... work(count - 1)` are done in a second by so many threads."""

    def lane(first: int) -> None:
        memory_bank.use_threads(1)
        for number in range(first, count, lanes):
            work(number)

    threads = [threading.Thread(target=lane, args=(first,)) for first in range(lanes)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - started)


def _bare(inspect: Inspector, image: bytes, lanes: int) -> Callable[[], float]:
    """The network alone, on an image that is already in memory and prepared."""
    rgb = decode.decode(image, "image/png", inspect.limits)
    prepared = preprocess.prepare(rgb, inspect.category.resize, inspect.category.imagesize)[None]
    return lambda: _per_second(lambda _: inspect.backbone.extract(prepared), _IMAGES, lanes)


def _inspection_row(inspect: Inspector, images: list[bytes], lanes: int) -> Row:
    def whole(number: int) -> object:
        return inspect.inspect(images[number], "image/png", _untimed)

    return _in_turn(
        "inspection in one process : network alone",
        "images/s",
        lambda: _per_second(whole, _IMAGES, lanes),
        _bare(inspect, images[0], lanes),
    )


def _stage_rows(inspect: Inspector, images: list[bytes]) -> list[Row]:
    """Each stage of an image, against the whole of it, in one thread."""
    took: dict[str, list[float]] = {}
    memory_bank.use_threads(1)
    for image in images:
        watch = Stopwatch(lambda stage, seconds: took.setdefault(stage, []).append(seconds * 1000))
        inspect.inspect(image, "image/png", watch.stage, look=True)
    medians = {stage: statistics.median(values) for stage, values in took.items()}
    total = sum(medians.values())
    quartiles = {stage: statistics.quantiles(values, n=4) for stage, values in took.items()}
    return [
        Row(
            name=f"stage {stage} : whole image",
            ours=median,
            other=total,
            ratio=median / total,
            spread=(quartiles[stage][2] - quartiles[stage][0]) / median,
            unit="ms",
        )
        for stage, median in medians.items()
    ]


def _end_to_end_row(
    settings: config.Config,
    folder: Path,
    servers: services.Servers,
    inspect: Inspector,
    images: list[bytes],
    lanes: int,
) -> Row:
    with line.connect(settings, "bench") as broker:
        broker.declare(line.plant(settings))
        return _in_turn(
            "end to end over RabbitMQ : network alone",
            "images/s",
            lambda: _drained_per_second(broker, servers, folder, images),
            _bare(inspect, images[0], lanes),
        )


def _drained_per_second(broker: Broker, servers: services.Servers, folder: Path, images: list[bytes]) -> float:
    """Fill the queue, start a worker, and time its verdicts from the first to the last."""
    for number, image in enumerate(images):
        headers = {"line": "bench", "category": _CATEGORY, "part_id": f"p{number}", "captured_at": line.now_ms()}
        outgoing = Message(image, f"{number}", message.JOB_TYPE, "image/png", headers)
        broker.publish(topology.JOBS, f"bench.{_CATEGORY}", outgoing)
    command = [
        sys.executable,
        "-m",
        "patchline",
        "worker",
        "--metrics-port",
        "0",
        "--config",
        str(folder / "config.yaml"),
    ]
    environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    with (folder / "worker.log").open("wb") as log:
        worker = server.guarded(command, log, log, environment)
        decided = _decided_at(broker, len(images))
        server.end(worker)
    return (len(decided) - 1) / ((decided[-1] - decided[0]) / 1000)


def _decided_at(broker: Broker, count: int) -> list[int]:
    verdicts, decided = broker.consume(topology.VERDICTS, prefetch=count), list[int]()
    while len(decided) < count:
        delivery = verdicts.take(60.0)
        if delivery is None:
            raise server.ServiceError("the worker of the benchmark gives no verdicts")
        decided.append(message.parse_verdict(delivery.message).decided_at)
        delivery.ack()
    verdicts.cancel()
    return sorted(decided)


def _cells(row: Row) -> list[object]:
    return [row.name, f"{row.ours:.2f}", f"{row.other:.2f}", f"{row.ratio:.3f}", f"{row.spread:.2f}", row.unit]


def _untimed(_: str) -> AbstractContextManager[None]:
    return nullcontext()
