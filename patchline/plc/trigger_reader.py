"""The triggers of a PLC, for the process that takes the pictures. It reads beside the gate, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from patchline.plc import areas
from patchline.plc import register_map as registers
from patchline.plc.patient import PatientMemory
from patchline.plc.register_map import Layout
from patchline.plc.rings import Ring
from patchline.plc.station import Trigger
from patchline.plc.words import PlcError, WordMemory


@dataclass(frozen=True)
class TriggerReport:
    """What the PLC says of its triggers.

    Attributes:
        heartbeat: its counter.
        count: the encoder's count now.
        category: code of the product that comes next.
        triggers: since the last report, oldest first; None was overwritten before it was read.
        restarted: the PLC counts its triggers anew.
        failure: why the triggers after these were not read. They come with the next report.
    """

    heartbeat: int
    count: int
    category: int
    triggers: tuple[Trigger | None, ...] = ()
    restarted: bool = False
    failure: str | None = None


class TriggerReader:
    """One PLC. Used by one thread. Its area is checked to its end before the first use, and again after each error.

    Args:
        memory: the words.
        layout: where the areas are.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, memory: WordMemory, layout: Layout, clock: Callable[[], float]) -> None:
        self._memory = PatientMemory(memory, clock)
        self._layout = layout
        self._ring = Ring(registers.TRIGGER, layout.trigger, layout.slots)
        self._has_begun = False
        self._checked = -1  # number of errors of the memory before the check

    def poll(self) -> TriggerReport:
        """Read what is new. The first report has no triggers: it only finds their place.

        Raises:
            PlcError: the PLC has not answered, or its area is of another version or size. Nothing was read then.
        """
        if self._checked != self._memory.errors:
            areas.check_plc_area(self._memory, self._layout)
            self._checked = self._memory.errors
        header = self._read_header()
        last = header["trigger_sequence"]
        if not self._has_begun:
            self._ring.begin(last)
            self._has_begun = True
        restarted = self._ring.begins_anew(last)
        triggers: list[Trigger | None] = []
        failure = None
        try:
            for slot in self._ring.read(self._memory, last):
                triggers.append(Trigger(slot["number"], slot["count"], slot["category"]) if slot else None)
        except PlcError as error:
            failure = str(error)
        return TriggerReport(
            header["heartbeat"], header["count"], header["category"], tuple(triggers), restarted, failure
        )

    def close(self) -> None:
        """End the connection."""
        self._memory.close()

    def _read_header(self) -> dict[str, int]:
        try:
            return areas.read_plc_header(self._memory, self._layout)
        except PlcError:
            self._checked = -1
            raise
