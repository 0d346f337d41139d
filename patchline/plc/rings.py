"""The rings of slots in which a PLC tells its events: triggers and confirmations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from patchline.plc.register_map import Record, next_sequence
from patchline.plc.words import WordMemory

_LARGEST = 65535  # sequence number


class Ring:
    """One ring, and how far it has been read.

    Args:
        record: the content of a slot.
        place: returns the number of the first word of the slot of a sequence number.
        slots: number of slots.
    """

    def __init__(self, record: Record, place: Callable[[int], int], slots: int) -> None:
        self._record, self._place, self._slots = record, place, slots
        self._read: int | None = None

    @property
    def sequence(self) -> int:
        """Sequence number of the last event that was read."""
        return self._read or 0

    def begins_anew(self, last: int) -> bool:
        """Return True if the sequence number went back. Then the PLC has started again, and counts from 1."""
        anew = bool(self._read) and (last == 0 or (last - self.sequence) % _LARGEST > _LARGEST // 2)
        if anew:
            self._read = 0
        return anew

    def read(self, memory: WordMemory, last: int) -> Iterator[dict[str, int] | None]:
        """Yield the new slots, oldest first. None stands for one that was overwritten before it was read.

        What has been yielded is not read again, also if an error comes next. The first call yields nothing: it finds
        the place to go on from.

        Args:
            memory: the words.
            last: sequence number of the last event, from the header.

        Raises:
            PlcError: the PLC has not answered.
        """
        if self._read is None:
            self._read = last
        sequences: list[int] = []
        sequence = self._read
        while sequence != last != 0 and len(sequences) < _LARGEST:
            sequence = next_sequence(sequence)
            sequences.append(sequence)
        for position, sequence in enumerate(sequences, start=1):
            slot = None
            if position > len(sequences) - self._slots:  # the ring still holds it
                slot = self._record.unpack_integers(memory.read(self._place(sequence), self._record.words))
            self._read = sequence
            yield slot if slot is not None and slot["sequence"] == sequence else None
