"""What a store of pictures is: bytes by their digest. And one in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class StoreUnavailable(Exception):
    """The store does not answer, or takes nothing at the moment. Try again later."""


class Store(Protocol):
    """Bytes by their SHA-256, as hexadecimal digits. All methods raise StoreUnavailable."""

    def put(self, digest: str, body: bytes) -> None:
        """Store bytes such that they survive a power failure. Nothing changes if they are there."""
        ...

    def get(self, digest: str) -> bytes | None:
        """Return the bytes, or None if they are not there."""
        ...

    def delete(self, digest: str) -> None:
        """Delete the bytes, if they are there."""
        ...

    def list(self) -> Iterator[str]:
        """Yield the digests of all bytes, in any order."""
        ...

    def check(self) -> None:
        """Ask the store for a sign of life."""
        ...

    def check_writing(self) -> None:
        """Find out whether this user may put something."""
        ...


class MemoryStore:
    """Implements `Store` within one process. While `away` is set it does not answer."""

    def __init__(self) -> None:
        self.away = False
        self._bodies: dict[str, bytes] = {}

    def put(self, digest: str, body: bytes) -> None:
        """See `Store`."""
        self.check()
        self._bodies[digest] = body

    def get(self, digest: str) -> bytes | None:
        """See `Store`."""
        self.check()
        return self._bodies.get(digest)

    def delete(self, digest: str) -> None:
        """See `Store`."""
        self.check()
        self._bodies.pop(digest, None)

    def list(self) -> Iterator[str]:
        """See `Store`."""
        self.check()
        yield from list(self._bodies)

    def check(self) -> None:
        """See `Store`."""
        if self.away:
            raise StoreUnavailable("the store in memory is away")

    def check_writing(self) -> None:
        """See `Store`."""
        self.check()
