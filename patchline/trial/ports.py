"""The ports of a trial: the wanted ones if they are free, and those of the last start for the servers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from patchline.services import server


def choose(
    wanted: Mapping[str, int], is_free: Callable[[int], bool], spare: Callable[[int], list[int]]
) -> dict[str, int]:
    """Return a port for each name, all different.

    Args:
        wanted: the ports by name, the most important first; 0: any.
        is_free: whether nobody listens on a port.
        spare: returns so many free ports.
    """
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        if port and port not in chosen.values() and is_free(port):
            chosen[name] = port
    missing = [name for name in wanted if name not in chosen]
    unused = (port for port in spare(len(wanted) + len(missing)) if port not in chosen.values())
    return {name: chosen[name] if name in chosen else next(unused) for name in wanted}


def is_free(port: int) -> bool:
    """Return True if no server has a port of loopback. Connections that an earlier one has closed do not count."""
    with socket.socket() as unused:
        unused.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            unused.bind((server.HOST, port))
        except OSError:
            return False
        return True
