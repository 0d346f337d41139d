"""The questions of `bench.against`: each measures two builds in turn and returns its rows."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from bench import line as lines
from bench import measured, memory, rows
from bench.bounds import Bound
from bench.builds import Build
from bench.loads import Load, loads
from bench.measured import PROGRAMS, Measured
from bench.plant import DEFAULT, DEFAULT_BF16, WIDE, WIDE8
from bench.rows import RATE
from bench.simulated import DEVICE_S
from bench.table import Row, ratio_row
from patchline import config

_CORES = len(os.sched_getaffinity(0))
_MOST_CHIPS = 8
_ROOM = f"{_MOST_CHIPS} simulated chips: host CPU of as many images"
_LIMIT_MS = 100.0  # no latency above it
_NEEDED = {WIDE8: (WIDE, WIDE8), DEFAULT_BF16: (DEFAULT, DEFAULT_BF16)}  # to make a category, or to compare with it
BOUNDS = (
    Bound("default, JPEG: end to end", least=2.0),
    Bound("default in bf16 against f32, JPEG: end to end", least=2.0),
    Bound("wide, JPEG: end to end", least=1.5),
    Bound("wide-int8, JPEG: end to end", least=1.5),
    Bound("default, grey JPEG of 20 megapixels: end to end", least=5.0),
    Bound("wide, JPEG: this line : the network alone", least=0.65),
    Bound("wide-int8, JPEG: this line : the network alone", least=0.55),
    Bound("two categories, one backbone: memory after 1000 images", most=0.6),
    Bound("memory after", most=1.02),  # of this worker
    Bound("default, JPEG: this build at 36/s, p99", most=3.0),
    Bound("default, JPEG: this build at 36/s, longest", most=1.0),
    Bound(f"{_MOST_CHIPS} simulated chips, this build : 1 chip", least=7.9, only_if=_ROOM),
    Bound(_ROOM, most=1.0),
    Bound(f"{_MOST_CHIPS} simulated chips: host CPU, an image", most=0.7),
)


@dataclass(frozen=True)
class Options:
    """How long to measure.

    Attributes:
        rounds: of both builds.
        paced_s: seconds at 36 images a second, in each round.
        growth: images after which a worker's memory is compared with that after 1,000.
    """

    rounds: int
    paced_s: float
    growth: int


@dataclass(frozen=True)
class Question:
    """A name, the categories of the plant that it needs, and what measures this build and the other."""

    name: str
    categories: tuple[str, ...]
    ask: Callable[[Build, Build, Options], Sequence[Row]]


def questions() -> list[Question]:
    """Return all questions, in the order of the table."""
    return [
        *(
            Question(load.name, _NEEDED.get(load.category, (load.category,)), partial(_of_load, load))
            for load in loads()
        ),
        Question("simulated chips", (WIDE,), _of_chips),
        Question("memory", (DEFAULT, WIDE, memory.TWIN), _of_memory),
    ]


def _of_load(load: Load, ours: Build, other: Build, options: Options) -> list[Row]:
    both: dict[Build, list[Measured]] = {ours: [], other: []}
    judged = {ours: load, other: load.of_other()}
    alone = _network_alone(ours, load.category) if load.has_limit else None
    networks = []
    for _ in range(options.rounds):
        for build, found in both.items():
            found.append(measured.measure(build, judged[build], options.paced_s))
        networks += [alone()] if alone else []
    result = list(load_rows(load, both[ours], both[other]))
    if networks:
        rates = [found.rate for found in both[ours]]
        result.append(_row(f"{load.name}: this line : the network alone", "images/s", rates, networks))
    return result


def load_rows(load: Load, ours: Sequence[Measured], other: Sequence[Measured]) -> Iterator[Row]:
    """Compare what two builds have done with a load, by the medians of their rounds."""

    def row(what: str, unit: str, value: Callable[[Measured], float]) -> Row:
        return _row(f"{load.name}: {what}", unit, [value(found) for found in ours], [value(found) for found in other])

    yield row("end to end", "images/s", attrgetter("rate"))
    for process in PROGRAMS:
        yield row(f"{process}, an image", "core-ms", partial(_core_ms, process))
    yield row("memory of the worker", "MB", attrgetter("resident_mb"))
    if load.is_paced:
        yield row("capture to verdict, a part alone, median", "ms", partial(_quantile, "alone_ms", 0.5))
        for name, share in (("median", 0.5), ("p99", 0.99)):
            yield row(f"capture to verdict at {RATE:.0f}/s, {name}", "ms", partial(_quantile, "latencies_ms", share))
        yield from _latency_rows(load, ours)


def _latency_rows(load: Load, ours: Sequence[Measured]) -> Iterator[Row]:
    """Compare the worst latencies of this build with the median of its parts alone, and with their limit."""
    alone = statistics.median(_quantile("alone_ms", 0.5, found) for found in ours)
    worst = max(_quantile("latencies_ms", 0.99, found) for found in ours)
    name = f"{load.name}: this build at {RATE:.0f}/s"
    yield ratio_row(f"{name}, p99 of the worst round : a part alone", "ms", worst, alone)
    latencies = [value for found in ours for value in found.latencies_ms]
    yield ratio_row(f"{name}, longest of {len(latencies)} : {_LIMIT_MS:.0f} ms", "ms", max(latencies), _LIMIT_MS)


def _of_memory(ours: Build, other: Build, options: Options) -> list[Row]:
    return list(memory.rows([ours, other], options.growth))


def _of_chips(ours: Build, other: Build, _: Options) -> list[Row]:
    rates, costs, result = {}, {}, []
    for count in (1, _MOST_CHIPS):
        for build in (ours, other):
            rates[build, count], spent = measured.chips(build, count)
            costs[build, count] = sum(spent.values())
        name = f"{count} simulated chip{'s' if count > 1 else ''}"
        result.append(ratio_row(f"{name}: end to end", "images/s", rates[ours, count], rates[other, count]))
        result.append(ratio_row(f"{name}: host CPU, an image", "core-ms", costs[ours, count], costs[other, count]))
    for build, whose in ((ours, "this build"), (other, "the other build")):
        name = f"{_MOST_CHIPS} simulated chips, {whose} : 1 chip"
        result.append(ratio_row(name, "images/s", rates[build, _MOST_CHIPS], rates[build, 1]))
    needed = costs[ours, _MOST_CHIPS] * _MOST_CHIPS
    return [*result, ratio_row(f"{_ROOM} : the cores'", "core-ms", needed, 1000 * DEVICE_S * _CORES)]


def _network_alone(build: Build, category: str) -> Callable[[], float]:
    """Return a function that measures the network of this build alone, compiled as the line compiles it."""
    settings = config.load(build.plant / "config.yaml")
    few, many = (rows.network_rate(settings, category, streams) for streams in (_CORES, _CORES + 1))
    return lambda: max(few(), many())


def _row(name: str, unit: str, ours: Sequence[float], other: Sequence[float]) -> Row:
    spread = max((max(column) - min(column)) / statistics.median(column) for column in (ours, other))
    return ratio_row(name, unit, statistics.median(ours), statistics.median(other), spread)


def _core_ms(program: str, found: Measured) -> float:
    return found.core_ms[program]


def _quantile(times: str, share: float, found: Measured) -> float:
    return lines.quantile(getattr(found, times), share)
