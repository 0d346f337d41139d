"""Whether the areas that a gate and its PLC share are as the gate's configuration says."""

from __future__ import annotations

from patchline.plc import register_map as registers
from patchline.plc.register_map import PLC_HEADER, RESULT, Layout
from patchline.plc.words import PlcError, PlcRefusal, WordMemory

_ADVICE = (
    "make the PLC's memory as large as patchline registers says, or change plc.gate_start, plc.plc_start or plc.slots"
)


def read_plc_header(memory: WordMemory, layout: Layout) -> dict[str, int]:
    """Return the header of the PLC's area.

    Raises:
        PlcError: the PLC has not answered, or its area is of another version or size.
    """
    header = PLC_HEADER.unpack_integers(memory.read(layout.plc, PLC_HEADER.words))
    if header["version"] not in (0, registers.VERSION):
        raise PlcError(f"the PLC's area has version {header['version']}, this build knows {registers.VERSION}")
    if header["slots"] not in (0, layout.slots):
        raise PlcError(
            f"the PLC's rings have {header['slots']} slots (plc.slots in its area), but plc.slots here is "
            f"{layout.slots}; give both the same number"
        )
    return header


def check_plc_area(memory: WordMemory, layout: Layout) -> None:
    """Raise PlcError unless the area that the PLC writes can be read to its end."""
    end = layout.plc + layout.plc_words
    try:
        read_plc_header(memory, layout)
        memory.read(end - registers.CONFIRMATION.words, registers.CONFIRMATION.words)
    except PlcRefusal as error:
        raise _too_small("the PLC's area (triggers and confirmations)", layout.plc, end, "read", error) from error


def check_gate_area(memory: WordMemory, layout: Layout) -> None:
    """Raise PlcError unless the area that the gate writes can be read and written to its end.

    What is written is a reserved word of the last slot: a PLC that was frozen may do it later, and must lose no result.
    """
    end = layout.gate + layout.gate_words
    verb = "read"
    try:
        memory.read(layout.gate, registers.GATE_HEADER.words)
        words = memory.read(end - RESULT.words, RESULT.words)
        verb = "written"
        reserved = RESULT.offset("reserved_1")
        memory.write(end - RESULT.words + reserved, words[reserved : reserved + 1])
    except PlcRefusal as error:
        raise _too_small("the gate's area (results)", layout.gate, end, verb, error) from error


def _too_small(area: str, start: int, end: int, verb: str, error: PlcRefusal) -> PlcRefusal:
    return PlcRefusal(f"{area}, words {start} to {end - 1}, cannot be {verb} to its end: {error}; {_ADVICE}")
