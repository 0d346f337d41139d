"""`python -m bench.bank_switch`: what switching a memory bank costs the jobs of a worker that is fully loaded.

One worker judges with a constant number of jobs on their way, so it never waits. Two versions of a bank are activated
in turn. The latency of a job is the time from its publishing to its verdict. Jobs that were on their way between an
activation and the first verdict by the new bank are compared with those of as much time just before it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import line as lines
from bench import plant
from bench.line import Line
from bench.plant import DEFAULT
from bench.table import Row, of_this_machine, ratio_row
from patchline import config
from patchline.banks import opening, store
from patchline.protocol import messages, topology
from patchline.runtime import logs

MAX_LATENCY = 2.0  # p99 during a switch : p99 before
_SWITCHES, _REST_S = 12, 4.0
_ON_THEIR_WAY = 12  # more than the lanes of a worker on two cores take at once
TIMEOUT_S = 120.0
WHO = "bench"


@dataclass
class Load:
    """Keeps a number of jobs on their way, and notes when each was sent and judged, and by which version."""

    line: Line
    images: list[bytes]
    sent: dict[str, float] = field(default_factory=dict)
    judged: list[tuple[float, float, str]] = field(default_factory=list)  # sent, judged, version
    stop: threading.Event = field(default_factory=threading.Event)
    failed: list[messages.Verdict] = field(default_factory=list)
    on_their_way: int = _ON_THEIR_WAY

    def run(self) -> None:
        """Send and receive until `stop` is set."""
        consumer = self.line.broker.consume(topology.VERDICTS, prefetch=100)
        for _ in range(self.on_their_way):
            self._send()
        while not self.stop.is_set():
            delivery = consumer.take(0.2)
            if delivery is None:
                continue
            verdict, now = messages.parse_verdict(delivery.message), time.perf_counter()
            delivery.ack()
            self.judged.append((self.sent.pop(verdict.job_id), now, verdict.bank_version or ""))
            if verdict.score is None:
                self.failed.append(verdict)
            self._send()
        consumer.cancel()

    def is_judged_by(self, version: str) -> bool:
        """Return True if the last verdict is by a version of the bank."""
        return bool(self.judged) and self.judged[-1][2] == version

    def _send(self) -> None:
        number = len(self.judged) + len(self.sent)
        self.sent[f"{number}"] = time.perf_counter()
        self.line.send_one(DEFAULT, number, self.images[number % len(self.images)], "image/jpeg")


def main() -> int:
    """Measure, print a table and write it to `out/bench-bank-switch.json`. Return 1 if the ratio is out of bounds."""
    rows = run("bank_switch", __doc__, ("--switches", _SWITCHES), measure)
    return int(rows[0].ratio > MAX_LATENCY)


def run(
    name: str, text: str | None, option: tuple[str, int], measure_: Callable[[Line, list[str], int], list[Row]]
) -> list[Row]:
    """Measure on a line with a store, print a table and write it to `out/bench-NAME.json`. Return its rows.

    Args:
        name: of the module.
        text: its docstring.
        option: how often to measure: the name of the option, and its default.
        measure_: measures on the line, with its versions, so often.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=(text or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=config.PACKAGED)
    parser.add_argument(option[0], dest="times", type=int, default=option[1])
    options = parser.parse_args()
    logs.configure("warning")
    settings = config.load(options.config)
    with tempfile.TemporaryDirectory() as folder, with_store(Path(folder), settings) as (line, versions):
        rows = measure_(line, versions, options.times)
    table = of_this_machine(rows)
    table.show()
    table.write(Path(f"out/bench-{name.replace('_', '-')}.json"))
    return rows


@contextmanager
def with_store(folder: Path, settings: config.Config) -> Iterator[tuple[Line, list[str]]]:
    """A line with a store, and two versions of a bank in it. The first one is active."""
    built = plant.build(folder, settings.paths.models, (DEFAULT,))
    paths = built.paths.model_copy(update={"served_banks": folder / "served"})
    banks = config.Banks(store=folder / "store", poll_s=0.5)
    built = built.model_copy(update={"banks": banks, "paths": paths})
    config.save(built, folder / "config.yaml")
    versions = opening.versions(built)
    versions.make()
    bank, digests = built.paths.memory_banks / DEFAULT, []
    for change in (1.0, 1.01):  # other thresholds are another version, and its loading is the same work
        manifest = store.load(bank).manifest
        thresholds = manifest.thresholds.model_copy(update={"fail": manifest.thresholds.fail * change})
        store.replace_manifest(bank, manifest.model_copy(update={"thresholds": thresholds}))
        digests.append(versions.publish(bank, DEFAULT, WHO, WHO)[0])
    versions.activate(DEFAULT, digests[0], WHO, WHO)
    with lines.running(folder, built) as line:
        yield line, digests


def measure(line: Line, versions: list[str], switches: int) -> list[Row]:
    """Return the latency during switches against before them, and the memory after all of them against the first."""
    banks, load = opening.versions(line.settings), Load(line, plant.pictures(40, "image/jpeg"))
    spans, memory = [], []
    with line.workers(DEFAULT) as workers:
        lines.wait_until_ready(workers)
        thread = threading.Thread(target=load.run, daemon=True)
        thread.start()
        wait(lambda: len(load.judged) > 500)
        for number in range(switches):
            time.sleep(_REST_S)
            version = versions[(number + 1) % 2]
            began = time.perf_counter()
            banks.activate(DEFAULT, version, WHO, WHO)
            wait(partial(load.is_judged_by, version))
            spans.append((began, time.perf_counter()))
            memory.append(lines.resident_bytes(workers[0].process_id) / 1e6)
        load.stop.set()
        thread.join(TIMEOUT_S)
    if load.failed:
        raise RuntimeError(f"{len(load.failed)} jobs have no score, the first: {load.failed[0]}")
    return [*_latencies(load, spans), ratio_row("worker's memory, last switch : first", "MB", memory[-1], memory[0])]


def _latencies(load: Load, spans: list[tuple[float, float]]) -> list[Row]:
    during = [within(load, began, ended) for began, ended in spans]
    before = [within(load, began - (ended - began), began) for began, ended in spans]
    took = statistics.median(ended - began for began, ended in spans)
    print(f"{len(spans)} switches of {took:.1f} s, {sum(map(len, during))} jobs during, {sum(map(len, before))} before")
    rows = []
    for name, share in (("p99", 0.99), ("median", 0.5)):
        ours, other = (lines.quantile([ms for part in parts for ms in part], share) for parts in (during, before))
        rows.append(ratio_row(f"{name} latency, during a switch : before", "ms", ours, other))
    longest = (max(ms for part in parts for ms in part) for parts in (during, before))
    return [*rows, ratio_row("longest latency, during a switch : before", "ms", *longest)]


def within(load: Load, began: float, ended: float) -> list[float]:
    """The latencies, in milliseconds, of jobs that were judged between two times."""
    return [(judged - sent) * 1000 for sent, judged, _ in load.judged if began <= judged < ended]


def wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raise TimeoutError if it does not within two minutes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker of the benchmark does not go on; see its log")
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
