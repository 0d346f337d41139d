"""The rows of the benchmark. Each function answers one question and returns its rows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench import isolated
from bench import line as lines
from bench.line import Line
from bench.plant import DEFAULT, WIDE, WIDE8, pictures
from bench.table import Row, calls_per_second, measure_in_turn, median_ms, ratio_row
from patchline import config
from patchline.banks import serving
from patchline.devices import backbone, loading
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.runtime.stopwatch import Stopwatch

PNG, JPEG = "image/png", "image/jpeg"
RATE = 36.0  # images/s, of the latency measurement
_LATENCY_S = 30
_CORES = len(os.sched_getaffinity(0))
_INFERENCES = 120  # in a measurement of the network alone
_IMAGES_PER_CORE = {WIDE: 150, WIDE8: 300, DEFAULT: 450}
_IMAGES_PER_DEVICE = 300
_SIMULATED = ("-m", "bench.simulated")


def network_alone(settings: config.Config, category: str, cores: int) -> tuple[list[Row], Callable[[], float]]:
    """Measure the network alone, on an image that is decoded and preprocessed.

    Returns:
        The rows, and a function that measures images/s again with the best number of streams.
    """
    one = network_rate(settings, category, 1)
    rates = {1: one, **{streams: network_rate(settings, category, streams) for streams in (cores, cores + 1)}}
    best = max(rates, key=lambda streams: rates[streams]())
    name = f"{category}: network alone, {best} streams : 1 stream"
    return [measure_in_turn(name, "images/s", rates[best], one)], rates[best]


def network_rate(settings: config.Config, category: str, streams: int) -> Callable[[], float]:
    """Return a function that measures the network alone with a number of streams, in images/s."""
    recipe = settings.category(category)
    compiled = loading.load(
        settings.paths.models, recipe.backbone, recipe.imagesize, backbone.CPU, streams, recipe.precision
    )
    image = np.random.default_rng(0).integers(0, 255, (1, recipe.imagesize, recipe.imagesize, 3), dtype=np.uint8)
    return lambda: calls_per_second(lambda _: compiled.extract(image), _INFERENCES, streams)


def end_to_end(line: Line, category: str, content_type: str, limit: Callable[[], float], limit_name: str) -> Row:
    """Measure the whole line: one worker, with RabbitMQ and Redis on the same cores."""
    images = pictures(_IMAGES_PER_CORE[category] * _CORES, content_type)
    image_format = content_type.removeprefix("image/")
    return measure_in_turn(
        f"{category}: end to end, {image_format} : {limit_name}",
        "images/s",
        lambda: lines.drained_per_second(line, category, images, content_type),
        limit,
    )


def reference_loop(line: Line, category: str, kernels: str | None = None) -> Callable[[], float]:
    """Return a function that measures the reference loop on JPEG images, in images/s.

    Args:
        line: the plant with the category.
        category: the category to measure.
        kernels: OpenBLAS kernels. If None, each package chooses its own.
    """
    file = str(line.folder / "config.yaml")
    return lambda: float(isolated.run_module("bench.reference_loop", file, category, kernels=kernels))


def stages(inspector: Inspector, category: str) -> list[Row]:
    """Compare each stage of an inspection with the sum of all stages, on one thread."""
    durations: dict[str, list[float]] = {}
    exact_search.set_threads(1)
    for content_type in (PNG, JPEG):
        for image in pictures(60, content_type):
            watch = Stopwatch(lambda stage, seconds: durations.setdefault(stage, []).append(seconds * 1000))
            inspector.inspect(image, content_type, watch.stage, with_heat_map=True)
    total = sum(map(statistics.median, durations.values()))
    rows = []
    for stage, values in durations.items():
        low, median, high = statistics.quantiles(values, n=4)
        rows.append(ratio_row(f"{category}: stage {stage} : whole image", "ms", median, total, (high - low) / median))
    return rows


def job_size(line: Line) -> Row:
    """Compare publishing a JPEG with publishing a job of three times its size: the cost of a job to the broker."""
    (image,) = pictures(1, JPEG)

    def publish_ms(body: bytes) -> float:
        duration_ms = median_ms(lambda: line.send_one(DEFAULT, 0, body, JPEG), repeats=100)
        line.drain_jobs(DEFAULT)
        return duration_ms

    name = "publish and confirm a JPEG : three times as large"
    return measure_in_turn(name, "ms", lambda: publish_ms(image), lambda: publish_ms(image * 3))


def latency(line: Line, category: str) -> list[Row]:
    """Measure the time from capture to verdict while images arrive evenly, 36 per second."""
    images = pictures(int(RATE * _LATENCY_S), JPEG)
    with line.workers(category):
        line.send(category, images[:50], JPEG)
        line.verdicts(50)
        started = time.monotonic()
        for number, image in enumerate(images):
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))
            line.send_one(category, number, image, JPEG)
        verdicts = line.verdicts(len(images))
    latencies = [verdict.decided_at - verdict.captured_at for verdict in verdicts if verdict.captured_at is not None]
    shares = {"median": 0.5, "p99": 0.99, "p99.9": 0.999}
    return [
        ratio_row(f"{category}: latency at 36 images/s, {name} : 100 ms", "ms", lines.quantile(latencies, share), 100.0)
        for name, share in shares.items()
    ]


def devices(line: Line) -> list[Row]:
    """Compare 2, 4 and 8 simulated devices with one: throughput, and CPU time per image. Each has its own worker."""
    rates, costs = {}, {}
    for count in (1, 2, 4, 8):
        images = pictures(_IMAGES_PER_DEVICE * count, JPEG)
        with line.workers(WIDE, count, _SIMULATED) as workers:
            lines.wait_until_ready(workers)
            line.send(WIDE, images, JPEG)
            begin = lines.wait_for_verdicts(workers, 1)
            end = lines.wait_for_verdicts(workers, len(images) * 9 // 10)
            rates[count], costs[count] = end.per_second_since(begin), end.cpu_ms_since(begin)
            line.verdicts(len(images))
    rows = [
        ratio_row(f"{count} simulated devices : 1 device", "images/s", rate, rates[1])
        for count, rate in rates.items()
        if count > 1
    ]
    rows += [
        ratio_row(f"CPU of the workers for an image, {count} devices : 1", "ms", cost, costs[1])
        for count, cost in costs.items()
    ]
    return rows


def memory(line: Line, category: str, images: int) -> list[Row]:
    """Compare a worker's memory after `images` images with a tenth of them; measure its start to the first verdict."""
    batch = pictures(200, JPEG)
    line.send(category, batch, JPEG)
    started = time.perf_counter()
    with line.workers(category) as (worker,):
        line.verdicts(1)
        first_verdict_s = time.perf_counter() - started
        line.verdicts(len(batch) - 1)
        done, early_bytes = len(batch), 0
        while done < images:
            line.send(category, batch, JPEG)
            line.verdicts(len(batch))
            done += len(batch)
            if early_bytes == 0 and done >= images // 10:
                early_bytes = lines.resident_bytes(worker.process_id)
        late_bytes = lines.resident_bytes(worker.process_id)
    name = f"{category}: memory after {images} images : after {images // 10}"
    return [
        ratio_row(name, "MB", late_bytes / 1e6, early_bytes / 1e6),
        ratio_row(f"{category}: start to first verdict : 10 s", "s", first_verdict_s, 10.0),
    ]


def load_inspector(settings: config.Config, category: str) -> Inspector:
    """Load the inspector of a category as a worker does: one stream per core, so that each thread uses one core."""
    return serving.load(settings, [category], backbone.CPU, _CORES)[category]
