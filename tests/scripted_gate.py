"""A gate that is a script, for a simulated belt: it knows from the picture whether a part passes."""

from dataclasses import dataclass, field

from patchline.plc import encoder
from patchline.plc import register_map as registers
from patchline.plc.register_map import Code, GateState, Layout, Result
from patchline.plc.words import WordMemory

GOOD, BAD = "good", "bad"


@dataclass
class ScriptedGate:
    """Writes what a gate writes: a heartbeat every 100 ms, and for each part a result after some time."""

    memory: WordMemory
    layout: Layout
    delay_s: float = 0.2
    state: GateState = GateState.READY
    version: int = registers.VERSION
    is_alive: bool = True
    accepts_all: bool = False
    heartbeat: int = 0
    beat_at: float = 0.0
    sequence: int = 0
    category_sequence: int = 0
    distance: int | None = None  # from the trigger to the arm; None: the PLC knows
    waiting: list = field(default_factory=list)

    def step(self, now, shots):
        self.waiting += [(now + self.delay_s, shot) for shot in shots]
        if not self.is_alive:
            return
        if now >= self.beat_at:
            self.beat_at = now + 0.1 - 1e-9
            self.beat()
        while self.waiting and self.waiting[0][0] <= now:
            self.write(self.waiting.pop(0)[1])

    def beat(self):
        self.heartbeat = registers.next_sequence(self.heartbeat)
        values = {"version": self.version, "state": self.state, "heartbeat": self.heartbeat}
        values |= {"slots": self.layout.slots, "category_sequence": self.category_sequence}
        self.memory.write(self.layout.gate, registers.GATE_HEADER.pack(values))

    def write(self, shot, number=None):
        self.sequence = registers.next_sequence(self.sequence)
        passes = self.accepts_all or shot.picture == GOOD
        count = registers.NO_COUNT if self.distance is None else encoder.wrap(shot.count + self.distance)
        values = {
            "number": shot.number if number is None else number,
            "result": Result.ACCEPT if passes else Result.REJECT,
            "code": Code.PASS if passes else Code.FAIL,
            "count": count,
            "sequence": self.sequence,
        }
        self.memory.write(self.layout.result(values["number"]), registers.RESULT.pack(values))
