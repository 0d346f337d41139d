"""The table of a benchmark: rows of ratios.

The two sides of a ratio are measured in turn in one run, because the load of a shared machine changes.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patchline.devices import openvino_backbone
from patchline.inspection.search import exact_search
from patchline.operations import doctor
from patchline.protocol import messages
from patchline.runtime import terminal

_COLUMNS = ("measured : against", "ours", "other", "ratio", "spread", "unit")


class Row(messages.Frozen):
    """Two medians, their ratio, and the larger relative spread of their rounds.

    Attributes:
        bound: of the ratio, and whether it is held; empty if there is none.
    """

    name: str
    ours: float
    other: float
    ratio: float
    spread: float
    unit: str
    bound: str = ""


class Table(messages.Frozen):
    """The content of `out/bench.json`: the machine and the rows."""

    cpu: str
    cores: int
    capabilities: tuple[str, ...]
    rows: tuple[Row, ...]

    def show(self) -> None:
        """Print the table."""
        print_rows(f"{self.cpu}, {self.cores} cores, {' '.join(self.capabilities)}", self.rows)

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def of_this_machine(rows: Sequence[Row], *more: str) -> Table:
    """Return the table of rows that were measured here. `more` is what the CPU can do besides its instructions."""
    return Table(
        cpu=openvino_backbone.cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        capabilities=(*doctor.instructions(), *more),
        rows=tuple(rows),
    )


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print rows under a title."""
    cells = [[row.name, row.ours, row.other, row.ratio, f"{row.spread:.2f}", row.unit] for row in rows]
    if not any(row.bound for row in rows):
        terminal.table(title, _COLUMNS, cells)
        return
    terminal.table(title, (*_COLUMNS, "bound"), [[*line, row.bound] for line, row in zip(cells, rows, strict=True)])


def measure_in_turn(
    name: str, unit: str, ours: Callable[[], float], other: Callable[[], float], rounds: int = 3
) -> Row:
    """Measure both sides in turn (A B A B ...) and compare their medians."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    return row_of_rounds(name, unit, *zip(*pairs, strict=True))


def row_of_rounds(name: str, unit: str, ours: Sequence[float], other: Sequence[float]) -> Row:
    """Compare the medians of rounds that were measured in turn."""
    spread = max((max(column) - min(column)) / statistics.median(column) for column in (ours, other))
    return ratio_row(name, unit, statistics.median(ours), statistics.median(other), spread)


def ratio_row(name: str, unit: str, ours: float, other: float, spread: float = 0.0) -> Row:
    """Return the row of two values that are already measured."""
    return Row(name=name, ours=ours, other=other, ratio=ours / other, spread=spread, unit=unit)


def median_ms(work: Callable[[], object], repeats: int = 15) -> float:
    """Return the median duration of `work` in milliseconds, on one thread. A first call is not counted."""
    exact_search.set_threads(1)
    work()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) * 1000


def calls_per_second(work: Callable[[int], object], count: int, threads: int) -> float:
    """Return the rate at which `threads` threads complete the calls `work(0)` to `work(count - 1)`."""

    def call_every_nth(first: int) -> None:
        exact_search.set_threads(1)
        for number in range(first, count, threads):
            work(number)

    workers = [threading.Thread(target=call_every_nth, args=(first,)) for first in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count / (time.perf_counter() - started)
