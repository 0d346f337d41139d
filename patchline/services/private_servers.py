"""Private servers: RabbitMQ, Redis and Prometheus of one's own, on free loopback ports, in a temporary folder.

Each runs in a process group of its own under a small guard (`guard.py`), which ends the group when this process
asks or has died, so that none is ever left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline.services.server import HOST, Server, ServiceError, free_ports, is_listening, responds, speaks_amqp

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@dataclass(frozen=True)
class Servers:
    """Where the private servers answer."""

    amqp_url: str
    redis_url: str
    prometheus_url: str | None
    broker_metrics_port: int | None


@dataclass(frozen=True)
class Node:
    """A RabbitMQ server: its name among the nodes of a cluster, and its ports."""

    name: str
    server: Server
    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """For its first user, who may do everything and comes from loopback only."""
        return f"amqp://guest:guest@{HOST}:{self.port}"


def missing_packages() -> list[str]:
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
    amqp_url, redis_url = os.environ.get("PATCHLINE_AMQP_URL"), os.environ.get("PATCHLINE_REDIS_URL")
    started, node, prometheus_url = [], None, None
    with temporary_folder() as home:
        if amqp_url is None:
            node = rabbitmq(home / "rabbitmq")
            amqp_url = node.url
            started.append(node.server)
        if redis_url is None:
            server, redis_url = redis(home / "redis")
            started.append(server)
        if prometheus_targets is not None:
            of_broker = {} if node is None else {"rabbitmq": [node.metrics_port]}
            server, prometheus_url = prometheus(home / "prometheus", prometheus_targets | of_broker)
            started.append(server)
        with start_all(started):
            yield Servers(amqp_url, redis_url, prometheus_url, None if node is None else node.metrics_port)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder for servers."""
    with tempfile.TemporaryDirectory(prefix="patchline-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def start_all(servers: Sequence[Server]) -> Iterator[None]:
    """Start servers at once and wait for all of them; end them at once, too."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            stack.callback(server.request_stop)
            server.start()
        for server in servers:
            server.wait()
        yield


def rabbitmq(home: Path, more: str = "") -> Node:
    """A node of its own.

    Args:
        home: its folder.
        more: lines for its configuration file.
    """
    return _node(home, home, free_ports(4), more)


def cluster(home: Path, count: int, more: Callable[[list[str]], str] = lambda _: "") -> tuple[Server, list[Node]]:
    """The name server of a cluster and its nodes, which `join_cluster` makes one once they answer.

    The name server is a server apart, so that no node takes it along when it ends.

    Args:
        home: their folder.
        count: of nodes.
        more: lines for their configuration files, from their names: with peer discovery there is nothing to join.
    """
    epmd, *ports = free_ports(1 + 3 * count)
    names = Server("epmd", ["epmd", "-address", HOST, "-port", str(epmd)], home / "epmd", lambda: is_listening(epmd))
    of_node = [[*ports[3 * number : 3 * number + 3], epmd] for number in range(count)]
    lines = more([_node_name(ports[0]) for ports in of_node])
    return names, [_node(home, home / f"node-{number}", its, lines) for number, its in enumerate(of_node)]


def join_cluster(nodes: Sequence[Node]) -> None:
    """Make a cluster of nodes that answer. Raises ServiceError where RabbitMQ refuses."""
    first, *others = nodes
    for node in others:
        for command in (["stop_app"], ["join_cluster", first.name], ["start_app"]):
            rabbitmqctl(node, *command)
        node.server.wait()
    rabbitmqctl(first, "await_online_nodes", str(len(nodes)))


def redis(home: Path, *more: str) -> tuple[Server, str]:
    """Redis without persistence, and its url; `more` are further arguments."""
    _require(shutil.which("redis-server") is not None, "redis-server")
    (port,) = free_ports(1)
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(home), *more]
    return Server("redis", command, home, lambda: is_listening(port)), f"redis://{HOST}:{port}/0"


def prometheus(home: Path, targets: dict[str, list[int]], rules: Path | None = None) -> tuple[Server, str]:
    """Prometheus, which scrapes every second, and its url.

    Args:
        home: its folder.
        targets: ports on loopback, by job name. Of `rabbitmq`, each queue is scraped.
        rules: alerts to evaluate, every second too.
    """
    _require(shutil.which("prometheus") is not None, "prometheus")
    (port,) = free_ports(1)
    home.mkdir()
    of_queues = {"metrics_path": "/metrics/detailed", "params": {"family": ["queue_coarse_metrics"]}}
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"{HOST}:{each}" for each in ports]}]}
        | (of_queues if job == "rabbitmq" else {})
        for job, ports in targets.items()
    ]
    often = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = home / "prometheus.yml"  # JSON is YAML
    config.write_text(
        json.dumps({"global": often, "scrape_configs": jobs, "rule_files": [str(rules)] if rules else []})
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}"]
    command.append(f"--web.listen-address={HOST}:{port}")
    url = f"http://{HOST}:{port}"
    return Server("prometheus", command, home, lambda: responds(f"{url}/-/ready")), url


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


def rabbitmqctl(node: Node, *command: str, tool: str = "rabbitmqctl") -> str:
    """Run rabbitmqctl, or another tool of RabbitMQ, for a node; what it prints. Raises ServiceError where it fails."""
    whole = [str(RABBITMQ.with_name(tool)), "--node", node.name, *command]
    told = subprocess.run(whole, env={**os.environ, **node.server.environment}, capture_output=True, text=True)
    if told.returncode != 0:
        raise ServiceError(f"{tool} {' '.join(command)} failed:\n{told.stdout}{told.stderr}")
    return told.stdout


def _node(cookie_home: Path, home: Path, ports: list[int], more: str) -> Node:
    _require(RABBITMQ.exists(), "rabbitmq-server")
    port, distribution, metrics, epmd = ports
    home.mkdir(mode=0o700, parents=True)
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {HOST}:{port}\nprometheus.tcp.ip = {HOST}\nprometheus.tcp.port = {metrics}\n"
        f"log.console = false\nlog.file.level = info\n{more}"
    )
    (home / "enabled_plugins").write_text("[rabbitmq_prometheus].\n")
    environment = {
        "RABBITMQ_NODENAME": _node_name(port),
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": HOST,
        "HOME": str(cookie_home),
    }
    server = Server("rabbitmq", [str(RABBITMQ)], home, lambda: speaks_amqp(port), environment)
    return Node(_node_name(port), server, port, metrics)


def _node_name(port: int) -> str:
    return f"patchline-{port}@localhost"


def _require(there: bool, package: str) -> None:
    if not there:
        raise ServiceError(f"{package} is not installed; as root: apt-get install {package}")
