"""The rings of slots in which a PLC tells its events: triggers and confirmations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from patchline.plc.register_map import Record, next_sequence
from patchline.plc.words import MAX_WORDS, WordMemory

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
        self._at_once = MAX_WORDS // record.words
        self._read: int | None = None

    @property
    def sequence(self) -> int:
        """Sequence number of the last event that was read."""
        return self._read or 0

    def begin(self, sequence: int) -> None:
        """Take the events up to a sequence number as read."""
        self._read = sequence

    def begins_anew(self, last: int) -> bool:
        """Return True if the sequence number went back. Then the PLC has started again, and counts from 1."""
        anew = bool(self._read) and (last == 0 or (last - self.sequence) % _LARGEST > _LARGEST // 2)
        if anew:
            self._read = 0
        return anew

    def read(self, memory: WordMemory, last: int) -> Iterator[dict[str, int] | None]:
        """Yield the new slots, oldest first. None stands for one that was overwritten before it was read.

        What has been yielded is not read again, also if an error comes next. Neighbours are read at once, up to
        MAX_WORDS words: a request may take long.

        Args:
            memory: the words.
            last: sequence number of the last event, from the header.

        Raises:
            PlcError: the PLC has not answered.
        """
        sequences = self._unread(last)
        held = max(0, len(sequences) - self._slots)  # the ring holds what comes after these
        for sequence in sequences[:held]:
            self._read = sequence
            yield None
        for run in self._runs(sequences[held:]):
            size = self._record.words
            words = memory.read(self._place(run[0]), len(run) * size)
            for position, sequence in enumerate(run):
                slot = self._record.unpack_integers(words[position * size : (position + 1) * size])
                self._read = sequence
                yield slot if slot["sequence"] == sequence else None

    def _unread(self, last: int) -> list[int]:
        sequences: list[int] = []
        sequence = self.sequence
        while sequence != last != 0 and len(sequences) < _LARGEST:
            sequence = next_sequence(sequence)
            sequences.append(sequence)
        return sequences

    def _runs(self, sequences: list[int]) -> Iterator[list[int]]:
        """Yield the sequence numbers in runs whose slots are neighbours."""
        run: list[int] = []
        for sequence in sequences:
            is_next = bool(run) and self._place(sequence) == self._place(run[-1]) + self._record.words
            if run and (not is_next or len(run) == self._at_once):
                yield run
                run = []
            run.append(sequence)
        if run:
            yield run
