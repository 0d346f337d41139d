"""The ports of a trial: the wanted ones if they are free, and those of the last start for the servers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from patchline.services import server


class Claims:
    """Ports that no other trial of this host takes, also before anybody listens on them. A context manager.

    RabbitMQ starts for seconds before the first process that needs it opens its port. A claim is a Unix socket with an
    abstract name: the kernel keeps one of a name in each network, as it does with ports, until its process ends.

    Args:
        hosts: addresses beside loopback on which the ports have to be free.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._addresses = [address for host in dict.fromkeys((server.HOST, *hosts)) for address in _resolve(host)]
        self._sockets: list[socket.socket] = []

    def choose(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Claim a port for each name, all different, as the function `choose` does. Raises ServiceError as it does."""
        return choose(wanted, self.take, server.free_ports)

    def take(self, port: int) -> bool:
        """Claim a port. Return False if another trial has claimed it, or a server has it."""
        if not all(is_free(port, *address) for address in self._addresses):
            return False
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0patchline-up-{port}")
        except OSError:
            claim.close()
            return False
        self._sockets.append(claim)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self._sockets:
            claim.close()


def choose(wanted: Mapping[str, int], take: Callable[[int], bool], spare: Callable[[int], list[int]]) -> dict[str, int]:
    """Return a port for each name, all different.

    Args:
        wanted: the ports by name, the most important first; 0: any.
        take: takes a port; False: somebody has it.
        spare: returns a number of free ports.

    Raises:
        ServiceError: others have taken the free ports meanwhile.
    """
    chosen = {name: port for name, port in wanted.items() if port and take(port)}
    missing = [name for name in wanted if name not in chosen]
    unused = filter(take, spare(2 * len(missing)))
    chosen |= zip(missing, unused, strict=False)
    if len(chosen) < len(wanted):
        raise server.ServiceError("other programs have taken the free ports meanwhile; start it again")
    return {name: chosen[name] for name in wanted}


def is_free(port: int, family: int = socket.AF_INET, host: str = server.HOST) -> bool:
    """Return True if no server has a port of an address. Connections that an earlier one has closed do not count.

    An address that is not one of this host has all of its ports free: who listens there says what is wrong with it.
    """
    try:
        with socket.socket(family) as unused:
            unused.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            unused.bind((host, port))
    except OSError as error:
        return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def _resolve(host: str) -> list[tuple[int, str]]:
    """Return the family and the address of a host, once: a name server may take its time. Nothing: it has none."""
    try:
        family, *_, address = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        return []
    return [(family, str(address[0]))]
