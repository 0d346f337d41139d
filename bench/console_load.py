"""`python -m bench.console_load`: what one page of the console a second costs a line at full speed, and the pages.

Writes out/bench-console-load.json. One worker always has jobs, and an archive takes its verdicts into a database with
many others. Spans with pages and without follow each other. Exits with 1 if the line is slower by more than a tenth in
the median, or a page takes more than three times what it takes while nothing else runs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from bench import archive, console, plant
from bench import line as lines
from bench.line import Line, Worker
from bench.plant import DEFAULT
from bench.table import Row, of_this_machine, ratio_row
from patchline.archive.database import Database
from patchline.services import server

MIN_RATE, MAX_PAGE = 0.9, 3.0
_ROUNDS, _SPAN_S, _PAGE_S = 8, 15.0, 1.0
_WAITING = 60  # jobs in the queue, of a worker at full speed
_JPEG = "image/jpeg"
_OUT = Path("out/bench-console-load.json")


def main() -> int:
    """Measure, print a table, and write it. 1: out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.console_load", description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(Path(name), parser.parse_args().verdicts)
    table = of_this_machine(rows)
    table.show()
    table.write(_OUT)
    rate, *pages = rows
    return int(rate.ratio < MIN_RATE or max(page.ratio for page in pages) > MAX_PAGE)


def _measure(folder: Path, count: int) -> list[Row]:
    settings = console.build(folder)
    with closing(Database(settings.paths.archive / "archive.sqlite")) as database:
        database.prepare()
        archive.fill(database, count)
    with ExitStack() as stack:
        line = stack.enter_context(lines.running(folder, settings))
        url = f"http://{server.HOST}:{settings.console.port}"
        stack.enter_context(console.process(line, "archive", None))
        stack.enter_context(console.process(line, "console", f"{url}/healthz"))
        token = console.log_in(settings)
        (worker,) = stack.enter_context(line.workers(DEFAULT))
        with _jobs(line, worker):
            lines.wait_for_verdicts([worker], _WAITING)
            without, with_pages, loaded = _spans(worker, url, token)
        # afterwards, since pages also show what the line has added
        idle = {name: console.page_times(url + path, token) for name, path in console.PATHS.items()}
    rate = ratio_row(
        f"{count} verdicts: line with a page a second : without",
        "images/s",
        statistics.median(with_pages),
        statistics.median(without),
        max((max(rates) - min(rates)) / statistics.median(rates) for rates in (without, with_pages)),
    )
    return [rate, *(_page_row(name, loaded[name], idle[name]) for name in console.PATHS)]


def _page_row(name: str, loaded: list[float], idle: list[float]) -> Row:
    return ratio_row(f"{name}, median : idle machine", "ms", statistics.median(loaded), statistics.median(idle))


def _spans(worker: Worker, url: str, token: str) -> tuple[list[float], list[float], Mapping[str, list[float]]]:
    """Return the rates of spans without pages and with them, images/s, and the times of the pages by name, ms."""
    without: list[float] = []
    with_pages: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in console.PATHS}
    names = itertools.cycle(console.PATHS)
    for _ in range(_ROUNDS):
        begin = lines.wait_for_verdicts([worker], 0)
        time.sleep(_SPAN_S)
        between = lines.wait_for_verdicts([worker], 0)
        until = time.monotonic() + _SPAN_S
        while (started := time.monotonic()) < until:
            name = next(names)
            times[name] += console.page_times(url + console.PATHS[name], token, count=1, warm_up=0)
            time.sleep(max(0.0, started + _PAGE_S - time.monotonic()))
        end = lines.wait_for_verdicts([worker], 0)
        without.append(between.per_second_since(begin))
        with_pages.append(end.per_second_since(between))
    return without, with_pages, times


@contextmanager
def _jobs(line: Line, worker: Worker) -> Iterator[None]:
    """Keep jobs waiting until the end of the block, and then wait for their verdicts."""
    images, ended, sent = plant.pictures(100, _JPEG), threading.Event(), 0

    def feed() -> None:
        nonlocal sent
        while not ended.wait(0.1):
            for number in range(sent, worker.confirmed + 2 * _WAITING):
                line.send_one(DEFAULT, number, images[number % len(images)], _JPEG)
                sent = number + 1

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        ended.set()
        feeder.join()
    lines.wait_for_verdicts([worker], sent)


if __name__ == "__main__":
    sys.exit(main())
