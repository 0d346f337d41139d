"""The notification protocol of systemd, sd_notify(3): a process reports that it is ready, alive or stopping.

The service manager is systemd or `patchline.worker.supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import socket

READY = b"READY=1"
ALIVE = b"WATCHDOG=1"
STOPPING = b"STOPPING=1"


def extend_start(seconds: float) -> None:
    """Tell the service manager that the start goes on, and may take that much longer from now."""
    send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}".encode())


def send(state: bytes) -> None:
    """Send a state to the service manager. Do nothing if NOTIFY_SOCKET is not set or nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        client.sendto(state, "\0" + address[1:] if address.startswith("@") else address)


class NotifySocket:
    """The socket of a service manager, for the states of one child process."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("")  # Linux picks a free abstract address (unix(7), autobind)

    @property
    def address(self) -> str:
        """The value of NOTIFY_SOCKET for the child process."""
        name: bytes = self._socket.getsockname()
        return "@" + name[1:].decode()

    def read(self) -> list[bytes]:
        """Return the states that were received since the last call."""
        states = []
        with contextlib.suppress(BlockingIOError):
            while True:
                states.append(self._socket.recv(256))
        return states

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
