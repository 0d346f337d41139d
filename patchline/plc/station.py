"""The gate's side of the register map: it writes results and signs of life, and reads what the PLC says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from patchline.plc import areas
from patchline.plc import register_map as registers
from patchline.plc.patient import PatientMemory
from patchline.plc.register_map import GATE_HEADER, RESULT, GateState, Layout, PlcState, Value
from patchline.plc.rings import Ring
from patchline.plc.words import MAX_WORDS, PlcError, WordMemory

_SLOTS_AT_ONCE = MAX_WORDS // RESULT.words


@dataclass(frozen=True)
class Result:
    """What the PLC is to do with a part. See `register_map.RESULT`."""

    number: int
    result: registers.Result
    code: int  # one of `register_map.Code`
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
        overwritten: the numbers of the parts of these triggers, oldest first: a PLC counts its parts one by one.
        restarted: the PLC counts its triggers or confirmations anew.
        failure: why the triggers and confirmations after these were not read. They come with the next report.
    """

    state: PlcState
    heartbeat: int
    count: int
    category: int
    category_sequence: int
    triggers: tuple[Trigger, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    lost: int = 0
    overwritten: tuple[int, ...] = ()
    restarted: bool = False
    failure: str | None = None


class Station:
    """One gate and one PLC. Used by one thread.

    Both areas are checked to their ends before their first use, and again after each error: it may be another PLC then.
    The events of the PLC are read from where the gate before has stopped, which stands in the header of its area.

    Args:
        memory: the words that they share.
        layout: where the areas are.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, memory: WordMemory, layout: Layout, clock: Callable[[], float]) -> None:
        self._memory = PatientMemory(memory, clock)
        self._layout = layout
        self._rings = {
            "trigger": Ring(registers.TRIGGER, layout.trigger, layout.slots),
            "confirmation": Ring(registers.CONFIRMATION, layout.confirmation, layout.slots),
        }
        self._has_place = False  # in the rings
        self._unnamed = 0  # overwritten triggers before the one that comes next
        self._gate_area_checked = self._plc_area_checked = -1  # number of errors of the memory before the check
        self._sequence: int | None = None  # of the last result; None: not read yet
        self._told: dict[int, Result] = {}
        self._looks = True  # at the header before the next result or heartbeat: another gate may have written
        self._heartbeat = 0
        self._seen_heartbeat: int | None = None  # that of any gate
        self._echo = 0
        self._category: tuple[int, int] | None = None  # code and sequence number of the acknowledged product change
        self.owes_answer = False  # a product change is acknowledged, and the PLC does not know it yet

    def write_result(self, result: Result) -> None:
        """Write a result into the slot of its part, and read it back. Writing it again changes nothing for the part.

        A sequence number is never used again: what was written in vain may be there all the same.

        Raises:
            PlcError: it is not known whether the PLC has it.
        """
        self._sequence = sequence = registers.next_sequence(self._last_sequence())
        words = RESULT.pack({**vars(result), "sequence": sequence})
        start = self._layout.result(result.number)
        self._memory.write(start, words)
        if self._memory.read(start, RESULT.words) != words:
            raise PlcError(f"the PLC has other words in its slot of part {result.number} than those just written")

    def beat(self, state: GateState, counts: Mapping[str, int]) -> None:
        """Write the header: the state, the next heartbeat, and other values by their names in `GATE_HEADER`.

        Raises:
            PlcError: it is not known whether the PLC has it.
        """
        sequence = self._last_sequence()
        self._find_place()
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
            **{f"{name}_sequence": ring.sequence for name, ring in self._rings.items()},
            **{name: min(count, 65535) for name, count in counts.items()},
        }
        self._memory.write(self._layout.gate, GATE_HEADER.pack(values))
        self._heartbeat, self._seen_heartbeat, self.owes_answer = heartbeat, heartbeat, False

    def resume(self) -> None:
        """Go on where the PLC's memory stands: another gate may have written in between."""
        self._looks = True

    def hears_ready_gate(self) -> bool:
        """Return True if a gate that says it is ready has beaten since the last call, and since this one has.

        Raises:
            PlcError: the PLC has not answered.
        """
        header = self._read_gate_header()
        before, self._seen_heartbeat = self._seen_heartbeat, header["heartbeat"]
        return header["heartbeat"] not in (0, before) and bool(header["state"] & GateState.READY)

    def told(self, numbers: Collection[int]) -> dict[int, Result]:
        """Return what gates have told the PLC about parts. A part without a result is left out.

        Raises:
            PlcError: the PLC has not answered.
        """
        slots = [_result(self._memory.read(self._layout.result(number), RESULT.words)) for number in numbers]
        return {slot.number: slot for slot in slots if slot is not None and slot.number in numbers}

    def take_told(self) -> dict[int, Result]:
        """Return once what the ring of results held when this gate found that another one had written.

        The results are by part number. They come with the first heartbeat or result after that.
        """
        told, self._told = self._told, {}
        return told

    def acknowledge(self, category: int, sequence: int) -> None:
        """Acknowledge a product change. `beat` tells it to the PLC."""
        self._category, self.owes_answer = (category, sequence), True

    def poll(self) -> Report:
        """Read what the PLC says.

        The first report has the triggers and confirmations that the gate before has not read. If there was none, it has
        neither: it only finds their place.

        Raises:
            PlcError: the PLC has not answered, or its area is of another version or size. Nothing was read then.
        """
        self._check_plc_area()
        self._find_place()
        header = self._read_plc_header()
        lasts = {name: header[f"{name}_sequence"] for name in self._rings}
        anew = {name: ring.begins_anew(lasts[name]) for name, ring in self._rings.items()}
        events: dict[str, list[dict[str, int] | None]] = {name: [] for name in self._rings}
        failure = None
        try:
            for name, ring in self._rings.items():
                for slot in ring.read(self._memory, lasts[name]):
                    events[name].append(slot)
        except PlcError as error:
            failure = str(error)
        self._echo = header["heartbeat"]
        triggers, confirmations = events["trigger"], events["confirmation"]
        return Report(
            PlcState(header["state"]),
            header["heartbeat"],
            header["count"],
            header["category"],
            header["category_sequence"],
            tuple(Trigger(slot["number"], slot["count"], slot["category"]) for slot in triggers if slot),
            tuple(Confirmation(slot["number"], slot["count"], slot["bin"]) for slot in confirmations if slot),
            triggers.count(None) + confirmations.count(None),
            self._overwritten(triggers, any(anew.values())),
            any(anew.values()),
            failure,
        )

    def close(self) -> None:
        """End the connection."""
        self._memory.close()

    def _overwritten(self, triggers: Sequence[dict[str, int] | None], restarted: bool) -> tuple[int, ...]:
        """Return the numbers of the triggers that are missing. Those before the first one of all have none."""
        numbers: list[int] = []
        if restarted:
            self._unnamed = 0
        for slot in triggers:
            if slot is None:
                self._unnamed += 1
                continue
            numbers += range(max(1, slot["number"] - self._unnamed), slot["number"])
            self._unnamed = 0
        return tuple(numbers)

    def _find_place(self) -> None:
        """Find the place in the rings: that of the gate before, or the end if there was none."""
        if self._has_place:
            return
        gate, plc = self._read_gate_header(), self._read_plc_header()
        there_was_one = gate["version"] == registers.VERSION and gate["heartbeat"]
        for name, ring in self._rings.items():
            ring.begin((gate if there_was_one else plc)[f"{name}_sequence"])
        self._has_place = True

    def _last_sequence(self) -> int:
        """Return the number of the last result, also if an earlier process or another gate has written it."""
        self._check_plc_area()
        self._check_gate_area()
        if self._sequence is None or self._looks:
            header = self._read_gate_header()
            if self._sequence is None or header["heartbeat"] != self._heartbeat:  # else nobody else has written
                self._sequence, self._heartbeat = self._find_newest(header["sequence"]), header["heartbeat"]
                self._category = self._category or (header["category"], header["category_sequence"])
            self._looks = False
        return self._sequence

    def _read_gate_header(self) -> dict[str, int]:
        return GATE_HEADER.unpack_integers(self._memory.read(self._layout.gate, GATE_HEADER.words))

    def _find_newest(self, sequence: int) -> int:
        """Return the number of the newest result in the ring: the header may be older, or was never written."""
        ahead, told = [0], {}
        for number in range(0, self._layout.slots, _SLOTS_AT_ONCE):
            count = min(_SLOTS_AT_ONCE, self._layout.slots - number)
            words = self._memory.read(self._layout.result(number), count * RESULT.words)
            written = [last for last in words[RESULT.words - 1 :: RESULT.words] if last]
            ahead += [step for last in written if (step := (last - sequence) % 65535) < 32768]
            for start in range(0, len(words), RESULT.words):
                if (result := _result(words[start : start + RESULT.words])) is not None:
                    told[result.number] = result
        self._told = told
        return (sequence + max(ahead) - 1) % 65535 + 1 if max(ahead) else sequence

    def _read_plc_header(self) -> dict[str, int]:
        try:
            return areas.read_plc_header(self._memory, self._layout)
        except PlcError:
            self._plc_area_checked = -1  # no sign of life either, until it is as it should be
            raise

    def _check_plc_area(self) -> None:
        if self._plc_area_checked != self._memory.errors:
            areas.check_plc_area(self._memory, self._layout)
            self._plc_area_checked = self._memory.errors

    def _check_gate_area(self) -> None:
        if self._gate_area_checked != self._memory.errors:
            areas.check_gate_area(self._memory, self._layout)
            self._gate_area_checked = self._memory.errors


def _result(words: Sequence[int]) -> Result | None:
    """Return the content of a slot; None if it was never written."""
    slot = RESULT.unpack(words)
    if not slot["sequence"] or slot["result"] not in (registers.Result.ACCEPT, registers.Result.REJECT):
        return None
    result = registers.Result(int(slot["result"]))
    return Result(int(slot["number"]), result, int(slot["code"]), float(slot["score"]), int(slot["count"]))
