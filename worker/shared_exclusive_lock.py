"""A shared/exclusive lock: lanes inspect side by side under it, and a suspect is inspected alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WAIT_INTERVAL_S = 1.0
_NOT_SPARE = 3  # places: two more than cores, and a core for the next job


class SharedExclusiveLock:
    """Held by one exclusive holder, or by at most `max_shared` shared holders.

    Shared holders come first that have waited for longest. A waiting exclusive holder goes before all of them.

    Args:
        max_shared: the number of shared holders.
        on_wait: called every second by each thread that waits for the lock, to show that it is not stuck.
    """

    def __init__(self, max_shared: int, on_wait: Callable[[], None] = lambda: None) -> None:
        self._max_shared = max_shared
        self._on_wait = on_wait
        self._mutex = threading.Lock()
        self._all_released = threading.Condition(self._mutex)
        self._waiting: deque[threading.Lock] = deque()  # each is locked until its thread has a place
        self._shared_holders = 0
        self._exclusive_requests = 0  # held or waiting

    @contextmanager
    def shared(self, quiet: bool = False) -> Iterator[None]:
        """Hold the lock together with other shared holders. If `quiet`, nobody is told of the waiting."""
        with self._mutex:
            turn = None if self._take(self._max_shared) else self._queue_up()
        try:
            while turn is not None and not turn.acquire(timeout=_WAIT_INTERVAL_S):
                if not quiet:
                    self._on_wait()
            yield
        finally:
            with self._mutex:
                if turn is not None and turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._release_shared()

    @property
    def spare_places(self) -> int:
        """How many jobs leave a core free, at least one."""
        return max(1, self._max_shared - _NOT_SPARE)

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """Hold the lock together with others if they are fewer than `spare_places`. Otherwise yield False at once."""
        with self._mutex:
            is_free = self._take(self.spare_places)
        try:
            yield is_free
        finally:
            if is_free:
                with self._mutex:
                    self._release_shared()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone. Only one thread may call this."""
        try:
            with self._all_released:
                self._exclusive_requests += 1
                while not self._all_released.wait_for(lambda: self._shared_holders == 0, _WAIT_INTERVAL_S):
                    self._on_wait()
            yield
        finally:
            with self._mutex:
                self._exclusive_requests -= 1
                self._hand_out()

    def _take(self, places: int) -> bool:
        """Take a place if one of the first `places` is free. While threads wait, none is: this overtakes nobody."""
        is_free = self._exclusive_requests == 0 and self._shared_holders < places
        self._shared_holders += is_free
        return is_free

    def _queue_up(self) -> threading.Lock:
        turn = threading.Lock()
        turn.acquire()
        self._waiting.append(turn)
        return turn

    def _release_shared(self) -> None:
        self._shared_holders -= 1
        if self._exclusive_requests:
            self._all_released.notify()
        else:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give free places to waiting threads. They have them before they wake up."""
        while self._waiting and self._take(self._max_shared):
            self._waiting.popleft().release()
