"""A shared/exclusive lock: lanes inspect side by side under it, and a suspect is inspected alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WAIT_INTERVAL_S = 1.0
_NOT_SPARE = 3  # places: two more than cores, and a core for the next job


class SharedExclusiveLock:
    """Held by one exclusive holder, or by at most `max_shared` shared holders. A waiting exclusive holder goes first.

    Args:
        max_shared: the number of shared holders.
        on_wait: called every second by each thread that waits for the lock, to show that it is not stuck.
    """

    def __init__(self, max_shared: int, on_wait: Callable[[], None] = lambda: None) -> None:
        self._max_shared = max_shared
        self._on_wait = on_wait
        mutex = threading.Lock()
        self._shared_available = threading.Condition(mutex)
        self._all_released = threading.Condition(mutex)
        self._shared_holders = 0
        self._exclusive_requests = 0  # held or waiting

    @contextmanager
    def shared(self, quiet: bool = False) -> Iterator[None]:
        """Hold the lock together with other shared holders. If `quiet`, nobody is told of the waiting."""
        with self._shared_available:
            self._wait(self._shared_available, self._is_shared_available, quiet)
            self._shared_holders += 1
        try:
            yield
        finally:
            self._release_shared()

    @property
    def spare_places(self) -> int:
        """How many jobs leave a core free, at least one."""
        return max(1, self._max_shared - _NOT_SPARE)

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """Hold the lock together with others if they are fewer than `spare_places`. Otherwise yield False at once."""
        with self._shared_available:
            is_free = self._exclusive_requests == 0 and self._shared_holders < self.spare_places
            self._shared_holders += is_free
        try:
            yield is_free
        finally:
            if is_free:
                self._release_shared()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone. Only one thread may call this."""
        with self._all_released:
            self._exclusive_requests += 1
            self._wait(self._all_released, lambda: self._shared_holders == 0)
        try:
            yield
        finally:
            with self._all_released:
                self._exclusive_requests -= 1
                self._shared_available.notify_all()

    def _release_shared(self) -> None:
        with self._shared_available:
            self._shared_holders -= 1
            self._shared_available.notify()
            self._all_released.notify()

    def _is_shared_available(self) -> bool:
        return self._exclusive_requests == 0 and self._shared_holders < self._max_shared

    def _wait(self, condition: threading.Condition, predicate: Callable[[], bool], quiet: bool = False) -> None:
        while not condition.wait_for(predicate, _WAIT_INTERVAL_S):
            if not quiet:
                self._on_wait()
