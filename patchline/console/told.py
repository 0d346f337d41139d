"""What became of uploaded pictures, beside those that were taken: it is kept for a page that can be loaded again."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

_MOST = 100  # of some 100 kB each, if a thousand files were refused
_KEY_BYTES = 8


@dataclass(frozen=True)
class Told:
    """What a page says of files.

    Attributes:
        refused: the names of those that were refused, each with the reason.
        more: how many were refused beside them.
        turned: how many of the others are to be turned when they are shown.
        names: of the others, as their browser said them, by part.
    """

    refused: tuple[tuple[str, str], ...] = ()
    more: int = 0
    turned: int = 0
    names: Mapping[str, str] = field(default_factory=dict)


NOTHING = Told()


class Notes:
    """Keeps the newest of what is told, until the console ends. Thread-safe."""

    def __init__(self) -> None:
        self._notes: OrderedDict[str, Told] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, told: Told) -> str:
        """Keep what a page is to say. Return the key to it; empty if there is nothing to say."""
        if told == NOTHING:
            return ""
        key = secrets.token_hex(_KEY_BYTES)
        with self._lock:
            self._notes[key] = told
            while len(self._notes) > _MOST:
                self._notes.popitem(last=False)
        return key

    def of(self, key: str) -> Told:
        """Return what is to be said; nothing, if it is not known any more."""
        with self._lock:
            return self._notes.get(key, NOTHING)
