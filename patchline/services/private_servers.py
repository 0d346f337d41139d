"""Private servers: RabbitMQ, Redis and Prometheus on free loopback ports, with their data in a temporary folder.

Each server runs under a small guard process (`guard.py`), which stops it when this process asks for it or has ended. No
server and no folder is left behind.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline.protocol import secret_files, server_url
from patchline.services.server import (
    HOST,
    Server,
    ServiceError,
    free_ports,
    is_listening,
    mark_temporary,
    responds,
    speaks_amqp,
)

_VARIABLES = {"RabbitMQ": "PATCHLINE_AMQP_URL", "Redis": "PATCHLINE_REDIS_URL"}
WAL_BYTES = 16_777_216  # of the log of quorum queues, instead of 512 MiB (decision 214)
MAX_MESSAGE_SIZE = 134_217_728  # of RabbitMQ 3; version 4 takes 16 MiB by itself
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@dataclass(frozen=True)
class Servers:
    """Addresses of the servers, and where RabbitMQ writes its log (None: it is not private)."""

    amqp_url: str
    redis_url: str
    prometheus_url: str | None
    broker_metrics_port: int | None
    broker_log: Path | None = None


@dataclass(frozen=True)
class Node:
    """A RabbitMQ server, its node name and its ports."""

    name: str
    server: Server
    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """URL for the default user, who has all permissions and may connect from loopback only."""
        return f"amqp://guest:guest@{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file of its log."""
        return self.server.home / "log" / f"{self.name}.log"


def missing_packages() -> list[str]:
    """Return the Debian packages of the servers that are not installed."""
    installed = {
        "rabbitmq-server": RABBITMQ.exists(),
        "redis-server": shutil.which("redis-server") is not None,
        "prometheus": shutil.which("prometheus") is not None,
    }
    return [package for package, is_installed in installed.items() if not is_installed]


@contextmanager
def running(prometheus_targets: dict[str, list[int]] | None = None) -> Iterator[Servers]:
    """Run RabbitMQ and Redis until the block ends, and Prometheus if it has targets.

    If PATCHLINE_AMQP_URL or PATCHLINE_REDIS_URL is set, or a file with the url is named by the variable with the suffix
    _FILE, that server is used instead of a private one.

    Args:
        prometheus_targets: loopback ports to scrape, by job name. RabbitMQ's metrics are added.

    Raises:
        ServiceError: a server is not installed or does not start.
        SetupError: a url cannot be used.
    """
    amqp_url, redis_url = map(secret_files.url_from_environment, _VARIABLES.values())
    servers, node, prometheus_url = [], None, None
    with temporary_folder() as home:
        if amqp_url is None:
            node = rabbitmq(home / "rabbitmq")
            amqp_url = node.url
            servers.append(node.server)
        if redis_url is None:
            server, redis_url = redis(home / "redis")
            servers.append(server)
        if prometheus_targets is not None:
            broker_target = {} if node is None else {"rabbitmq": [node.metrics_port]}
            server, prometheus_url = prometheus(home / "prometheus", prometheus_targets | broker_target)
            servers.append(server)
        with start_all(servers):
            if node is None:
                yield Servers(amqp_url, redis_url, prometheus_url, None)
            else:
                yield Servers(amqp_url, redis_url, prometheus_url, node.metrics_port, node.log)


def describe(*, with_prometheus: bool = False) -> str:
    """Return what `running` starts, and which servers of the environment it uses instead. Shows no password."""
    given = {name: secret_files.url_from_environment(variable) for name, variable in _VARIABLES.items()}
    used = [
        f"{name} at {' and '.join(_addresses(url)) or 'no address'} ({_VARIABLES[name]})"
        for name, url in given.items()
        if url is not None
    ]
    started = [name for name, url in given.items() if url is None] + ["Prometheus"] * with_prometheus
    texts = [f"private {' and '.join(started)} on loopback"] if started else []
    return ", ".join(used + texts)


def _addresses(url: str) -> list[str]:
    nodes = server_url.nodes(url) if url else []
    return [f"{host}:{port}" if port else host for _, host, port in map(server_url.address, nodes)]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for the data of servers; delete it when the block ends.

    If this process is killed in the block, the guards of its servers delete the folder (`guard.py`).
    """
    with tempfile.TemporaryDirectory(prefix="patchline-", ignore_cleanup_errors=True) as name:
        mark_temporary(Path(name))
        yield Path(name)


@contextmanager
def start_all(servers: Sequence[Server]) -> Iterator[None]:
    """Start servers in parallel and wait until all are ready; stop them in parallel when the block ends."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            stack.callback(server.request_stop)
            server.start()
        for server in servers:
            server.wait()
        yield


def rabbitmq(home: Path, extra_config: str = "") -> Node:
    """Return a RabbitMQ node without a cluster, not started.

    Args:
        home: folder for its data.
        extra_config: lines to add to its configuration file.
    """
    return _node(home, home, free_ports(4), extra_config)


def kept_rabbitmq(home: Path, ports: list[int], name: str) -> Node:
    """Return a node, not started, with the data of an earlier start.

    Args:
        home: folder for its data.
        ports: for clients, other nodes, metrics and Erlang's name server; they may differ from start to start.
        name: of the node, by which RabbitMQ finds its data. Take `node_name` at the first start, and keep it.
    """
    return _node(home, home, ports, "", name)


def cluster(
    home: Path, count: int, extra_config: Callable[[list[str]], str] = lambda _: ""
) -> tuple[Server, list[Node]]:
    """Return the Erlang name server of a cluster and its nodes, not started.

    Call `join_cluster` once the nodes have started, unless `extra_config` configures peer discovery. The name server is
    a separate server, so that it does not stop with one of the nodes.

    Args:
        home: folder for their data.
        count: number of nodes.
        extra_config: returns lines to add to the configuration files, from the node names.
    """
    epmd, *ports = free_ports(1 + 3 * count)
    command = ["epmd", "-address", HOST, "-port", str(epmd)]
    name_server = Server("epmd", command, home / "epmd", lambda: is_listening(epmd))
    node_ports = [[*ports[3 * number : 3 * number + 3], epmd] for number in range(count)]
    lines = extra_config([node_name(ports[0]) for ports in node_ports])
    nodes = [_node(home, home / f"node-{number}", ports, lines) for number, ports in enumerate(node_ports)]
    return name_server, nodes


def join_cluster(nodes: Sequence[Node]) -> None:
    """Join started nodes into one cluster. Raises ServiceError if RabbitMQ refuses."""
    first, *rest = nodes
    for node in rest:
        for command in (["stop_app"], ["join_cluster", first.name], ["start_app"]):
            rabbitmqctl(node, *command)
        node.server.wait()
    rabbitmqctl(first, "await_online_nodes", str(len(nodes)))


def redis(home: Path, *extra_arguments: str, port: int | None = None) -> tuple[Server, str]:
    """Return Redis without persistence, not started, and its URL. Without a port it gets a free one."""
    _require_installed(shutil.which("redis-server") is not None, "redis-server")
    port = port or free_ports(1)[0]
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(home), *extra_arguments]
    return Server("redis", command, home, lambda: is_listening(port)), f"redis://{HOST}:{port}/0"


def prometheus(home: Path, targets: dict[str, list[int]], rules: Path | None = None) -> tuple[Server, str]:
    """Return Prometheus, not started, and its URL. It scrapes every second.

    Args:
        home: folder for its data.
        targets: loopback ports to scrape, by job name. The job `rabbitmq` is scraped for the metrics of each queue.
        rules: file of alert rules, evaluated every second.
    """
    _require_installed(shutil.which("prometheus") is not None, "prometheus")
    (port,) = free_ports(1)
    home.mkdir()
    queue_metrics = {
        "metrics_path": "/metrics/detailed",
        "params": {"family": ["queue_coarse_metrics", "queue_consumer_count", "ra_metrics"]},
    }
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"{HOST}:{target}" for target in ports]}]}
        | (queue_metrics if job == "rabbitmq" else {})
        for job, ports in targets.items()
    ]
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = home / "prometheus.yml"  # JSON is YAML
    config.write_text(
        json.dumps({"global": intervals, "scrape_configs": jobs, "rule_files": [str(rules)] if rules else []})
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}"]
    command.append(f"--web.listen-address={HOST}:{port}")
    url = f"http://{HOST}:{port}"
    return Server("prometheus", command, home, lambda: responds(f"{url}/-/ready")), url


def serve_until_interrupted() -> None:
    """Run private servers until SIGINT or SIGTERM, and print how to use them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(prometheus_targets={"worker": [9100]}) as servers:
        print(f"# {describe(with_prometheus=True)}")
        for variable, url in zip(_VARIABLES.values(), (servers.amqp_url, servers.redis_url), strict=True):
            is_given = secret_files.url_from_environment(variable) is not None
            if not is_given:  # the others are set already, and may have a password
                print(f"export {variable}={url}")
        print(f"# Prometheus: {servers.prometheus_url}; stop all with Ctrl-C", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


def rabbitmqctl(node: Node, *command: str, tool: str = "rabbitmqctl") -> str:
    """Run rabbitmqctl or another RabbitMQ tool on a node; return its output. Raises ServiceError if it fails."""
    arguments = [str(RABBITMQ.with_name(tool)), "--node", node.name, *command]
    result = subprocess.run(arguments, env={**os.environ, **node.server.environment}, capture_output=True, text=True)
    if result.returncode != 0:
        raise ServiceError(f"{tool} {' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def node_name(port: int) -> str:
    """Return the name of a node that was made with this port for clients."""
    return f"patchline-{port}@localhost"


def _node(cookie_home: Path, home: Path, ports: list[int], extra_config: str, name: str | None = None) -> Node:
    _require_installed(RABBITMQ.exists(), "rabbitmq-server")
    port, distribution, metrics, epmd = ports
    name = name or node_name(port)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {HOST}:{port}\nprometheus.tcp.ip = {HOST}\nprometheus.tcp.port = {metrics}\n"
        f"log.console = false\nlog.file.level = info\nraft.wal_max_size_bytes = {WAL_BYTES}\n"
        f"{_message_size(extra_config)}{extra_config}"
    )
    (home / "enabled_plugins").write_text("[rabbitmq_prometheus].\n")
    _write_cookie(cookie_home / ".erlang.cookie")
    environment = {
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
        "HOME": str(cookie_home),
    }
    server = Server("rabbitmq", [str(RABBITMQ)], home, lambda: speaks_amqp(port), environment)
    return Node(name, server, port, metrics)


def _message_size(extra_config: str) -> str:
    """The line of the default limit, as in the configurations of `deploy/`; nothing if there is another one."""
    return "" if "max_message_size" in extra_config else f"max_message_size = {MAX_MESSAGE_SIZE}\n"


def _write_cookie(path: Path) -> None:
    """Write the secret that the nodes of a cluster share, if there is none.

    Erlang creates a missing one, but a node that starts at the same time may read it before it is complete.
    """
    if path.exists() and path.stat().st_size > 0:  # a full disk may have left an empty one, with which no node starts
        return
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(secrets.token_hex(20))
    part.chmod(0o400)
    part.replace(path)


def _require_installed(is_installed: bool, package: str) -> None:
    if not is_installed:
        raise ServiceError(f"{package} is not installed; as root: apt-get install {package}")
