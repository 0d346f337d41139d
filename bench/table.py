"""A benchmark's rows: two things measured in turn in one run, since the machine belongs to others too."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patchline.inspection.search import exact_search
from patchline.protocol import messages
from patchline.runtime import terminal

_COLUMNS = ("measured : against", "ours", "other", "ratio", "spread", "unit")


class Row(messages.Frozen):
    """Medians of two measurements in turn, their ratio, and the widest relative spread of the rounds."""

    name: str
    ours: float
    other: float
    ratio: float
    spread: float
    unit: str


class Table(messages.Frozen):
    """`out/bench.json`."""

    cpu: str
    cores: int
    can: tuple[str, ...]
    rows: tuple[Row, ...]

    def show(self) -> None:
        """Print it."""
        show(f"{self.cpu}, {self.cores} cores, {' '.join(self.can)}", self.rows)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows."""
    figures = [[row.name, row.ours, row.other, row.ratio, f"{row.spread:.2f}", row.unit] for row in rows]
    terminal.table(title, _COLUMNS, figures)


def in_turn(name: str, unit: str, ours: Callable[[], float], other: Callable[[], float], rounds: int = 3) -> Row:
    """Measure A B A B ..., and compare the medians."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    mine, others = [list(each) for each in zip(*pairs, strict=True)]
    spread = max((max(each) - min(each)) / statistics.median(each) for each in (mine, others))
    return row(name, unit, statistics.median(mine), statistics.median(others), spread)


def row(name: str, unit: str, ours: float, other: float, spread: float = 0.0) -> Row:
    """Two figures that were measured elsewhere."""
    return Row(name=name, ours=ours, other=other, ratio=ours / other, spread=spread, unit=unit)


def milliseconds(work: Callable[[], object], times: int = 15) -> float:
    """The median duration of `work`, in one thread whose libraries take one thread."""
    exact_search.set_threads(1)
    work()
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def per_second(work: Callable[[int], object], count: int, lanes: int) -> float:
    """How many of `work(0) ... work(count - 1)` are done in a second by so many threads."""

    def lane(first: int) -> None:
        exact_search.set_threads(1)
        for number in range(first, count, lanes):
            work(number)

    threads = [threading.Thread(target=lane, args=(first,)) for first in range(lanes)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - started)
