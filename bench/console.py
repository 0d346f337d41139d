"""`python -m bench.console`: how soon a verdict is in a browser, and what pages take with a million of them.

In SQLite; with `--postgresql` in PostgreSQL. Writes out/bench-console.json. Real processes: RabbitMQ, an archive, a
console. Browsers are simulated: they read events and pages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from bench import archive, archive_intake
from bench import line as lines
from bench.line import Line
from patchline import config
from patchline.archive import opening
from patchline.broker.base import Message
from patchline.console.accounts import Accounts
from patchline.console.passwords import Passwords
from patchline.console.process import open_database
from patchline.console.roles import Role
from patchline.console.sessions import Sessions
from patchline.protocol import topology
from patchline.protocol.messages import VERDICT_TYPE
from patchline.runtime import terminal
from patchline.runtime.connections import now_ms
from patchline.services import postgresql, server

_VERDICTS, _PAUSE_S, _BROWSERS, _TIMEOUT_S = 200, 0.073, 3, 30.0
_PAGES, _WARM_UP = 50, 3
_OUT = Path("out/bench-console.json")
_CATEGORY = "gasket-3"
PATHS = {
    "search, the latest": "/search",
    "search, rejects of a category": "/search?category=gasket-3&decision=fail&decision=review",
    "search, a part": "/search?part=part-4711",
    "part": "/part/part-4711",
    "review": "/review",
    "categories": "/category",
    "category, its latest bank": f"/category/{_CATEGORY}?since=90d",
}
_ALL_OF_ONE_BANK = f"UPDATE verdicts SET category = '{_CATEGORY}', memory_bank = '{_CATEGORY}@1'"
_ONE_BANK = {"category, the latest 200,000 parts of a bank": f"/category/{_CATEGORY}?since=90d"}


def main() -> int:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    count, kind = options.verdicts, "PostgreSQL" if options.postgresql else "SQLite"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = build(folder, stack.enter_context(postgresql.running()).url if options.postgresql else "")
        database = stack.enter_context(closing(opening.open_archive(settings)))
        database.prepare()
        archive.fill(database, count)
        line = stack.enter_context(lines.running(folder, settings))
        url = f"http://{server.HOST}:{settings.console.port}"
        for name, probe in (("archive", None), ("console", f"{url}/healthz")):
            stack.enter_context(process(line, name, probe))
        token = log_in(settings)
        measured = {"verdict to browser": _verdict_to_browser(line, url, token)}
        measured |= {name: _figures(page_times(url + path, token)) for name, path in PATHS.items()}
        with database.transaction() as connection:
            if options.postgresql:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(_ALL_OF_ONE_BANK)
        measured |= {name: _figures(page_times(url + path, token)) for name, path in _ONE_BANK.items()}
    rows = [(name, *(f"{value:.1f}" for value in values.values())) for name, values in measured.items()]
    terminal.table(f"the console, {count} verdicts in {kind}, in ms", ("", "median", "p99", "most"), rows)
    _OUT.parent.mkdir(exist_ok=True)
    written = {"verdicts": count, "database": kind, "ms": measured}
    _OUT.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return 0


def build(folder: Path, url: str = "") -> config.Config:
    """Fill an empty folder with a plant that has an archive, in the database of a url or in SQLite, and a console."""
    settings = archive_intake.build(folder)
    categories = settings.categories | {_CATEGORY: next(iter(settings.categories.values()))}
    (port,) = server.free_ports(1)
    unlimited = {"searches_per_minute": 1_000_000, "changes_per_minute": 1_000_000}
    places = {"port": port, "database": folder / "console.sqlite"}
    console = settings.console.model_copy(update=places | unlimited)
    section = settings.archive.model_copy(update={"url": url})
    built = settings.model_copy(update={"console": console, "categories": categories, "archive": section})
    config.save(built, folder / "config.yaml")
    return built


@contextmanager
def process(line: Line, name: str, probe: str | None) -> Iterator[None]:
    """Run a command of the line, and wait until it answers.

    Args:
        line: whose configuration and servers it uses.
        name: the command.
        probe: a url that it answers; None: that of its metrics.
    """
    (port,) = server.free_ports(1)
    probe, options = probe or f"http://{server.HOST}:{port}/readyz", [] if probe else ["--metrics-port", str(port)]
    command = [sys.executable, "-m", "patchline", name, *options, "--config", str(line.folder / "config.yaml")]
    with (line.folder / f"{name}.log").open("ab") as log:
        guard = server.start_guarded(command, log, log, {"PATCHLINE_AMQP_URL": line.servers.amqp_url})
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while not server.responds(probe):
                if time.monotonic() > deadline:
                    raise server.ServiceError(f"the {name} of the benchmark does not answer; see its log")
                time.sleep(0.1)
            yield
        finally:
            server.stop_guarded(guard)


def log_in(settings: config.Config) -> str:
    """Add an account that may judge. Return the token of a log-in of it."""
    with closing(open_database(settings)) as database:
        Accounts(database, Passwords()).add("bench", Role.REVIEW, "a password of nobody", "bench")
        return Sessions(database, 60, 12).begin("bench").token


class _Browser(threading.Thread):
    """Reads events, and notes when each part came."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self._request = _request(f"{url}/line/events", token)
        self.came: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        with urllib.request.urlopen(self._request, timeout=_TIMEOUT_S) as answer:
            name = b""
            for row in answer:
                now = time.perf_counter()
                if row.startswith(b"event: "):
                    name = row[7:].strip()
                elif row.startswith(b"data: ") and name == b"parts":
                    self.came |= {part["job"]: now for part in json.loads(row[6:])}


def _verdict_to_browser(line: Line, url: str, token: str) -> dict[str, float]:
    """From the moment at which a verdict is published to that at which each of several browsers has it."""
    browsers = [_Browser(url, token) for _ in range(_BROWSERS)]
    time.sleep(2.0)
    sent: dict[str, float] = {}
    for number in range(_VERDICTS):
        now = now_ms()
        document = json.loads(archive.message(number).body) | {"job_id": f"new-{number}", "decided_at": now}
        body = json.dumps(document | {"received_at": now - 40, "captured_at": now - 120}).encode()
        sent[f"new-{number}"] = time.perf_counter()
        line.broker.publish(topology.VERDICTS, "bench.default.pass", Message(body, f"new-{number}", VERDICT_TYPE))
        time.sleep(_PAUSE_S)
    time.sleep(2.0)
    late = [(browser.came[job] - at) * 1000 for browser in browsers for job, at in sent.items()]
    return _figures(late)


def page_times(url: str, token: str, count: int = _PAGES, warm_up: int = _WARM_UP) -> list[float]:
    """Return what a page takes to load, in ms, `count` times after a few that are not counted."""
    times = []
    for number in range(count + warm_up):
        started = time.perf_counter()
        with urllib.request.urlopen(_request(url, token), timeout=_TIMEOUT_S) as answer:
            answer.read()
        if number >= warm_up:
            times.append((time.perf_counter() - started) * 1000)
    return times


def _request(url: str, token: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"Cookie": f"patchline_session={token}"})


def _figures(times: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(times),
        "p99": statistics.quantiles(times, n=100, method="inclusive")[-1],
        "most": max(times),
    }


if __name__ == "__main__":
    sys.exit(main())
