"""The program of a line's PLC, as one cycle after the other: a model for its programmer. Time is passed in.

It numbers the parts at the trigger, follows them by the encoder, and reads what the gate says of each number. The arm's
coil has current only while a part passes that may pass: without current the arm is out, and rejects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from patchline.plant.belt import Inputs
from patchline.plc import encoder
from patchline.plc import register_map as registers
from patchline.plc.register_map import NO_COUNT, Bin, GateState, Layout, PlcState, Result, Value


class Memory(Protocol):
    """The words that the PLC's server shares with the gate."""

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """Return words."""
        ...

    def write(self, start: int, words: Sequence[int]) -> None:
        """Write words at once."""
        ...


@dataclass(frozen=True)
class Settings:
    """What the programmer measures at the line. Counts are those of the encoder.

    Attributes:
        layout: where the areas are.
        distance: from the trigger until the middle of the part is at the arm.
        opens: this many counts before, the arm must begin to move in.
        closes: this many counts after, it may be out again.
        step: the most counts between two cycles, with jitter. A part that is first seen further inside of its window is
            rejected: the arm would move into it.
        sensor: from the trigger to the sensor behind the arm.
        end: from the arm until a part has certainly left the belt.
        tolerance: how far a sensor's count, or the gate's count for the arm, may be off.
        same_part: edges of the trigger that are nearer to each other are of one part.
        watchdog_s: everything is rejected when the gate's heartbeat has stood for this long.
    """

    layout: Layout
    distance: int
    opens: int
    closes: int
    step: int
    sensor: int
    end: int
    tolerance: int
    same_part: int
    watchdog_s: float


@dataclass(frozen=True)
class Trigger:
    """Tells the camera to take a picture of the part that has just arrived."""

    number: int
    count: int


@dataclass(frozen=True)
class Outputs:
    """What a cycle sets: the arm's coil, the drive, and the camera's triggers."""

    coil: bool = False
    run: bool = True
    triggers: tuple[Trigger, ...] = ()


@dataclass
class Tracked:
    """A part between the trigger and the end of the belt.

    Attributes:
        number: its number.
        count: the encoder's count at the trigger.
        old_sequence: that of its slot at the trigger. What has it is the result of an earlier part.
        words: what its slot held last. Most cycles see nothing new there.
        result: what the slot said last.
        rejected: the slot has said reject.
        accept: whether the arm lets it pass. None until it reaches its window.
        seen_in: the bins whose sensors have seen it.
    """

    number: int
    count: int
    old_sequence: int
    words: tuple[int, ...] = ()
    result: Result | None = None
    rejected: bool = False
    accept: bool | None = None
    seen_in: set[Bin] = field(default_factory=set)


@dataclass
class Retained:
    """What a PLC keeps when it restarts. Numbers that come again would give a part the result of another one.

    Attributes:
        parts: the shift register. After a restart its parts are rejected, and confirmed as such.
    """

    number: int = 0
    trigger_sequence: int = 0
    confirmation_sequence: int = 0
    category: int = 0
    category_sequence: int = 0
    parts: list[Tracked] = field(default_factory=list)


Record = Callable[..., None]


class PlcProgram:
    """The program and its variables.

    Args:
        memory: the words that its server shares with the gate.
        settings: the line.
        retained: changed by every part.
        record: called with the name of an event and its values.
    """

    def __init__(self, memory: Memory, settings: Settings, retained: Retained, record: Record) -> None:
        self._memory, self._settings, self._retained, self._record = memory, settings, retained, record
        self._layout = settings.layout
        for part in retained.parts:
            part.accept = False
        self._last_trigger = retained.parts[-1].count if retained.parts else None
        self._count: int | None = None
        self._heartbeat = 0
        self._gate_heartbeat: int | None = None
        self._gate_heard_at = -math.inf
        self._permit: bool | None = None
        self._stop_seen = self._stopped = False

    def cycle(self, now: float, inputs: Inputs) -> Outputs:
        """Run one cycle.

        Args:
            now: seconds.
            inputs: what the sensors have given since the last cycle.
        """
        moved = 0 if self._count is None else encoder.difference(inputs.count, self._count)
        forwards = moved >= 0
        self._count = inputs.count
        gate = self._read_gate(now)
        triggers = [self._track(count) for count in inputs.triggers if forwards and self._is_new(count)]
        for part in self._retained.parts:
            self._read_result(part)
            self._decide(part)
        self._confirm(inputs, forwards)
        self._forget()
        self._write_header(moved)
        return Outputs(self._coil(forwards), self._may_run(gate), tuple(triggers))

    def change_product(self, category: int) -> None:
        """Announce another product. Nothing is accepted until the gate has acknowledged it."""
        self._retained.category = category
        self._retained.category_sequence = registers.next_sequence(self._retained.category_sequence)

    def start(self) -> None:
        """Run again after the gate has stopped the line: the operator's button."""
        self._stopped = False

    # The gate

    def _read_gate(self, now: float) -> dict[str, Value]:
        """Read the gate's header, and decide whether anything may be accepted."""
        header = registers.GATE_HEADER
        gate = header.unpack(self._memory.read(self._layout.gate, header.words))
        heartbeat = int(gate["heartbeat"])
        if heartbeat != self._gate_heartbeat:
            if self._gate_heartbeat is not None:  # whether the first one moves is not known yet
                self._record("heartbeat", value=heartbeat)
                self._gate_heard_at = now
            self._gate_heartbeat = heartbeat
        reason = self._objection(gate, now)
        if (reason is None) != self._permit:
            self._permit = reason is None
            self._record("permit", permit=self._permit, because=reason)
        return gate

    def _objection(self, gate: dict[str, Value], now: float) -> str | None:
        """Return why nothing may be accepted; None if it may."""
        state = GateState(int(gate["state"]))
        if gate["version"] != registers.VERSION:
            return "version"
        if self._watchdog_tripped(now) or not gate["heartbeat"]:
            return "watchdog"
        if GateState.READY not in state or state & (GateState.FAULT | GateState.BLIND):
            return f"state {int(state)}"
        if gate["category_sequence"] != self._retained.category_sequence:
            return "product change"
        return None

    def _watchdog_tripped(self, now: float) -> bool:
        return now - self._gate_heard_at >= self._settings.watchdog_s

    def _may_run(self, gate: dict[str, Value]) -> bool:
        """Return False from the moment when the gate stops the line until the operator starts it again."""
        stop = GateState.STOP_LINE in GateState(int(gate["state"]))
        if stop and not self._stop_seen:
            self._stopped = True
            self._record("stop")
        self._stop_seen = stop
        return not self._stopped

    # Parts

    def _is_new(self, count: int) -> bool:
        """Return False for a part that was here before the belt ran back."""
        return self._last_trigger is None or encoder.difference(count, self._last_trigger) > self._settings.same_part

    def _track(self, count: int) -> Trigger:
        retained = self._retained
        retained.number = (retained.number + 1) % 2**32
        retained.trigger_sequence = registers.next_sequence(retained.trigger_sequence)
        self._last_trigger = count
        slot = registers.RESULT.unpack(self._slot(retained.number))
        retained.parts.append(Tracked(retained.number, count, int(slot["sequence"])))
        words = registers.TRIGGER.pack(
            {"number": retained.number, "count": count, "sequence": retained.trigger_sequence}
        )
        self._memory.write(self._layout.trigger(retained.trigger_sequence), words)
        return Trigger(retained.number, count)

    def _read_result(self, part: Tracked) -> None:
        """Read the slot of a part. A reject stays one, whatever is written later."""
        words = self._slot(part.number)
        if words == part.words:
            return
        part.words, slot = words, registers.RESULT.unpack(words)
        result = self._valid_result(part, slot)
        if result in (None, part.result):
            return
        part.result = result
        part.rejected = part.rejected or result is Result.REJECT
        in_time = part.accept is None
        self._record("result", number=part.number, result=result, code=slot["code"], in_time=in_time)

    def _slot(self, number: int) -> tuple[int, ...]:
        return self._memory.read(self._layout.result(number), registers.RESULT.words)

    def _valid_result(self, part: Tracked, slot: dict[str, Value]) -> Result | None:
        if slot["number"] != part.number or slot["sequence"] == part.old_sequence:
            return None
        if slot["result"] == Result.REJECT:
            return Result.REJECT
        count, arm = int(slot["count"]), encoder.wrap(part.count + self._settings.distance)
        is_here = count == NO_COUNT or abs(encoder.difference(count, arm)) <= self._settings.tolerance
        return Result.ACCEPT if slot["result"] == Result.ACCEPT and is_here else None

    def _decide(self, part: Tracked) -> None:
        """Decide once, when the arm must begin to move. Until the part has passed, a reject still rejects it."""
        inside = self._since_arm(part) + self._settings.opens
        may_pass = part.result is Result.ACCEPT and not part.rejected and bool(self._permit)
        if part.accept is None and inside >= 0:
            part.accept = may_pass and inside <= self._settings.step
            self._record("decision", number=part.number, accept=part.accept, permit=self._permit, late=inside)
        elif part.accept and not may_pass and inside <= self._settings.opens + self._settings.closes:
            part.accept = False
            self._record("withdrawn", number=part.number)

    def _since_arm(self, part: Tracked) -> int:
        """Return how far the belt has moved since the middle of a part was at the arm. Negative: it comes."""
        assert self._count is not None
        return encoder.difference(self._count, part.count) - self._settings.distance

    def _coil(self, forwards: bool) -> bool:
        """Return True while an accepted part passes the arm, and no other one does."""
        before, after = self._settings.opens, self._settings.closes
        if not forwards:
            before, after = after, before
        there = [part for part in self._retained.parts if Bin.REJECT not in part.seen_in]
        passing = [part for part in there if -before <= self._since_arm(part) <= after]
        return bool(passing and self._permit) and all(part.accept for part in passing)

    def _confirm(self, inputs: Inputs, forwards: bool) -> None:
        distances = [(count, Bin.REJECT, self._settings.distance) for count in inputs.pushed]
        if forwards:
            distances += [(count, Bin.GOOD, self._settings.sensor) for count in inputs.sensed]
        for count, where, distance in distances:
            part = self._nearest(count, distance)
            if part is None:
                self._record("stranger", bin=where, count=count)
            elif where not in part.seen_in:
                part.seen_in.add(where)
                self._write_confirmation(part, count, where)

    def _nearest(self, count: int, distance: int) -> Tracked | None:
        """Return the part that a sensor at this distance from the trigger has seen."""

        def error(part: Tracked) -> int:
            return abs(encoder.difference(count, part.count) - distance)

        part = min(self._retained.parts, key=error, default=None)
        return part if part is not None and error(part) <= self._settings.tolerance else None

    def _write_confirmation(self, part: Tracked, count: int, where: Bin) -> None:
        retained = self._retained
        retained.confirmation_sequence = registers.next_sequence(retained.confirmation_sequence)
        values = {"number": part.number, "count": count, "bin": where, "sequence": retained.confirmation_sequence}
        start = self._layout.confirmation(retained.confirmation_sequence)
        self._memory.write(start, registers.CONFIRMATION.pack(values))
        self._record("confirmation", number=part.number, bin=where)

    def _forget(self) -> None:
        """Forget parts that have left the belt. Before that, it may run back."""
        parts = self._retained.parts
        self._retained.parts = [part for part in parts if self._since_arm(part) <= self._settings.end]

    def _write_header(self, moved: int) -> None:
        retained = self._retained
        self._heartbeat = registers.next_sequence(self._heartbeat)
        state = PlcState.ARM_READY | (PlcState.LINE_RUNS if abs(moved) > 2 else PlcState(0))
        state |= PlcState(0) if self._permit else PlcState.WATCHDOG
        values: dict[str, Value] = {
            "version": registers.VERSION,
            "state": state,
            "heartbeat": self._heartbeat,
            "heartbeat_echo": self._gate_heartbeat or 0,
            "count": self._count or 0,
            "slots": self._layout.slots,
            "trigger_sequence": retained.trigger_sequence,
            "confirmation_sequence": retained.confirmation_sequence,
            "category": retained.category,
            "category_sequence": retained.category_sequence,
        }
        self._memory.write(self._layout.plc, registers.PLC_HEADER.pack(values))
