"""One private server: a process on loopback that can be started, stopped and restarted with the same data."""

from __future__ import annotations

import http.client
import itertools
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from patchline.protocol.errors import PatchlineError

HOST = "127.0.0.1"
_START_S = 90.0
_STOP_S = 60.0
_FIRST_PORT = 10_000
MARK = ".patchline-temporary"  # a file in the temporary folder of servers
_PORTS_OF_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TOKEN = secrets.token_hex(8)  # ids of processes come again
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is for other hosts


class ServiceError(PatchlineError):
    """A server is not installed or did not start. The text says what to do."""


@dataclass
class Server:
    """A program and its folder. `is_ready` returns True once it can be used."""

    name: str
    command: Sequence[str]
    home: Path
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    guard: subprocess.Popen[bytes] | None = None
    held: Sequence[int] = ()  # descriptors that its guard keeps open until its end

    def start(self) -> None:
        """Start the server with the data of an earlier run, if any. Call `wait` before using it."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self.guard = start_guarded(self.command, output, output, self.environment, self._mark, self.held)

    def wait(self) -> None:
        """Wait until the server is ready. Raises ServiceError with the end of its log if it does not get ready."""
        deadline = time.monotonic() + _START_S
        while not self.is_ready():
            if self.guard is None or self.guard.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not start; its log ends:\n{self._log.read_text()[-1500:]}")
            time.sleep(0.1)

    def request_stop(self) -> None:
        """Ask the server to stop, without waiting for it."""
        if self.guard is not None:
            request_stop(self.guard)

    def stop(self) -> None:
        """Stop the server and wait for its end. Do nothing if it is not running."""
        if self.guard is not None:
            stop_guarded(self.guard)
            self.guard = None

    @property
    def _log(self) -> Path:
        return self.home / "console.log"

    @property
    def _mark(self) -> Path | None:
        """The mark of the temporary folder of this process in which the server has its data; None: they are kept."""
        marks = (folder / MARK for folder in (self.home, *self.home.parents))
        return next(filter(_is_own, marks), None)


def mark_temporary(folder: Path) -> None:
    """Mark a folder as one of this process, which the guards of its servers delete if this process is killed."""
    (folder / MARK).write_text(_own_mark(), encoding="ascii")


def _is_own(mark: Path) -> bool:
    """Whether a file is a mark of this process. A copy of somebody's temporary folder has a mark, too, and is kept."""
    try:
        return mark.read_text(encoding="ascii", errors="replace") == _own_mark()
    except OSError:
        return False


def _own_mark() -> str:
    return f"{os.getpid()} {_TOKEN}"


def start_guarded(
    command: Sequence[str],
    output: IO[bytes],
    errors: IO[bytes],
    environment: Mapping[str, str] = MappingProxyType({}),
    mark: Path | None = None,
    held: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that stops, with all its children, when `stop_guarded` is called or this process ends.

    Args:
        command: the program and its arguments.
        output: file for its standard output.
        errors: file for its standard error.
        environment: variables to add to those of this process.
        mark: file in a temporary folder, which the last of its guards deletes if this process has ended.
        held: descriptors, such as of a lock, that the guard keeps open until its end. The command does not get them.

    Returns:
        The guard process (`guard.py`), whose child is the command.
    """
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("guard.py")), str(os.getpid()), str(mark or ""), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        env={**os.environ, **environment},
        start_new_session=True,
        pass_fds=held,
    )


def request_stop(guard: subprocess.Popen[bytes]) -> None:
    """Ask a guarded process to stop, without waiting. The guard sends SIGTERM, then SIGKILL after a grace period."""
    if guard.stdin is not None:
        guard.stdin.close()


def guarded(guard: subprocess.Popen[bytes]) -> list[str]:
    """Return the process ids of what a guard has started: its command. Empty: it has ended."""
    try:
        return Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
    except OSError:
        return []


def stop_guarded(guard: subprocess.Popen[bytes]) -> None:
    """Stop a guarded process and wait for its end."""
    request_stop(guard)
    guard.wait(_STOP_S)


def free_ports(count: int) -> list[int]:
    """Return distinct loopback ports that are free at the moment.

    Linux gives none of them to a client's end of a connection: a server that restarts finds its port free.
    """
    free = list(itertools.islice(filter(_is_free, candidates()), count))
    if len(free) < count:
        advice = f"sysctl net.ipv4.ip_local_port_range has to leave ports from {_FIRST_PORT} on to servers"
        raise ServiceError(f"{len(free)} of {count} ports are free below {_first_of_clients()}; {advice}")
    return free


def candidates() -> Iterable[int]:
    """Return the ports of which `free_ports` takes the first free ones: all, in an order by chance.

    A process that has got a port may use it later. Tests replace this function, so that no other of their processes
    gets the port meanwhile.
    """
    ports = list(range(_FIRST_PORT, _first_of_clients()))
    random.SystemRandom().shuffle(ports)
    return ports


def _first_of_clients() -> int:
    return int(_PORTS_OF_CLIENTS.read_text().split()[0])


def _is_free(port: int) -> bool:
    with socket.socket() as unused:
        try:
            unused.bind((HOST, port))
        except OSError:
            return False
        return True


def consecutive_free_ports(count: int) -> list[int]:
    """Return consecutive loopback ports that are free at the moment."""
    while True:
        (first,) = free_ports(1)
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports


def is_listening(port: int) -> bool:
    """Return True if a process accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def speaks_amqp(port: int) -> bool:
    """Return True if RabbitMQ answers on this loopback port."""
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return len(probe.recv(8)) > 0
    except OSError:
        return False


def fetch(url: str, timeout_s: float) -> http.client.HTTPResponse:
    """Return the answer of a server of this host to a GET request. Raises OSError and HTTPException."""
    answer: http.client.HTTPResponse = _DIRECT.open(url, timeout=timeout_s)
    return answer


def responds(url: str) -> bool:
    """Return True if a GET request for this URL succeeds."""
    return _headers(url) is not None


def answering(url: str, header: str) -> str:
    """Return a header of the answer to a GET request; empty: the request failed, or its answer has no such header."""
    return (_headers(url) or {}).get(header, "")


def _headers(url: str) -> Mapping[str, str] | None:
    """Return the headers of the answer to a GET request, or None if it failed."""
    try:
        with fetch(url, timeout_s=2.0) as reply:
            return dict(reply.headers.items()) if reply.status == 200 else None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, http.client.HTTPException):  # the latter: who answers there speaks no HTTP
        return None
