"""Links to a `mindx_host`: a child of this process behind pipes, or a process behind a Unix socket.

Both speak the same protocol: one byte for each image, one line of JSON for each answer. Image and features are in
shared memory. Its file descriptor is inherited by a child, and travels over a socket (SCM_RIGHTS, unix(7)), because the
names of shared memory are private to a container.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from patchline.devices import mindx_host
from patchline.devices.child_process import UnkillableProcesses
from patchline.devices.mindx_sdk import Sdk
from patchline.protocol.errors import DeviceStuckError, SetupError

_HOST = Path(mindx_host.__file__)
_REPLY_BYTES = 65_536
_CONNECT_TIMEOUT_S = 10.0


class HostFailedError(Exception):
    """The host gave no complete answer, and was ended."""


class HostMismatchError(HostFailedError):
    """The host has another model, device or version. The next one will be the same."""


# By device, for all links of this process: a chip that holds a process for good takes no other.
_UNKILLABLE: defaultdict[int, UnkillableProcesses] = defaultdict(UnkillableProcesses)


class HostAbsentError(HostFailedError):
    """No host listens, or it serves another worker. It may be there later."""


class HostBusyError(HostAbsentError):
    """The host serves another worker."""


@dataclass(frozen=True)
class Assignment:
    """What a host is to run.

    Attributes:
        model: the `.om` file, as this process names it.
        sha256: of the model. A host behind a socket has a copy, and checks it.
        shape: of an image.
        dtype: of an image, uint8 or float32.
        image_bytes: the size of an image.
        device: the number of the chip.
        memory_fd: of the shared memory: the image, followed by the features.
        memory_bytes: its size.
    """

    model: Path
    sha256: str
    shape: tuple[int, ...]
    dtype: str
    image_bytes: int
    device: int
    memory_fd: int
    memory_bytes: int


class Link(Protocol):
    """A connection to one host process, from its start to its end."""

    def send(self, content: bytes) -> None:
        """Send a request.

        Raises:
            OSError: the host has gone.
        """
        ...

    def read_reply(self, timeout_s: float) -> dict[str, Any]:
        """Read the answer to the one open request.

        Raises:
            HostFailedError: it is an error, is not complete in time, or never comes.
        """
        ...

    def close(self) -> None:
        """End the host. Return at once, or within bounds.

        Raises:
            DeviceStuckError: it was killed, and does not end.
        """
        ...


def connect(sdk: Sdk, assignment: Assignment) -> Link:
    """Start a host, or connect to the listening one.

    Raises:
        HostFailedError: there is none.
        DeviceStuckError: an earlier one was killed, and has not ended.
        SetupError: it cannot be started.
    """
    if sdk.sockets is None:
        return ChildLink(sdk, assignment)
    return SocketLink(sdk, assignment, socket_path(sdk.sockets, assignment.device))


def socket_path(sockets: Path, device: int) -> Path:
    """The socket of the host of a device."""
    return sockets / f"ascend{device}.sock"


class ChildLink:
    """A host that is a child of this process."""

    def __init__(self, sdk: Sdk, assignment: Assignment) -> None:
        self._device = assignment.device
        self._require_no_stuck_host()
        requests_end, self._requests = os.pipe()
        self._replies, replies_end = os.pipe()
        inherited = (assignment.memory_fd, requests_end, replies_end)
        request = _request(sdk, assignment) | {
            "memory_fd": assignment.memory_fd,
            "requests_fd": requests_end,
            "replies_fd": replies_end,
            "model": str(assignment.model),
            "device": assignment.device,
        }
        command = [sdk.python, str(_HOST), json.dumps(request)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=inherited, env=sdk.environment, stdin=subprocess.DEVNULL, stdout=2
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            advice = "set PATCHLINE_MINDX_PYTHON to the interpreter of the SDK"
            raise SetupError(f"{sdk.python}: cannot be started ({error.strerror}); {advice}") from error
        finally:
            os.close(requests_end)
            os.close(replies_end)

    def send(self, content: bytes) -> None:
        """Write to the pipe of requests."""
        os.write(self._requests, content)

    def read_reply(self, timeout_s: float) -> dict[str, Any]:
        """Read from the pipe of replies."""
        return _read_reply(self._replies, timeout_s)

    def close(self) -> None:
        """Kill the child."""
        _UNKILLABLE[self._device].kill(self._process)
        for end in (self._requests, self._replies):
            os.close(end)
        self._require_no_stuck_host()

    def _require_no_stuck_host(self) -> None:
        stuck = _UNKILLABLE[self._device]
        if pids := stuck.pids():
            text = f"device ascend:{self._device}: process {pids[0]} was killed and does not end"
            raise DeviceStuckError(text, lambda: not stuck.pids())


class SocketLink:
    """A host that a listening `mindx_host` starts for this connection, and kills when the connection closes."""

    def __init__(self, sdk: Sdk, assignment: Assignment, path: Path) -> None:
        self._connection = _unix_socket()
        try:
            _greet(self._connection, path, assignment.device)
            request = _request(sdk, assignment) | {"model": assignment.model.name, "sha256": assignment.sha256}
            socket.send_fds(self._connection, [json.dumps(request).encode() + b"\n"], [assignment.memory_fd])
        except OSError as error:
            self._connection.close()
            raise HostAbsentError(f"{path}: {_advice(error)}") from error
        except (HostFailedError, DeviceStuckError):
            self._connection.close()
            raise

    def send(self, content: bytes) -> None:
        """Write to the socket."""
        self._connection.sendall(content)

    def read_reply(self, timeout_s: float) -> dict[str, Any]:
        """Read from the socket."""
        return _read_reply(self._connection.fileno(), timeout_s)

    def close(self) -> None:
        """Close the connection, by which the host ends."""
        self._connection.close()


def require_free(path: Path, device: int) -> None:
    """Check that a host listens on a socket, and would serve this process.

    Raises:
        HostFailedError: there is none, it serves another worker (HostBusyError), or it does not fit.
        DeviceStuckError: it says that its device hangs.
    """
    with _unix_socket() as connection:
        try:
            _greet(connection, path, device)
        except OSError as error:
            raise HostAbsentError(f"{path}: {_advice(error)}") from error


def _greet(connection: socket.socket, path: Path, device: int) -> None:
    connection.connect(str(path))
    greeting = _read_reply(connection.fileno(), _CONNECT_TIMEOUT_S)
    if greeting.get("hangs"):
        raise DeviceStuckError(f"device ascend:{device}: {path}: {greeting['busy']}", lambda: not _hangs(path))
    if "busy" in greeting:
        raise HostBusyError(f"{path}: {greeting['busy']}")
    if greeting.get("protocol") != mindx_host.PROTOCOL:
        advice = "copy the mindx_host.py of this worker's version there, and restart it"
        raise HostMismatchError(f"{path}: it greets with {greeting}, not protocol {mindx_host.PROTOCOL}; {advice}")
    if greeting.get("device") != device:
        raise HostMismatchError(f"{path}: it serves device {greeting.get('device')}, not {device}")


def _unix_socket() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    return connection


def _hangs(path: Path) -> bool:
    """Whether the listening host still says that its device hangs."""
    with _unix_socket() as connection:
        try:
            connection.connect(str(path))
            return bool(_read_reply(connection.fileno(), _CONNECT_TIMEOUT_S).get("hangs"))
        except (OSError, HostFailedError):  # it is away, and its next answer decides
            return True


def _request(sdk: Sdk, assignment: Assignment) -> dict[str, Any]:
    return {
        "memory_bytes": assignment.memory_bytes,
        "shape": assignment.shape,
        "dtype": assignment.dtype,
        "image_bytes": assignment.image_bytes,
        "surface": sdk.surface,
        "timeout_ms": sdk.timeout_ms,
    }


def _advice(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "this user may not use it; add the user to the group of the socket"
    return f"no mindx_host listens there ({error.strerror or error}); start it (docs/ascend.md)"


def _read_reply(descriptor: int, timeout_s: float) -> dict[str, Any]:
    deadline, line = time.monotonic() + timeout_s, b""
    while not line.endswith(b"\n"):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not select.select([descriptor], [], [], remaining_s)[0]:
            raise HostFailedError(f"it was silent for {timeout_s:g} s")
        received = _read(descriptor)
        if not received:
            raise HostFailedError("it died")
        line += received
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise HostFailedError(f"it answered {line[:100]!r}") from error
    if not isinstance(reply, dict):
        raise HostFailedError(f"it answered {reply}")
    if "error" in reply:
        raise (HostMismatchError if reply.get("mismatch") else HostFailedError)(str(reply["error"]))
    return reply


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _REPLY_BYTES)
    except ConnectionError:  # a socket whose peer died before it had read everything
        return b""
