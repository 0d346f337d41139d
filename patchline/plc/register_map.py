"""The register map: what each word means that a gate and a PLC share. The manual and the CSV are made of it.

Two areas, each a header and rings of slots. The gate writes one and reads the other. A slot belongs to a part: its
place is the part's number modulo the number of slots, so the same result written twice is the same result. A slot is
written at once. Its last word is its sequence number: it changes with every other content.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property

VERSION = 1
NO_COUNT = -(2**31)  # an encoder count that is not known


class GateState(IntFlag):
    """Bits of `state` in the gate's area."""

    READY = 1
    BUSY = 2
    FAULT = 4
    BLIND = 8
    STOP_LINE = 16


class PlcState(IntFlag):
    """Bits of `state` in the PLC's area."""

    LINE_RUNS = 1
    ARM_READY = 2
    BIN_FULL = 4
    WATCHDOG = 8


class Result(IntEnum):
    """What is to be done with a part. A slot that was never written has 0, and is no result."""

    ACCEPT = 1
    REJECT = 2


class Code(IntEnum):
    """Why."""

    OTHER = 0
    PASS = 1
    REVIEW = 2
    FAIL = 3
    EXPIRED = 4
    ERROR = 5
    NO_VERDICT = 6
    UNANNOUNCED = 7
    MISSED = 8
    OTHER_IMAGE = 9


class Bin(IntEnum):
    """Where a part was seen to go."""

    GOOD = 1
    REJECT = 2


@dataclass(frozen=True)
class Field:
    """One value of an area.

    Attributes:
        name: its name.
        kind: `word` (unsigned, 16 bits), `dword` (unsigned, 32 bits), `dint` (signed, 32 bits) or `real` (IEEE 754, 32
            bits). Values of 32 bits take two words, the high one first.
        meaning: one sentence for the PLC's programmer.
    """

    name: str
    kind: str
    meaning: str

    @property
    def words(self) -> int:
        """Number of words."""
        return 1 if self.kind == "word" else 2


_FORMATS = {"word": "H", "dword": "I", "dint": "i", "real": "f"}
Value = int | float


@dataclass(frozen=True)
class Record:
    """Consecutive fields: a header or a slot."""

    fields: tuple[Field, ...]

    @cached_property
    def words(self) -> int:
        """Number of words."""
        return sum(field.words for field in self.fields)

    def pack(self, values: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the words of these values. A missing one is 0."""
        packed = struct.pack(self._format, *(values.get(field.name, 0) for field in self.fields))
        return struct.unpack(f">{self.words}H", packed)

    def unpack(self, words: Sequence[int]) -> dict[str, Value]:
        """Return the values of these words, by the names of the fields."""
        packed = struct.pack(f">{self.words}H", *words)
        return dict(zip((field.name for field in self.fields), struct.unpack(self._format, packed), strict=True))

    def unpack_integers(self, words: Sequence[int]) -> dict[str, int]:
        """Return the values of a record that has no `real`."""
        return {name: int(value) for name, value in self.unpack(words).items()}

    def offset(self, name: str) -> int:
        """Return the number of the first word of a field."""
        names = [field.name for field in self.fields]
        return sum(field.words for field in self.fields[: names.index(name)])

    @cached_property
    def _format(self) -> str:
        return ">" + "".join(_FORMATS[field.kind] for field in self.fields)


def _reserved(count: int) -> tuple[Field, ...]:
    return tuple(Field(f"reserved_{number}", "word", "0") for number in range(1, count + 1))


GATE_HEADER = Record(
    (
        Field("version", "word", "Version of this map: 1. Reject everything if it is another one."),
        Field("state", "word", "Bit 0 ready, 1 busy, 2 fault, 3 blind (no messages), 4 stop the line."),
        Field("heartbeat", "word", "Counts from 1 to 65535 and again. If it stands for two periods: reject all."),
        Field("heartbeat_echo", "word", "The PLC's heartbeat as the gate read it last."),
        Field("sequence", "word", "Sequence number of the result that was written last."),
        Field("slots", "word", "Number of slots in the ring of results."),
        Field("category", "word", "Code of the product that the gate expects."),
        Field("category_sequence", "word", "Sequence number of the product change that is acknowledged."),
        Field("trigger_sequence", "word", "Sequence number of the last trigger that the gate has read."),
        Field("confirmation_sequence", "word", "Sequence number of the last confirmation that the gate has read."),
        Field("rejects_in_row", "word", "Parts rejected one after the other."),
        Field("missed", "word", "Results that came too late for the arm, since the gate started."),
        Field("escaped", "word", "Rejects that were not seen in the reject bin, since the gate started."),
        *_reserved(3),
    )
)
RESULT = Record(
    (
        Field("number", "dword", "Number of the part. A slot holds for this part only."),
        Field("result", "word", "1 accept, 2 reject. Anything else is no result: reject."),
        Field("code", "word", "1 pass, 2 review, 3 fail, 4 expired, 5 error; else a reason of the gate."),
        Field("score", "real", "Score of the image. Not a number if there is none."),
        Field("count", "dint", "Encoder count at which the arm acts; -2147483648 if there is none."),
        *_reserved(1),
        Field("sequence", "word", "1 to 65535 and again, changes with the result. Written last."),
    )
)
PLC_HEADER = Record(
    (
        Field("version", "word", "Version of this map: 1."),
        Field("state", "word", "Bit 0 line runs, 1 arm ready, 2 reject bin full, 3 watchdog has tripped."),
        Field("heartbeat", "word", "Counts up in every cycle, 1 to 65535 and again."),
        Field("heartbeat_echo", "word", "The gate's heartbeat as the PLC read it last."),
        Field("count", "dint", "Encoder count now."),
        Field("trigger_sequence", "word", "Sequence number of the last trigger."),
        Field("confirmation_sequence", "word", "Sequence number of the last confirmation."),
        Field("category", "word", "Code of the product that comes next."),
        Field("category_sequence", "word", "Counts the product changes."),
        Field("slots", "word", "Number of slots in each of the two rings of this area."),
        *_reserved(5),
    )
)
TRIGGER = Record(
    (
        Field("number", "dword", "Number of the part that the trigger saw."),
        Field("count", "dint", "Encoder count at the trigger."),
        Field("category", "word", "Code of its product; 0: that of the header."),
        Field("sequence", "word", "Sequence number of the trigger. Written last."),
    )
)
CONFIRMATION = Record(
    (
        Field("number", "dword", "Number of the part that the sensor behind the arm saw."),
        Field("count", "dint", "Encoder count at the sensor."),
        Field("bin", "word", "1 good, 2 rejected."),
        Field("sequence", "word", "Sequence number of the confirmation. Written last."),
    )
)


@dataclass(frozen=True)
class Layout:
    """Where the areas are.

    Attributes:
        gate: number of the first word of the gate's area.
        plc: number of the first word of the PLC's area.
        slots: number of slots in each ring.
    """

    gate: int
    plc: int
    slots: int

    @property
    def gate_words(self) -> int:
        """Number of words of the gate's area."""
        return GATE_HEADER.words + self.slots * RESULT.words

    @property
    def plc_words(self) -> int:
        """Number of words of the PLC's area."""
        return PLC_HEADER.words + self.slots * (TRIGGER.words + CONFIRMATION.words)

    def result(self, number: int) -> int:
        """Return the number of the first word of a part's slot in the ring of results."""
        return self.gate + GATE_HEADER.words + number % self.slots * RESULT.words

    def trigger(self, sequence: int) -> int:
        """Return the number of the first word of a trigger's slot."""
        return self.plc + PLC_HEADER.words + sequence % self.slots * TRIGGER.words

    def confirmation(self, sequence: int) -> int:
        """Return the number of the first word of a confirmation's slot."""
        start = self.plc + PLC_HEADER.words + self.slots * TRIGGER.words
        return start + sequence % self.slots * CONFIRMATION.words


def next_sequence(sequence: int) -> int:
    """Return the sequence number or heartbeat that comes next: 1 to 65535, and 1 again."""
    return sequence % 65535 + 1
