"""The register map for people: a table for the manual, and a CSV file for the PLC's programmer."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from patchline.plc import register_map as registers
from patchline.plc.register_map import Layout, Record

_HEADINGS = ("word", "name", "type", "access", "meaning")
_TYPES = {"word": "UINT", "dword": "UDINT", "dint": "DINT", "real": "REAL"}
_Row = tuple[int, str, str, str, str]


def as_csv(layout: Layout) -> str:
    """Return every word of both areas as CSV: number of the word, name, type of IEC 61131-3, access and meaning."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADINGS)
    writer.writerows(_rows(layout, layout.slots))
    return text.getvalue()


def as_markdown(layout: Layout) -> str:
    """Return the map as tables, with one slot of each ring."""
    first = layout.gate + registers.GATE_HEADER.words
    lines = [
        f"Areas: the gate writes words {layout.gate} to {layout.gate + layout.gate_words - 1}, the PLC words "
        f"{layout.plc} to {layout.plc + layout.plc_words - 1}.",
        f"The slot of part number N starts at word {first} + (N mod {layout.slots}) x {registers.RESULT.words}.",
        f"The slot of trigger S starts at word {layout.plc + registers.PLC_HEADER.words} + (S mod {layout.slots}) x "
        f"{registers.TRIGGER.words},",
        f"that of confirmation S at word {layout.confirmation(0)} + (S mod {layout.slots}) x "
        f"{registers.CONFIRMATION.words}; S is the sequence number.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in _rows(layout, 1)),
    ]
    return "\n".join(lines) + "\n"


def _rows(layout: Layout, slots: int) -> Iterator[_Row]:
    reads, writes = "PLC reads", "PLC writes"
    yield from _record("gate", layout.gate, registers.GATE_HEADER, reads)
    for number in range(slots):
        yield from _record(f"result[{number}]", layout.result(number), registers.RESULT, reads)
    yield from _record("plc", layout.plc, registers.PLC_HEADER, writes)
    for number in range(slots):
        yield from _record(f"trigger[{number}]", layout.trigger(number), registers.TRIGGER, writes)
    for number in range(slots):
        yield from _record(f"confirmation[{number}]", layout.confirmation(number), registers.CONFIRMATION, writes)


def _record(name: str, start: int, record: Record, access: str) -> Iterator[_Row]:
    for field in record.fields:
        if not field.name.startswith("reserved"):
            yield start + record.offset(field.name), f"{name}.{field.name}", _TYPES[field.kind], access, field.meaning
