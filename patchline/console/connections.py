"""Which connections the console holds, and which of them go so that another browser can come."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Protocol

MOST, MOST_OF_ADDRESS = 400, 200  # below the 1,024 files that a process may usually have open


class Held(Protocol):
    """A connection.

    Attributes:
        address: of the browser, or of its proxy.
        waits_since: since when nothing has come from the browser that the server waits for, in seconds of the loop;
            None: the server is busy with it.
    """

    address: str
    waits_since: float | None

    def drop(self) -> None:
        """Close it now."""


class Room:
    """The connections. Only for the thread of the server.

    Args:
        most: connections.
        most_of_address: of another host. A proxy on this host has the connections of all browsers.
    """

    def __init__(self, most: int = MOST, most_of_address: int = MOST_OF_ADDRESS) -> None:
        self._most, self._most_of_address = most, most_of_address
        self._held: set[Held] = set()

    def admit(self, new: Held) -> bool:
        """Take a connection, in place of the one that has waited longest if there are too many.

        Returns:
            False if there is no room, since none of them waits.
        """
        same = [one for one in self._held if one.address == new.address]
        if not _is_loopback(new.address) and len(same) >= self._most_of_address and not self._drop(same):
            return False
        if len(self._held) >= self._most and not self._drop(list(self._held)):
            return False
        self._held.add(new)
        return True

    def leave(self, one: Held) -> None:
        """Forget a connection that has ended."""
        self._held.discard(one)

    def _drop(self, among: list[Held]) -> bool:
        waiting = [(one.waits_since, id(one), one) for one in among if one.waits_since is not None]
        if not waiting:
            return False
        _, _, longest = min(waiting)
        self._held.discard(longest)
        longest.drop()
        return True


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
