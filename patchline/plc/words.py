"""The memory that a gate and a PLC share: numbered words of 16 bits, as Modbus, S7 and EtherNet/IP have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

MAX_WORDS = 100  # in one read or write: Modbus takes 123, an S7-1200 106 in one PDU, and halves are never seen


class PlcError(Exception):
    """The PLC has not answered, or refused. A write may or may not have been done: it is repeated."""


class PlcRefusal(PlcError):
    """The PLC has answered that it does not do this: it has no such words, or they may not be written."""


class WordMemory(Protocol):
    """Words of 16 bits in a PLC, or in a server of ours that a PLC reads.

    An implementation has its own time limit, makes no hidden retries, and connects again at the next call after an
    error. It is used by one thread at a time.
    """

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """Return `count` words (1 to MAX_WORDS, each 0 to 65535) from number `start` on, all read at one time.

        Raises:
            PlcError: they were not read in time.
        """
        ...

    def write(self, start: int, words: Sequence[int]) -> None:
        """Write 1 to MAX_WORDS words from number `start` on. A reader sees all of them or none.

        Raises:
            PlcError: it is not known whether they were written.
        """
        ...

    def close(self) -> None:
        """End the connection. May be called again."""
        ...


class MemoryWords:
    """Words in this process, for tests. It keeps the contract of `WordMemory`."""

    def __init__(self, size: int = 4096) -> None:
        self.words = [0] * size
        self.fault: str | None = None

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        self._check(start, count)
        return tuple(self.words[start : start + count])

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        self._check(start, len(words))
        self.words[start : start + len(words)] = words

    def close(self) -> None:
        """See `WordMemory`."""

    def _check(self, start: int, count: int) -> None:
        if self.fault is not None:
            raise PlcError(self.fault)
        if not 0 <= start <= start + count <= len(self.words):
            raise PlcRefusal(f"words {start} to {start + count - 1} do not exist")
