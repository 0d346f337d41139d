"""Every row of the benchmark. A function measures one question and returns its rows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench import apart
from bench import line as lines
from bench.line import Line
from bench.plant import DEFAULT, WIDE, WIDE8, pictures
from bench.table import Row, in_turn, milliseconds, per_second, row
from patchline import config
from patchline.banks import serving
from patchline.devices import backbone, loading
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import topology
from patchline.runtime.stopwatch import Stopwatch

PNG, JPEG = "image/png", "image/jpeg"
_CORES = len(os.sched_getaffinity(0))
_BARE = 120  # inferences in a measurement of the network alone
_EACH_CORE = {WIDE: 150, WIDE8: 300, DEFAULT: 450}  # images through the line
_EACH_DEVICE = 300  # images
RATE, _SECONDS = 36.0, 30
_SIMULATED = ("-m", "bench.simulated")


def bare(settings: config.Config, category: str, cores: int) -> tuple[list[Row], Callable[[], float]]:
    """The network alone, on an image that is in memory and prepared; and how to measure it at its best again."""
    recipe = settings.category(category)
    compiled = {
        streams: loading.load(settings.paths.models, recipe.backbone, recipe.imagesize, backbone.CPU, streams)
        for streams in (1, cores, cores + 1)
    }
    image = np.random.default_rng(0).integers(0, 255, (1, recipe.imagesize, recipe.imagesize, 3), dtype=np.uint8)

    def measure(streams: int) -> float:
        return per_second(lambda _: compiled[streams].extract(image), _BARE, streams)

    best = max(compiled, key=measure)
    name = f"{category}: network alone, {best} streams : 1 stream"
    return [in_turn(name, "images/s", lambda: measure(best), lambda: measure(1))], lambda: measure(best)


def end_to_end(line: Line, category: str, content_type: str, limit: Callable[[], float], limit_name: str) -> Row:
    """The whole line with one worker, RabbitMQ and Redis on the same cores."""
    images = pictures(_EACH_CORE[category] * _CORES, content_type)
    kind = content_type.removeprefix("image/")
    return in_turn(
        f"{category}: end to end, {kind} : {limit_name}",
        "images/s",
        lambda: lines.drained_per_second(line, category, images, content_type),
        limit,
    )


def reference_way(line: Line, category: str, kernels: str | None = None) -> Callable[[], float]:
    """How to measure the reference's way, on JPEG, with those kernels of OpenBLAS."""
    file = str(line.folder / "config.yaml")
    return lambda: float(apart.answer("bench.reference_way", file, category, kernels=kernels))


def stages(inspect: Inspector, category: str) -> list[Row]:
    """Each stage of an image against the whole of it, in one thread."""
    took: dict[str, list[float]] = {}
    exact_search.set_threads(1)
    for content_type in (PNG, JPEG):
        for image in pictures(60, content_type):
            watch = Stopwatch(lambda stage, seconds: took.setdefault(stage, []).append(seconds * 1000))
            inspect.inspect(image, content_type, watch.stage, with_heat_map=True)
    whole = sum(map(statistics.median, took.values()))
    rows = []
    for stage, values in took.items():
        low, median, high = statistics.quantiles(values, n=4)
        rows.append(row(f"{category}: stage {stage} : whole image", "ms", median, whole, (high - low) / median))
    return rows


def messages(line: Line) -> Row:
    """A JPEG onto the queue, against the same with three times its bytes: what a job costs the broker."""
    (image,) = pictures(1, JPEG)

    def ours() -> float:
        took = milliseconds(lambda: line.send_one(DEFAULT, 0, image, JPEG), times=100)
        _emptied(line)
        return took

    def other() -> float:
        took = milliseconds(lambda: line.send_one(DEFAULT, 0, image * 3, JPEG), times=100)
        _emptied(line)
        return took

    return in_turn("publish and confirm a JPEG : three times as large", "ms", ours, other)


def latency(line: Line, category: str) -> list[Row]:
    """From capture to verdict at 36 images a second, evenly."""
    images = pictures(int(RATE * _SECONDS), JPEG)
    with line.workers(category):
        line.send(category, images[:50], JPEG)
        line.verdicts(50)
        started = time.monotonic()
        for number, image in enumerate(images):
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))
            line.send_one(category, number, image, JPEG)
        arrived = line.verdicts(len(images))
    took = [verdict.decided_at - verdict.captured_at for verdict in arrived if verdict.captured_at is not None]
    shares = {"median": 0.5, "p99": 0.99, "p99.9": 0.999}
    return [
        row(f"{category}: latency at 36 images/s, {name} : 100 ms", "ms", lines.quantile(took, share), 100.0)
        for name, share in shares.items()
    ]


def devices(line: Line) -> list[Row]:
    """Simulated devices of 27.7 ms an image: images a second by so many worker processes, and what an image costs."""
    rates, costs = {}, {}
    for count in (1, 2, 4, 8):
        images = pictures(_EACH_DEVICE * count, JPEG)
        with line.workers(WIDE, count, _SIMULATED) as workers:
            lines.wait_until_ready(workers)
            line.send(WIDE, images, JPEG)
            begin = lines.reading(workers, 1)
            end = lines.reading(workers, len(images) * 9 // 10)
            rates[count], costs[count] = end.per_second_since(begin), end.cpu_ms_since(begin)
            line.verdicts(len(images))
    rows = [
        row(f"{count} simulated devices : 1 device", "images/s", rate, rates[1])
        for count, rate in rates.items()
        if count > 1
    ]
    rows += [row(f"CPU of the workers for an image, {n} devices : 1", "ms", ms, costs[1]) for n, ms in costs.items()]
    return rows


def memory(line: Line, category: str, images: int) -> list[Row]:
    """A worker's memory after its first images and after many, and its time from start to first verdict."""
    batch = pictures(200, JPEG)
    line.send(category, batch, JPEG)
    started = time.perf_counter()
    with line.workers(category) as (worker,):
        line.verdicts(1)
        first_verdict_s = time.perf_counter() - started
        line.verdicts(len(batch) - 1)
        done, warm = len(batch), 0
        while done < images:
            line.send(category, batch, JPEG)
            line.verdicts(len(batch))
            done += len(batch)
            if warm == 0 and done >= images // 10:
                warm = lines.resident_bytes(worker.process_id)
        grown = lines.resident_bytes(worker.process_id)
    return [
        row(f"{category}: memory after {images} images : after {images // 10}", "MB", grown / 1e6, warm / 1e6),
        row(f"{category}: start to first verdict : 10 s", "s", first_verdict_s, 10.0),
    ]


def inspector(settings: config.Config, category: str) -> Inspector:
    """As a worker loads it: each thread that asks gets one core, since OpenVINO gives fewer streams several threads."""
    return serving.load(settings, [category], backbone.CPU, _CORES)[category]


def _emptied(line: Line) -> None:
    consumer = line.broker.consume(topology.JOBS, prefetch=500)
    while (delivery := consumer.take(0.5)) is not None:
        delivery.ack()
    consumer.cancel()
