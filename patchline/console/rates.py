"""How much a person may ask of the console, so that no browser slows the line."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MINUTE_S = 60.0
_MOST_PEOPLE = 10_000  # the oldest are forgotten


class Rates:
    """A bucket of tokens for the searches of each account, and one for its changes.

    A full bucket holds half of what comes in a minute. Thread-safe.

    Args:
        searches_per_minute: pages that ask much of the archive's database.
        changes_per_minute: forms that are sent.
        clock: seconds that never go back.
    """

    def __init__(
        self, searches_per_minute: int, changes_per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = {False: searches_per_minute, True: changes_per_minute}
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()  # when, and what was in it
        self._lock = threading.Lock()

    def admit(self, name: str, method: str, costly: bool) -> bool:
        """Count a request of an account. Return False if it is one too many.

        Args:
            name: of the account.
            method: of HTTP; all but GET count as changes.
            costly: it asks much of the archive's database. Other pages are not counted.
        """
        is_change = method != "GET"
        if not is_change and not costly:
            return True
        per_minute = self._per_minute[is_change]
        most = max(1.0, per_minute / 2)
        with self._lock:
            now = self._clock()
            at, tokens = self._buckets.pop((name, is_change), (now, most))
            tokens = min(most, tokens + (now - at) * per_minute / _MINUTE_S)
            is_admitted = tokens >= 1
            self._buckets[name, is_change] = (now, tokens - 1 if is_admitted else tokens)
            while len(self._buckets) > _MOST_PEOPLE:
                self._buckets.popitem(last=False)
        return is_admitted
