"""Private servers: RabbitMQ, Redis and Prometheus of one's own, on free loopback ports, in a temporary folder.

Each runs in a process group of its own under a small guard (`tools/guard.py`), which ends the group when this process
asks or has died, so that none is ever left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from inspection.errors import PatchlineError

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
HOST = "127.0.0.1"
_START_S = 90.0
_STOP_S = 60.0


class ServiceError(PatchlineError):
    """A server is missing or did not start; the text says what to do."""


@dataclass(frozen=True)
class Servers:
    """Where the private servers answer."""

    amqp_url: str
    redis_url: str
    prometheus_url: str | None
    broker_metrics_port: int | None


def missing() -> list[str]:
    """Debian packages of the servers that are not installed."""
    needed = {
        "rabbitmq-server": RABBITMQ.exists(),
        "redis-server": shutil.which("redis-server") is not None,
        "prometheus": shutil.which("prometheus") is not None,
    }
    return [package for package, there in needed.items() if not there]


@contextmanager
def running(prometheus_targets: dict[str, list[int]] | None = None) -> Iterator[Servers]:
    """RabbitMQ and Redis, and Prometheus where it is given targets, until the block ends.

    With PATCHLINE_AMQP_URL and PATCHLINE_REDIS_URL set, those servers are used instead of private ones.

    Args:
        prometheus_targets: ports to scrape on loopback, by job name; RabbitMQ's own metrics are added.

    Raises:
        ServiceError: a server is missing or does not answer.
    """
    amqp, redis = os.environ.get("PATCHLINE_AMQP_URL"), os.environ.get("PATCHLINE_REDIS_URL")
    with (
        tempfile.TemporaryDirectory(prefix="patchline-", ignore_cleanup_errors=True) as name,
        _Started(Path(name)) as start,
    ):
        ports: dict[str, int] = {}
        if amqp is None:
            amqp, ports["rabbitmq"] = start.rabbitmq()
        if redis is None:
            redis = start.redis()
        url = None
        if prometheus_targets is not None:
            scraped = dict(prometheus_targets)
            if "rabbitmq" in ports:
                scraped["rabbitmq"] = [ports["rabbitmq"]]
            url = start.prometheus(scraped)
        start.await_all()
        yield Servers(amqp, redis, url, ports.get("rabbitmq"))


class _Started:
    """Starts servers at once, waits for all of them, and ends them in reverse order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guards: list[subprocess.Popen[bytes]] = []
        self._waiting: list[tuple[str, Path, subprocess.Popen[bytes], Callable[[], bool]]] = []

    def __enter__(self) -> _Started:
        return self

    def __exit__(self, *_: object) -> None:
        for guard in reversed(self._guards):
            end(guard)

    def rabbitmq(self) -> tuple[str, int]:
        """Returns its url and the port of its metrics."""
        _require(RABBITMQ.exists(), "rabbitmq-server")
        home = self._folder / "rabbitmq"
        home.mkdir(mode=0o700)
        port, distribution, epmd, metrics = free_ports(4)
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{port}\nprometheus.tcp.ip = {HOST}\nprometheus.tcp.port = {metrics}\n"
            "log.console = false\nlog.file.level = info\n"
        )
        (home / "enabled_plugins").write_text("[rabbitmq_prometheus].\n")
        environment = {
            "RABBITMQ_NODENAME": f"patchline-{port}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": HOST,
            "HOME": str(home),
        }
        self._launch("rabbitmq", [str(RABBITMQ)], home, lambda: _speaks_amqp(port), environment)
        return f"amqp://guest:guest@{HOST}:{port}", metrics

    def redis(self) -> str:
        """Returns its url."""
        _require(shutil.which("redis-server") is not None, "redis-server")
        (port,) = free_ports(1)
        home = self._folder / "redis"
        home.mkdir()
        command = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(home)]
        self._launch("redis", command, home, lambda: listens(port))
        return f"redis://{HOST}:{port}/0"

    def prometheus(self, targets: dict[str, list[int]]) -> str:
        """Returns its url; it scrapes every second."""
        _require(shutil.which("prometheus") is not None, "prometheus")
        (port,) = free_ports(1)
        home = self._folder / "prometheus"
        home.mkdir()
        jobs = "".join(
            f"  - job_name: {job}\n    static_configs:\n      - targets: {[f'{HOST}:{each}' for each in ports]}\n"
            for job, ports in targets.items()
        )
        config = home / "prometheus.yml"
        config.write_text(f"global:\n  scrape_interval: 1s\nscrape_configs:\n{jobs}")
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}"]
        command.append(f"--web.listen-address={HOST}:{port}")
        self._launch("prometheus", command, home, lambda: _answers(f"http://{HOST}:{port}/-/ready"))
        return f"http://{HOST}:{port}"

    def await_all(self) -> None:
        """Return when every server answers. Raises ServiceError with the end of its log where one does not."""
        deadline = time.monotonic() + _START_S
        for name, log, process, ready in self._waiting:
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServiceError(f"{name} did not start; its log ends:\n{log.read_text()[-1500:]}")
                time.sleep(0.1)
        self._waiting.clear()

    def _launch(
        self,
        name: str,
        command: list[str],
        home: Path,
        ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
    ) -> None:
        log = home / "console.log"
        with log.open("wb") as output:
            guard = guarded(command, output, output, environment)
        self._guards.append(guard)
        self._waiting.append((name, log, guard, ready))


def guarded(
    command: list[str], output: IO[bytes], errors: IO[bytes], environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that ends, with all it started, when `end` is called or this process dies.

    Args:
        command: the program and its arguments.
        output: gets its standard output.
        errors: gets its standard error.
        environment: in addition to ours.
    """
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("guard.py")), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        env=os.environ | (environment or {}),
        start_new_session=True,
    )


def end(guard: subprocess.Popen[bytes]) -> None:
    """Have a guarded process terminated: asked first, killed when it does not listen."""
    if guard.stdin is not None:
        guard.stdin.close()
    guard.wait(_STOP_S)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def free_port_run(count: int) -> list[int]:
    """Consecutive loopback ports that nobody listens on now."""
    while True:
        (first,) = free_ports(1)
        ports = list(range(first, first + count))
        if not any(listens(port) for port in ports):
            return ports


def serve_until_interrupted() -> None:
    """Start private servers, print how to use them, and keep them until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(prometheus_targets={"worker": [9100]}) as servers:
        print(f"export PATCHLINE_AMQP_URL={servers.amqp_url}\nexport PATCHLINE_REDIS_URL={servers.redis_url}")
        print(f"# Prometheus: {servers.prometheus_url}; end all with Ctrl-C", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


def _require(there: bool, package: str) -> None:
    if not there:
        raise ServiceError(f"{package} is not installed; as root: apt-get install {package}")


def listens(port: int) -> bool:
    """Somebody accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _speaks_amqp(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return len(probe.recv(8)) > 0
    except OSError:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
