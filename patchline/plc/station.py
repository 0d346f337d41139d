"""The gate's side of the register map: it writes results and signs of life, and reads what the PLC says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from patchline.plc import register_map as registers
from patchline.plc.register_map import GATE_HEADER, PLC_HEADER, RESULT, GateState, Layout, PlcState, Record, Value
from patchline.plc.words import PlcError, WordMemory

_PAUSE_S = 0.2
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Result:
    """What the PLC is to do with a part. See `register_map.RESULT`."""

    number: int
    result: registers.Result
    code: registers.Code
    score: float
    count: int = registers.NO_COUNT


@dataclass(frozen=True)
class Trigger:
    """A part that the PLC saw at its trigger. `category` is the code of its product; 0 is that of the header."""

    number: int
    count: int
    category: int


@dataclass(frozen=True)
class Confirmation:
    """A part that the sensor behind the arm saw. `bin` is one of `register_map.Bin`, unless the PLC is mistaken."""

    number: int
    count: int
    bin: int


@dataclass(frozen=True)
class Report:
    """What the PLC says.

    Attributes:
        state: its state.
        heartbeat: its counter.
        count: the encoder's count now.
        category: code of the product that comes next.
        category_sequence: counts the product changes.
        triggers: the parts that were triggered since the last report, oldest first.
        confirmations: the parts that left since the last report, oldest first.
        lost: triggers and confirmations that were overwritten before they were read.
        restarted: the PLC counts its triggers or confirmations anew.
    """

    state: PlcState
    heartbeat: int
    count: int
    category: int
    category_sequence: int
    triggers: tuple[Trigger, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    lost: int = 0
    restarted: bool = False


class Station:
    """One gate and one PLC. Used by one thread.

    Args:
        memory: the words that they share.
        layout: where the areas are.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, memory: WordMemory, layout: Layout, clock: Callable[[], float]) -> None:
        self._memory = _Patient(memory, clock)
        self._layout = layout
        self._sequence: int | None = None  # of the last result; None: not read yet
        self._heartbeat = 0
        self._echo = 0
        self._read: dict[str, int] = {}  # sequence numbers of the last trigger and confirmation that were read
        self._category: tuple[int, int] | None = None  # code and sequence number of the acknowledged product change

    def write_result(self, result: Result) -> None:
        """Write a result into the slot of its part, and read it back. Writing it again changes nothing for the part.

        Raises:
            PlcError: it is not known whether the PLC has it.
        """
        sequence = registers.next_sequence(self._last_sequence())
        words = RESULT.pack({**vars(result), "sequence": sequence})
        start = self._layout.result(result.number)
        self._memory.write(start, words)
        if self._memory.read(start, RESULT.words) != words:
            raise PlcError(f"the PLC has other words in its slot of part {result.number} than those just written")
        self._sequence = sequence

    def beat(self, state: GateState, counts: Mapping[str, int]) -> None:
        """Write the header: the state, the next heartbeat, and other values by their names in `GATE_HEADER`.

        Raises:
            PlcError: it is not known whether the PLC has it.
        """
        sequence = self._last_sequence()
        heartbeat = registers.next_sequence(self._heartbeat)
        category, category_sequence = self._category or (0, 0)
        values: dict[str, Value] = {
            "version": registers.VERSION,
            "state": state,
            "heartbeat": heartbeat,
            "heartbeat_echo": self._echo,
            "sequence": sequence,
            "slots": self._layout.slots,
            "category": category,
            "category_sequence": category_sequence,
            "trigger_sequence": self._read.get("trigger", 0),
            "confirmation_sequence": self._read.get("confirmation", 0),
            **{name: min(count, 65535) for name, count in counts.items()},
        }
        self._memory.write(self._layout.gate, GATE_HEADER.pack(values))
        self._heartbeat = heartbeat

    def resume(self) -> None:
        """Go on where the PLC's memory stands: another gate may have written in between."""
        self._sequence = None

    def acknowledge(self, category: int, sequence: int) -> None:
        """Acknowledge a product change with the next heartbeat."""
        self._category = (category, sequence)

    def poll(self) -> Report:
        """Read what the PLC says. The first report has no triggers and no confirmations: it only finds their place.

        Raises:
            PlcError: the PLC has not answered, or its area is of another version.
        """
        header = _unpack(PLC_HEADER, self._memory.read(self._layout.plc, PLC_HEADER.words))
        if header["version"] not in (0, registers.VERSION):
            raise PlcError(f"the PLC's area has version {header['version']}, this build knows {registers.VERSION}")
        restarted = any(self._has_restarted(name, header) for name in ("trigger", "confirmation"))
        triggers, lost_triggers = self._new("trigger", header, registers.TRIGGER, self._layout.trigger)
        confirmed, lost = self._new("confirmation", header, registers.CONFIRMATION, self._layout.confirmation)
        self._echo = header["heartbeat"]
        return Report(
            PlcState(header["state"]),
            header["heartbeat"],
            header["count"],
            header["category"],
            header["category_sequence"],
            tuple(Trigger(slot["number"], slot["count"], slot["category"]) for slot in triggers),
            tuple(Confirmation(slot["number"], slot["count"], slot["bin"]) for slot in confirmed),
            lost_triggers + lost,
            restarted,
        )

    def close(self) -> None:
        """End the connection."""
        self._memory.close()

    def _last_sequence(self) -> int:
        """Return the number of the last result, also if an earlier process or another gate has written it."""
        if self._sequence is None:
            header = _unpack(GATE_HEADER, self._memory.read(self._layout.gate, GATE_HEADER.words))
            self._sequence, self._heartbeat = header["sequence"], header["heartbeat"]
            self._category = self._category or (header["category"], header["category_sequence"])
        return self._sequence

    def _has_restarted(self, name: str, header: dict[str, int]) -> bool:
        """Return True if a sequence number went back. What comes next is read from its start."""
        last, read = header[f"{name}_sequence"], self._read.get(name, 0)
        restarted = read != 0 and (last == 0 or (last - read) % 65535 > 32767)
        if restarted:
            self._read[name] = 0
        return restarted

    def _new(
        self, name: str, header: dict[str, int], record: Record, place: Callable[[int], int]
    ) -> tuple[list[dict[str, int]], int]:
        """Return the slots of a ring that were written since the last call, and how many of them are lost."""
        last = header[f"{name}_sequence"]
        read = self._read.get(name, last)
        sequences: list[int] = []
        while read != last != 0 and len(sequences) < 65535:
            read = registers.next_sequence(read)
            sequences.append(read)
        slots = [_unpack(record, self._memory.read(place(number), record.words)) for number in self._held(sequences)]
        kept = [slot for slot, number in zip(slots, self._held(sequences), strict=True) if slot["sequence"] == number]
        self._read[name] = last
        return kept, len(sequences) - len(kept)

    def _held(self, sequences: list[int]) -> list[int]:
        """Return the sequence numbers that the ring still holds."""
        return sequences[-self._layout.slots :]


def _unpack(record: Record, words: tuple[int, ...]) -> dict[str, int]:
    return {name: int(value) for name, value in record.unpack(words).items()}


class _Patient:
    """A memory whose PLC is left alone for a while after an error: a call to a dead PLC takes all of its time limit.

    A gate makes several calls in a step, and has to hear its line in between.
    """

    def __init__(self, memory: WordMemory, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._error: PlcError | None = None
        self._retry_at = float("-inf")

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
            raise PlcError(str(self._error))
        try:
            answer = call()
        except PlcError as error:
            self._error, self._retry_at = error, self._clock() + _PAUSE_S
            raise
        self._error = None
        return answer
