"""A gate on a test bench whose arm is a PLC in memory."""

from patchline import config
from patchline.gate.belt import Belt
from patchline.gate.following import Following
from patchline.gate.metrics import PlcMetrics
from patchline.gate.plc_output import PlcOutput
from patchline.plc.register_map import Result
from patchline.plc.station import Station
from patchline.protocol.gate_messages import Act, OutcomeRecord
from tests.gate_bench import Bench
from tests.plc_memory import LAYOUT, Plc

SETTINGS = config.Plc(categories={"c": 1})


class PlcBench(Bench):
    """A gate with a PLC in memory. The parts pass the arm 1000 counts after the trigger."""

    def __init__(self, folder, **rules):
        self.rules = config.PlcRules(**{"arm": 1000, "window": 100, "heartbeat_ms": 100, "poll_ms": 20} | rules)
        self.plc = Plc()
        self.plc.write_header(version=1, state=1)
        super().__init__(folder)

    def make_belt(self):
        return Belt(self.rules, SETTINGS.codes, 100)

    def make_output(self):
        clock, now_ms = self.clocks()
        station = Station(self.plc.memory, LAYOUT, clock)
        metrics = PlcMetrics(self.metrics.registry, "l", clock)
        follower = Following("l", "g", station, self.belt, self.gate, SETTINGS, metrics, now_ms)
        return PlcOutput(station, 0.1, 1000, clock), follower

    def move(self, count):
        """The belt moves to a count of the encoder."""
        self.plc.write_header(count=count)
        self.now += 0.05
        self.step()

    def result(self, number):
        slot = self.plc.result(number)
        return (Result(slot["result"]), slot["code"]) if slot["number"] == number and slot["sequence"] else None

    def reasons(self):
        return [act.because for act in self.link.acts if isinstance(act, Act) and act.state == "done"]

    def outcomes(self):
        return [(record.number, record.outcome) for record in self.link.acts if isinstance(record, OutcomeRecord)]
