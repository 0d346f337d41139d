"""How often somebody may try a password."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_WINDOW_S = 900.0
_MOST_KEYS = 10_000  # of names and addresses; the oldest are forgotten


class LoginLimit:
    """Counts attempts by account and by address, in the last 15 minutes. Thread-safe.

    An account is refused only for the address that has tried too often, so that nobody can lock out a colleague, and
    for all addresses after many more attempts.

    Args:
        by_person: attempts on one account from one address.
        by_address: attempts from one address.
        by_name: attempts on one account.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        by_person: int = 5,
        by_address: int = 30,
        by_name: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = (by_person, by_address, by_name)
        self._clock = clock
        self._tried: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, name: str, address: str) -> bool:
        """Count an attempt before its password is looked at. Return False if it is one too many."""
        with self._lock:
            now = self._clock()
            lists = [self._of(key, now) for key in _keys(name, address)]
            if any(len(tried) >= most for tried, most in zip(lists, self._limits, strict=True)):
                return False
            for tried in lists:
                tried.append(now)
            return True

    def forget(self, name: str, address: str) -> None:
        """Forget the attempts of a person who has logged in: a shift that begins behind a proxy is no attack."""
        with self._lock:
            person, *shared = (self._tried.get(key, []) for key in _keys(name, address))
            count = len(person)
            person.clear()
            for tried in shared:
                del tried[max(0, len(tried) - count) :]

    def _of(self, key: tuple[str, str], now: float) -> list[float]:
        recent = [at for at in self._tried.pop(key, []) if now - at < _WINDOW_S]
        self._tried[key] = recent
        while len(self._tried) > _MOST_KEYS:
            self._tried.popitem(last=False)
        return recent


def _keys(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return (name, address), ("", address), (name, "")
