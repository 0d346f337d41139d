"""A memory whose PLC is left alone for a while after an error: a call to a dead PLC takes all of its time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from patchline.plc.words import PlcError, WordMemory

_PAUSE_S = 0.2
_Answer = TypeVar("_Answer")


class PatientMemory:
    """A `WordMemory` that asks nothing for 0.2 s after an error. A gate has to hear its line in between.

    Args:
        memory: the words.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, memory: WordMemory, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._error: PlcError | None = None
        self._retry_at = float("-inf")
        self.errors = 0  # since the start; after each one the PLC may be another one

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        return self._try(lambda: self._memory.read(start, count))

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        self._try(lambda: self._memory.write(start, words))

    def close(self) -> None:
        """See `WordMemory`."""
        self._memory.close()

    def _try(self, call: Callable[[], _Answer]) -> _Answer:
        if self._error is not None and self._clock() < self._retry_at:
            raise type(self._error)(str(self._error))
        try:
            answer = call()
        except PlcError as error:
            self._error, self._retry_at = error, self._clock() + _PAUSE_S
            self.errors += 1
            raise
        self._error = None
        return answer
