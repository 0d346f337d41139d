"""RabbitMQ and Redis of a trial: those that the configuration names if they answer, or private ones of the plant."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from patchline import config
from patchline.protocol import secret_files, server_url
from patchline.protocol.errors import SetupError
from patchline.services import private_servers
from patchline.services.server import Server
from patchline.trial.memory import Memory

_AMQP, _REDIS = "PATCHLINE_AMQP_URL", "PATCHLINE_REDIS_URL"
_RABBITMQ_PORTS = ("rabbitmq", "rabbitmq-nodes", "rabbitmq-metrics", "epmd")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CONNECT_S = 2.0
ChoosePorts = Callable[[Mapping[str, int]], dict[str, int]]


@dataclass
class Servers:
    """The servers of a trial.

    Attributes:
        own: private ones, not started.
        environment: variables for the processes of the plant.
        used: what is said of the others: a name, and a text.
    """

    own: list[Server] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    used: list[tuple[str, str]] = field(default_factory=list)


def choose(
    settings: config.Config,
    home: Path,
    memory: Memory,
    choose_ports: ChoosePorts,
    answers: Callable[[str, int], bool] | None = None,
) -> Servers:
    """Return the servers of a plant. Those of another host, or of the environment, have to answer.

    Args:
        settings: the configuration.
        home: folder for the data of private servers.
        memory: of the last start; gets the ports of this one.
        choose_ports: returns a port for each name: the wanted one, or another if it is 0 or not free.
        answers: whether something listens at a host and port; asks it by default.

    Raises:
        SetupError: RabbitMQ does not answer where it should.
        ServiceError: RabbitMQ is not installed.
    """
    asked, servers = answers or _answers, Servers()

    def ports(*names: str) -> list[int]:
        memory.ports |= choose_ports({name: memory.ports.get(name, 0) for name in names})
        return [memory.ports[name] for name in names]

    _add_rabbitmq(servers, settings, home, memory, ports, asked)
    _add_redis(servers, settings, home, ports, asked)
    return servers


def _add_rabbitmq(
    servers: Servers,
    settings: config.Config,
    home: Path,
    memory: Memory,
    ports: Callable[..., list[int]],
    answers: Callable[[str, int], bool],
) -> None:
    addresses = _addresses(settings.broker.url)
    shown = " and ".join(f"{host}:{port}" for host, port in addresses)
    if any(answers(host, port) for host, port in addresses):
        servers.used.append(("rabbitmq", f"used, at {shown}"))
        return
    if _is_named(_AMQP, addresses) or settings.broker.url_file is not None:
        raise SetupError(f"RabbitMQ does not answer at {shown}; start it, or correct its url (broker.url, {_AMQP})")
    chosen = ports(*_RABBITMQ_PORTS)
    memory.node = memory.node or private_servers.node_name(chosen[0])
    node = private_servers.kept_rabbitmq(home / "rabbitmq", chosen, memory.node)
    servers.own.append(node.server)
    servers.environment[_AMQP] = node.url


def _add_redis(
    servers: Servers,
    settings: config.Config,
    home: Path,
    ports: Callable[..., list[int]],
    answers: Callable[[str, int], bool],
) -> None:
    url = settings.redis.url
    addresses = _addresses(url)
    if not addresses:
        servers.used.append(("redis", "switched off by an empty url"))
    elif url.startswith("unix:") or any(answers(host, port) for host, port in addresses):
        servers.used.append(("redis", "used, where redis.url says"))
    elif _is_named(_REDIS, addresses):
        servers.used.append(("redis", "does not answer; the line runs without it"))
    elif shutil.which("redis-server") is None:
        servers.used.append(("redis", "is not installed (apt-get install redis-server); the line runs without it"))
        servers.environment[_REDIS] = ""
    else:
        (port,) = ports("redis")
        private, servers.environment[_REDIS] = private_servers.redis(home / "redis", port=port)
        servers.own.append(private)


def _is_named(variable: str, addresses: list[tuple[str, int]]) -> bool:
    """Whether somebody wants just this server: it is on another host, or in the environment."""
    is_local = all(host in _LOOPBACK for host, _ in addresses)
    return not is_local or secret_files.url_from_environment(variable) is not None


def _addresses(url: str) -> list[tuple[str, int]]:
    found = [server_url.address(node) for node in server_url.nodes(url)] if url else []
    return [(host, port) for _, host, port in found]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _CONNECT_S):
            return True
    except OSError:
        return False
