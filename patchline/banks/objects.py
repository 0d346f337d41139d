"""Where the versions of memory banks are kept: a few operations that a folder has, and an object store has too.

Objects are never changed. One is made in one step, and only if there is none of that name: of two programs that make
the same one at the same time, one is told that it was too late. In S3 this is PUT with `If-None-Match: *`.
"""

from __future__ import annotations

import threading
from typing import Protocol

from patchline.protocol.errors import SetupError


class StoreUnavailable(SetupError):
    """The store cannot be read or written now. What was read before stays true."""


class Objects(Protocol):
    """Objects by their keys, such as `gasket/log/00000001.json`. Thread-safe."""

    def create(self, key: str, content: bytes) -> bool:
        """Make an object, complete and on disk. Return False, and change nothing, if there is one of this key.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is none of this key.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the parts of the keys that follow a prefix such as `gasket/log`, in order; all first parts for "".

        Raises:
            StoreUnavailable: they cannot be listed.
        """
        ...

    def why_closed(self, prefix: str) -> str | None:
        """Return why this user may not make objects below a prefix; None if that is allowed, as far as can be seen.

        Raises:
            StoreUnavailable: nobody may.
        """
        ...


class MemoryObjects:
    """Implements `Objects` within one process. While `available` is False, everything fails."""

    def __init__(self) -> None:
        self.available = True
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        self._check()
        with self._lock:
            is_new = key not in self._objects
            self._objects.setdefault(key, content)
        return is_new

    def read(self, key: str) -> bytes | None:
        """See `Objects`."""
        self._check()
        return self._objects.get(key)

    def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        self._check()
        with self._lock:
            above = f"{prefix}/" if prefix else ""
            below = [key.removeprefix(above) for key in self._objects if key.startswith(above)]
        return sorted({key.split("/")[0] for key in below})

    def why_closed(self, prefix: str) -> str | None:
        """See `Objects`."""
        self._check()
        return None

    def _check(self) -> None:
        if not self.available:
            raise StoreUnavailable("the store is not available")
