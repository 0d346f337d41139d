"""How a process tells its manager that it is ready, gets on, or ends: the protocol of sd_notify(3).

The manager is systemd, or our own supervisor, which speaks the same. Without one, nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket

READY = b"READY=1"
ALIVE = b"WATCHDOG=1"
STOPPING = b"STOPPING=1"


def tell(state: bytes) -> None:
    """Send a state to the socket named in NOTIFY_SOCKET. A manager that is gone is no fault of ours."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        sender.sendto(state, "\0" + address[1:] if address.startswith("@") else address)


class Notices:
    """The other end: what one child process tells us."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("")  # Linux chooses a free abstract name (unix(7), autobind)

    @property
    def address(self) -> str:
        """For the child's NOTIFY_SOCKET."""
        name: bytes = self._socket.getsockname()
        return "@" + name[1:].decode()

    def read(self) -> list[bytes]:
        """Everything told since it was last asked."""
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(self._socket.recv(256))
        return told

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
