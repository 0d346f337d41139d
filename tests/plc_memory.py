"""A PLC in memory: its words, and its hands."""

from patchline.plc import register_map as registers
from patchline.plc.register_map import CONFIRMATION, GATE_HEADER, PLC_HEADER, RESULT, TRIGGER
from patchline.plc.station import Station
from patchline.plc.words import MemoryWords

LAYOUT = registers.Layout(gate=0, plc=1000, slots=8)


class Plc:
    """The words, and the hands of the PLC."""

    def __init__(self):
        self.memory = MemoryWords()
        self.sequences = {"trigger": 0, "confirmation": 0}
        self.header = {}
        self.now = 0.0

    def station(self):
        return Station(self.memory, LAYOUT, lambda: self.now)

    def write_header(self, **values):
        self.header |= values
        sequences = {f"{name}_sequence": number for name, number in self.sequences.items()}
        self.memory.write(LAYOUT.plc, PLC_HEADER.pack(self.header | sequences))

    def trigger(self, number, count=0, category=0):
        self._event("trigger", TRIGGER, LAYOUT.trigger, {"number": number, "count": count, "category": category})

    def confirm(self, number, bin_, count=0):
        self._event("confirmation", CONFIRMATION, LAYOUT.confirmation, {"number": number, "count": count, "bin": bin_})

    def _event(self, name, record, place, values):
        sequence = self.sequences[name] = registers.next_sequence(self.sequences[name])
        self.memory.write(place(sequence), record.pack(values | {"sequence": sequence}))
        self.write_header()

    def result(self, number):
        return RESULT.unpack(self.memory.read(LAYOUT.result(number), RESULT.words))

    def gate_header(self):
        return GATE_HEADER.unpack(self.memory.read(LAYOUT.gate, GATE_HEADER.words))
