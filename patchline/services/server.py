"""One private server: a process on loopback that can be started, ended, and started again with the same data."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from patchline.protocol.errors import PatchlineError

HOST = "127.0.0.1"
_START_S = 90.0
_STOP_S = 60.0


class ServiceError(PatchlineError):
    """A server is missing or did not start; the text says what to do."""


@dataclass
class Server:
    """A program with its folder; `answers` says whether it can be used."""

    name: str
    command: Sequence[str]
    home: Path
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on whatever an earlier run has left in its folder; `wait` until it answers."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self.guard = start_guarded(self.command, output, output, self.environment)

    def wait(self) -> None:
        """Return when it answers. Raises ServiceError with the end of its log where it does not."""
        deadline = time.monotonic() + _START_S
        while not self.is_ready():
            if self.guard is None or self.guard.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not start; its log ends:\n{self._log.read_text()[-1500:]}")
            time.sleep(0.1)

    def request_stop(self) -> None:
        """Have it begin to end; `stop` waits until it has."""
        if self.guard is not None:
            request_stop(self.guard)

    def stop(self) -> None:
        """End it, asking first. Nothing happens where it does not run."""
        if self.guard is not None:
            stop_guarded(self.guard)
            self.guard = None

    @property
    def _log(self) -> Path:
        return self.home / "console.log"


def start_guarded(
    command: Sequence[str],
    output: IO[bytes],
    errors: IO[bytes],
    environment: Mapping[str, str] = MappingProxyType({}),
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
        env={**os.environ, **environment},
        start_new_session=True,
    )


def request_stop(guard: subprocess.Popen[bytes]) -> None:
    """Have a guarded process terminated: asked first, killed when it does not listen."""
    if guard.stdin is not None:
        guard.stdin.close()


def stop_guarded(guard: subprocess.Popen[bytes]) -> None:
    """The same, and wait for it."""
    request_stop(guard)
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


def consecutive_free_ports(count: int) -> list[int]:
    """Consecutive loopback ports that nobody listens on now."""
    while True:
        (first,) = free_ports(1)
        ports = list(range(first, first + count))
        if not any(is_listening(port) for port in ports):
            return ports


def is_listening(port: int) -> bool:
    """Somebody accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def speaks_amqp(port: int) -> bool:
    """RabbitMQ answers on this loopback port."""
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return len(probe.recv(8)) > 0
    except OSError:
        return False


def responds(url: str) -> bool:
    """A GET of this url succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
