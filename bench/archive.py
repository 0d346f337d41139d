"""`python -m bench.archive`: a million verdicts in SQLite and in PostgreSQL. Prints tables, and writes a JSON file.

Fails if a search takes more than 20 times a look-up by primary key (p95), or if the archive takes less than 5 times the
verdicts a second that one worker makes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from bench import archive_intake
from bench import line as lines
from bench.table import Row, print_rows, ratio_row
from patchline.archive import rows
from patchline.archive.base import Archive, Record, Search
from patchline.archive.database import Database
from patchline.broker.base import Message
from patchline.protocol.messages import VERDICT_TYPE
from patchline.services import postgresql

MAX_SEARCH, MIN_INTAKE = 20.0, 5.0  # times a look-up by primary key, times the verdicts of one worker
_BATCH, _TIMED_BATCHES = 500, 100
_SEARCHES, _WARM_UP = 500, 20
_START_MS, _INTERVAL_MS = 1_790_000_000_000, 2_592  # a million of them are 30 days
_HOUR_MS = 3_600_000
_DECISIONS, _WEIGHTS = ("pass", "review", "fail", "error"), (955, 20, 20, 5)
_OUT = Path("out/bench-archive.json")


def main() -> int:
    """Fill both databases, search them, run an archive on them, and print a table for each. 1: out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.archive", description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    count = parser.parse_args().verdicts
    results, is_within = {}, True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = archive_intake.build(folder)
        targets: dict[str, Path | str] = {"SQLite": folder / "archive" / "archive.sqlite"}
        if not postgresql.missing_packages():
            targets["PostgreSQL"] = stack.enter_context(postgresql.running()).url
        line = stack.enter_context(lines.running(folder, settings))
        for name, target in targets.items():
            with closing(Database(target)) as archive:
                archive.prepare()
                per_second = fill(archive, count)
                searches = search(archive, count)
            intake = archive_intake.measure(line, target, map(message, itertools.count(count)))
            measured = [*searches, intake]
            is_within &= max(row.ratio for row in searches) <= MAX_SEARCH and intake.ratio >= MIN_INTAKE
            print_rows(f"{name}, {count} verdicts, {per_second:.0f} stored a second into an empty one", measured)
            results[name] = {"stored_per_s": per_second, "rows": [row.model_dump() for row in measured]}
            if isinstance(target, Path):
                results[name]["bytes_per_verdict"] = target.stat().st_size / count
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(not is_within)


def fill(archive: Archive, count: int) -> float:
    """Store verdicts, and return how many a second in batches of the default size: parsed, stored and committed."""
    numbers = iter(range(count))
    rate = 0.0
    for size, batches in ((_BATCH, _TIMED_BATCHES), (20 * _BATCH, count)):
        started, stored = time.perf_counter(), 0
        for _ in range(batches):
            batch = [_record(one) for one in _messages(numbers, size)]
            if not batch:
                break
            archive.save(batch, [])
            stored += len(batch)
        rate = rate or stored / (time.perf_counter() - started)
    return rate


def search(archive: Archive, count: int) -> list[Row]:
    """Compare the p95 of searches with that of look-ups by primary key, in turn."""
    generator = random.Random(0)

    def number() -> int:
        return generator.randrange(count)

    def rejects_of_an_hour() -> object:
        since = _START_MS + number() * _INTERVAL_MS
        return list(archive.find(Search(decisions=("fail",), since=since, until=since + _HOUR_MS)))

    def of_a_minute() -> object:
        since = _START_MS + number() * _INTERVAL_MS
        return list(archive.find(Search(since=since, until=since + 60_000)))

    actions: dict[str, Callable[[], object]] = {
        "look-up by primary key": lambda: archive.get(_job_id(number())),
        "by part": lambda: list(archive.find(Search(part=f"part-{number()}"))),
        "the rejects of an hour": rejects_of_an_hour,
        "all of a minute": of_a_minute,
        "the last 100 rejects": lambda: list(archive.find(Search(decisions=("fail",), most=100))),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for attempt in range(_SEARCHES + _WARM_UP):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if attempt >= _WARM_UP:
                times[name].append((time.perf_counter() - started) * 1000)
    p95 = {name: statistics.quantiles(values, n=20)[-1] for name, values in times.items()}
    key, *searches = p95
    return [ratio_row(f"{name} : {key}", "ms, p95", p95[name], p95[key], 0.0) for name in searches]


def _messages(numbers: Iterator[int], size: int) -> Iterator[Message]:
    for number, _ in zip(numbers, range(size), strict=False):
        yield message(number)


def _job_id(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def _version(number: int) -> str:
    return hashlib.sha256(str(number // 100_000).encode()).hexdigest()


def message(number: int) -> Message:
    """A verdict with the fields of a worker. Each number always gives the same one."""
    chance = random.Random(number)
    decided_at = _START_MS + number * _INTERVAL_MS
    document = {
        "job_id": _job_id(number),
        "line": f"press-{number % 4}",
        "category": f"gasket-{number % 8}",
        "part_id": f"part-{number}",
        "decision": chance.choices(_DECISIONS, _WEIGHTS)[0],
        "score": round(chance.lognormvariate(6.0, 0.3), 3),
        "scores": {"max": 812.5, "topk10": 640.25},
        "thresholds": {"review": 780.5, "fail": 901.25, "patch": 1400.0, "patch_rule": "review"},
        "p_value": 0.25,
        "backbone": "efficientnet_lite0@5f8d3c0b",
        "memory_bank": f"gasket-{number % 8}@{_version(number)[:12]}",
        "bank_version": _version(number),
        "device": "cpu:0",
        "worker": "host:cpu:0:1234",
        "attempt": 1,
        "captured_at": decided_at - 120,
        "deadline": decided_at + 9_880,
        "received_at": decided_at - 40,
        "decided_at": decided_at,
        "number": number % 2**32,
        "durations_ms": {"decode": 2.1, "preprocess": 1.2, "extract": 14.5, "search": 3.2, "score": 0.2},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return Message(json.dumps(document).encode(), _job_id(number), VERDICT_TYPE)


def _record(one: Message) -> Record:
    return rows.record(one, _START_MS)


if __name__ == "__main__":
    sys.exit(main())
