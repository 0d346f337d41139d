"""A belt and its PLC, cycle by cycle. The PLC can freeze and restart; the belt goes on meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from patchline.plant.belt import Belt, Geometry, Inputs, Part
from patchline.plant.plc_program import Memory, Outputs, PlcProgram, Retained, Settings
from patchline.plc.register_map import Layout

CYCLE_S = 0.01
HEARTBEAT_S = 0.1  # period of the gate's
_OUTPUT_CYCLES = 2  # after which output modules switch off what the PLC has not set
_JITTER = 2  # counts between two readings
_MARGIN_MM = 1.0
_WRITE_S = 0.05  # an action takes less than this to reach the PLC
_POSITION_CYCLES = 10  # between two records of the belt's position


@dataclass(frozen=True)
class Shot:
    """A picture that the camera is to take: of which part, and what it shows."""

    number: int
    count: int
    picture: str


def plc_settings(geometry: Geometry, layout: Layout, speed_mm_s: float) -> Settings:
    """Return what a PLC's programmer would measure at this belt, for its highest speed."""
    step_mm = speed_mm_s * CYCLE_S
    half_mm = geometry.part_mm / 2

    def counts(length_mm: float) -> int:
        return math.ceil(length_mm * geometry.counts_per_mm)

    return Settings(
        layout=layout,
        distance=counts(half_mm + geometry.arm_mm),
        opens=counts(geometry.reach_mm + geometry.arm_s * speed_mm_s + step_mm + 2 * _MARGIN_MM),
        closes=counts(geometry.reach_mm + 2 * _MARGIN_MM),
        step=counts(step_mm) + _JITTER,
        sensor=counts(geometry.sensor_mm),
        end=counts(geometry.end_mm - geometry.arm_mm + geometry.pitch_mm),
        tolerance=counts((geometry.pitch_mm - 2 * geometry.scatter_mm) / 2 - _MARGIN_MM),
        same_part=counts(geometry.pitch_mm - 2 * geometry.scatter_mm - 5 * _MARGIN_MM),
        watchdog_s=2 * HEARTBEAT_S - 2 * CYCLE_S - geometry.arm_s,  # the arm is out within two periods
    )


def gate_settings(settings: Settings, arm_s: float) -> dict[str, int]:
    """Return the keys of `plc` in the gate's configuration for this belt.

    Args:
        settings: the PLC's.
        arm_s: seconds from the trigger to the arm at full speed.
    """
    layout = settings.layout
    return {
        "gate_start": layout.gate,
        "plc_start": layout.plc,
        "slots": layout.slots,
        "arm": settings.distance,
        "window": settings.opens + round(settings.distance / arm_s * _WRITE_S),
        "sensor": settings.sensor,
        "sensor_window": settings.end,
    }


class Line:
    """The belt, the PLC's inputs and outputs, and the PLC while it runs.

    Args:
        belt: the belt.
        settings: the PLC's settings.
        motion: the target speed for each cycle.
        record: called with the name of an event and its values.
        show: called with the picture of each part that comes into the view of the camera, before the PLC triggers.
    """

    def __init__(
        self,
        belt: Belt,
        settings: Settings,
        motion: Iterator[float],
        record: Callable[..., None],
        show: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._belt, self._settings, self._motion, self._record = belt, settings, motion, record
        self._show = show
        self._in_view: Part | None = None
        self._retained = Retained()
        self._program: PlcProgram | None = None
        self._is_frozen = False
        self._outputs = Outputs()
        self._missed = 0
        self.is_held = False  # the operator has not started the belt yet
        self.cycles = 0

    def start_plc(self, memory: Memory) -> None:
        """Start the PLC's program with an empty memory. It goes on with the numbers that it has retained."""
        self._program, self._is_frozen = PlcProgram(memory, self._settings, self._retained, self._record), False
        self._record("plc", state="runs")

    def stop_plc(self, keeps_memory: bool = True) -> None:
        """Let the PLC lose its power, and what it retains if its battery is empty too."""
        self._program = None
        if not keeps_memory:
            self._retained = Retained()
        self._record("plc", state="off")

    def freeze_plc(self, is_frozen: bool) -> None:
        """Let the PLC's cycle stand, or go on."""
        self._is_frozen = is_frozen
        self._record("plc", state="frozen" if is_frozen else "runs")

    def change_product(self, category: int) -> None:
        """Announce another product to the gate."""
        if self._program is not None:
            self._program.change_product(category)

    def start(self) -> None:
        """Start the belt again after the gate has stopped it."""
        if self._program is not None:
            self._program.start()

    @property
    def is_empty(self) -> bool:
        """Return True if no part will come, and none is on the belt."""
        return self._belt.placed == self._belt.parts and not self._belt.on_belt

    def cycle(self) -> list[Shot]:
        """Let one cycle pass. Return the pictures to take."""
        target = next(self._motion) if self._outputs.run and not self.is_held else 0.0
        coil = self._outputs.coil
        inputs = self._belt.advance(CYCLE_S, coil, target)
        self.cycles += 1
        self._look()
        self._run_plc(inputs)
        if self.cycles % _POSITION_CYCLES == 0:
            self._record("belt", count=inputs.count)
        if self._outputs.coil != coil:
            self._record("coil", on=self._outputs.coil)
        for part, where in self._belt.take_fallen():
            self._record("bin", part=part.index, picture=part.picture, bin=where)
        return self._shots()

    def _look(self) -> None:
        """Show a part that has come into the view of the camera."""
        part = self._belt.part_in_view()
        if part is not None and part is not self._in_view:
            self._show(part.picture)
        self._in_view = part

    def _run_plc(self, inputs: Inputs) -> None:
        """Run the program, or let the output modules notice that it does not run. What the inputs saw is lost then."""
        if self._program is not None and not self._is_frozen:
            self._outputs, self._missed = self._program.cycle(self.cycles * CYCLE_S, inputs), 0
            return
        self._missed += 1
        self._outputs = Outputs(self._outputs.coil and self._missed < _OUTPUT_CYCLES, self._outputs.run)

    def _shots(self) -> list[Shot]:
        shots = []
        for trigger in self._outputs.triggers:
            part = self._belt.part_before_the_camera()
            if part is not None:
                shots.append(Shot(trigger.number, trigger.count, part.picture))
                self._record("trigger", number=trigger.number, count=trigger.count, part=part.index)
        return shots
