"""The simulated belt and its PLC against a gate that is a script. Nothing waits: time is passed in."""

import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from patchline.plant import motion
from patchline.plant.belt import Belt, Geometry
from patchline.plant.line import CYCLE_S, HEARTBEAT_S, Line, Shot, plc_settings
from patchline.plc import register_map as registers
from patchline.plc.register_map import Bin, GateState, Layout, Result
from patchline.plc.words import MemoryWords
from tests.scripted_gate import BAD, GOOD, ScriptedGate

GEOMETRY = Geometry(arm_mm=500.0, sensor_mm=560.0, end_mm=700.0)
LAYOUT = Layout(gate=0, plc=1000, slots=64)
SPEED_MM_S = 1000.0
DISTANCE = plc_settings(GEOMETRY, LAYOUT, SPEED_MM_S).distance


class Plant:
    """A belt of parts, every third one bad, with a scripted gate and a ledger."""

    def __init__(self, seed=0, parts=40, first_count=0, target=None, **gate):
        rng = random.Random(seed)
        self.ledger = []
        self.memory = MemoryWords()
        self.belt = Belt(GEOMETRY, lambda index: BAD if index % 3 == 0 else GOOD, rng, first_count, parts)
        target = target or motion.steady(SPEED_MM_S)
        self.shown = []
        self.line = Line(self.belt, plc_settings(GEOMETRY, LAYOUT, SPEED_MM_S), target, self.record, self.shown.append)
        self.line.start_plc(self.memory)
        self.gate = ScriptedGate(self.memory, LAYOUT, **gate)

    @property
    def now(self):
        return self.line.cycles * CYCLE_S

    def record(self, kind, **values):
        self.ledger.append({"kind": kind, "at": self.now, **values})

    def step(self):
        self.gate.step(self.now, self.line.cycle())

    def run(self, until=None, limit_s=60.0):
        while not (until() if until else self.line.is_empty):
            assert self.now < limit_s, "the belt does not come to its end"
            self.step()
        return self

    def of(self, kind):
        return [event for event in self.ledger if event["kind"] == kind]

    def bins(self):
        return {event["part"]: event["bin"] for event in self.of("bin")}

    def in_bin(self, where):
        return {part for part, actual in self.bins().items() if actual is where}

    def coil_is_on(self):
        return bool(self.of("coil")) and self.of("coil")[-1]["on"]


GOOD_PARTS = {index for index in range(40) if index % 3}


@pytest.mark.parametrize("seed", range(8))
def test_each_part_lies_in_the_bin_of_its_result(seed):
    plant = Plant(seed).run()
    assert plant.in_bin(Bin.GOOD) == GOOD_PARTS
    assert len(plant.bins()) == 40


@pytest.mark.parametrize("seed", range(8))
def test_stops_and_reversals_change_no_bin_and_number_no_part_twice(seed):
    plant = Plant(seed, target=motion.varied(SPEED_MM_S, random.Random(seed), CYCLE_S)).run()
    assert plant.in_bin(Bin.GOOD) == GOOD_PARTS
    assert [event["part"] for event in plant.of("trigger")] == list(range(40))


def test_the_part_before_the_camera_is_the_one_that_is_triggered():
    plant = Plant(target=motion.varied(SPEED_MM_S, random.Random(0), CYCLE_S))
    plant.belt.picture_of = str
    seen = []
    while not plant.line.is_empty:
        plant.step()
        seen += plant.shown[-1:] * (len(plant.of("trigger")) - len(seen))
    assert seen == [str(event["part"]) for event in plant.of("trigger")]
    assert len(seen) == 40


def moves():
    speeds = st.floats(-0.5, 1.0).map(lambda share: share * SPEED_MM_S)
    return st.lists(st.tuples(speeds, st.integers(1, 120)), max_size=12)


def follow(moves):
    for speed, cycles in moves:
        yield from [speed] * cycles
    yield from motion.steady(SPEED_MM_S)


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(moves(), st.integers(0, 10**6), st.sampled_from([0, 2**31 - 3000, -(2**31) + 1, -5000]))
def test_no_motion_brings_a_bad_part_into_the_good_bin(moves, seed, first_count):
    plant = Plant(seed, parts=20, first_count=first_count, target=follow(moves)).run(limit_s=120)
    good = {index for index in range(20) if index % 3}
    assert plant.in_bin(Bin.GOOD) == good


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    st.lists(st.tuples(st.integers(1, 250), st.sampled_from(["freeze", "restart", "gate", "blind"])), max_size=6),
    st.integers(0, 10**6),
)
def test_no_fault_brings_a_part_without_an_accept_into_the_good_bin(faults, seed):
    plant = Plant(seed, parts=60, target=motion.varied(SPEED_MM_S, random.Random(seed), CYCLE_S))
    for cycles, fault in faults:
        end = plant.line.cycles + cycles
        if fault == "freeze":
            plant.line.freeze_plc(True)
        elif fault == "restart":
            plant.line.stop_plc()
        elif fault == "gate":
            plant.gate.is_alive = False
        else:
            plant.gate.state = GateState.BLIND
        plant.run(lambda end=end: plant.line.cycles >= end, limit_s=600)
        plant.gate.is_alive, plant.gate.state = True, GateState.READY
        if fault == "restart":
            plant.memory.words[:] = [0] * len(plant.memory.words)
            plant.line.start_plc(plant.memory)
        plant.line.freeze_plc(False)
        plant.run(lambda end=end: plant.line.cycles >= end + 50, limit_s=600)
    plant.run(limit_s=600)
    numbers = {event["number"]: event["part"] for event in plant.of("trigger")}
    accepted = {numbers[event["number"]] for event in plant.of("result") if event["result"] is Result.ACCEPT}
    assert plant.in_bin(Bin.GOOD) <= accepted
    assert len(plant.bins()) == 60


def test_the_count_wraps_without_notice():
    plant = Plant(first_count=2**31 - 2500).run()
    assert plant.in_bin(Bin.GOOD) == GOOD_PARTS
    counts = [event["count"] for event in plant.of("trigger")]
    assert min(counts) < -(2**31) + 10_000 < 2**31 - 10_000 < max(counts)


def test_a_belt_without_a_gate_rejects_everything():
    plant = Plant(is_alive=False).run()
    assert plant.in_bin(Bin.REJECT) == set(range(40))


@pytest.mark.parametrize(
    "gate",
    [
        {"version": 2},
        {"state": GateState(0)},
        {"state": GateState.READY | GateState.FAULT},
        {"state": GateState.READY | GateState.BLIND},
        {"category_sequence": 1},
        {"delay_s": 0.8},
        {"distance": DISTANCE + 400},
    ],
    ids=str,
)
def test_a_gate_that_is_not_fit_or_too_late_has_everything_rejected(gate):
    plant = Plant(accepts_all=True, **gate).run()
    assert plant.in_bin(Bin.REJECT) == set(range(40))


def test_the_count_that_the_gate_gives_for_the_arm_is_checked_and_taken():
    assert Plant(distance=DISTANCE + 3).run().in_bin(Bin.GOOD) == GOOD_PARTS


def test_a_result_with_another_number_in_the_slot_is_no_result():
    plant = Plant(accepts_all=True)
    plant.gate.write = lambda shot: ScriptedGate.write(plant.gate, shot, number=shot.number + LAYOUT.slots)
    assert plant.run().in_bin(Bin.REJECT) == set(range(40))


def test_the_watchdog_has_the_arm_out_within_two_periods_of_the_heartbeat():
    plant = Plant(accepts_all=True)
    plant.run(lambda: plant.coil_is_on())
    plant.gate.is_alive = False
    plant.run(lambda: not plant.of("permit")[-1]["permit"])
    assert 0.17 < plant.now - plant.of("heartbeat")[-1]["at"] < 2 * HEARTBEAT_S - CYCLE_S
    assert plant.of("permit")[-1]["because"] == "watchdog"
    assert not plant.coil_is_on()
    cut_at = plant.now
    plant.run()
    assert all(event["bin"] is Bin.REJECT for event in plant.of("bin") if event["at"] > cut_at + 0.3)


def test_a_header_that_stood_before_the_plc_started_is_no_heartbeat():
    plant = Plant(is_alive=False, parts=5)
    plant.gate.beat()
    plant.run()
    assert not any(event["permit"] for event in plant.of("permit"))


def test_a_gate_that_returns_is_believed_again():
    plant = Plant(accepts_all=True)
    plant.gate.is_alive = False
    plant.run(lambda: plant.now > 1.0)
    plant.gate.is_alive = True
    assert plant.run().in_bin(Bin.GOOD)


@pytest.mark.parametrize("pictures", [(GOOD, BAD), (BAD, GOOD)], ids=str)
def test_of_two_opposite_results_the_reject_wins(pictures):
    plant = Plant(parts=1)
    write = plant.gate.write

    def contradict(shot):
        for picture in pictures:
            write(replace(shot, picture=picture))
            plant.line.cycle()

    plant.gate.write = contradict
    assert plant.run().in_bin(Bin.REJECT) == {0}
    results = [event["result"] for event in plant.of("result")]
    assert results == [Result.ACCEPT if picture == GOOD else Result.REJECT for picture in pictures]


def test_a_frozen_plc_loses_its_outputs_within_two_cycles():
    plant = Plant(accepts_all=True)
    plant.run(lambda: plant.coil_is_on())
    plant.line.freeze_plc(True)
    for _ in range(2):
        plant.step()
    assert not plant.coil_is_on()


def test_a_plc_that_restarts_goes_on_with_its_numbers_and_rejects_what_lay_on_the_belt():
    plant = Plant(accepts_all=True)
    plant.run(lambda: len(plant.of("trigger")) == 10)
    plant.line.stop_plc()
    plant.run(lambda: not plant.coil_is_on())
    plant.memory.words[:] = [0] * len(plant.memory.words)
    plant.line.start_plc(plant.memory)
    restarted_at = plant.now
    plant.run()
    numbers = [event["number"] for event in plant.of("trigger")]
    assert numbers == list(range(1, len(numbers) + 1))
    known = {event["part"] for event in plant.of("trigger") if event["at"] > restarted_at}
    fallen_later = {event["part"] for event in plant.of("bin") if event["at"] > restarted_at + 0.5}
    assert plant.in_bin(Bin.GOOD) & fallen_later <= known | {event["part"] for event in plant.of("trigger")[:3]}


def test_a_plc_that_counts_from_1_again_lets_no_part_pass_by_the_result_of_an_earlier_one():
    plant = Plant(accepts_all=True, distance=DISTANCE, delay_s=0.3)
    plant.run(lambda: len(plant.of("trigger")) == 4)
    plant.line.stop_plc(keeps_memory=False)
    plant.memory.words[:] = [0] * len(plant.memory.words)
    plant.line.start_plc(plant.memory)
    while not plant.line.is_empty:
        plant.line.cycle()
        plant.gate.step(plant.now, [])  # the camera is dead: only results of the parts before come
    assert plant.gate.sequence == 4
    assert [event["number"] for event in plant.of("trigger")][:8] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert plant.in_bin(Bin.GOOD) == set()


def test_each_part_is_confirmed_once_with_the_bin_in_which_it_lies():
    plant = Plant(target=motion.varied(SPEED_MM_S, random.Random(3), CYCLE_S)).run()
    numbers = {event["number"]: event["part"] for event in plant.of("trigger")}
    confirmed = [(numbers[event["number"]], event["bin"]) for event in plant.of("confirmation")]
    assert dict(confirmed) == plant.bins()
    assert len(confirmed) == 40
    assert plant.of("stranger") == []


def test_the_gate_reads_triggers_and_confirmations_in_the_rings():
    plant = Plant(parts=5).run()
    header = registers.PLC_HEADER.unpack(plant.memory.read(LAYOUT.plc, registers.PLC_HEADER.words))
    assert (header["version"], header["trigger_sequence"], header["confirmation_sequence"]) == (1, 5, 5)
    for sequence, event in enumerate(plant.of("trigger"), 1):
        words = plant.memory.read(LAYOUT.trigger(sequence), registers.TRIGGER.words)
        slot = registers.TRIGGER.unpack(words)
        assert (slot["number"], slot["count"], slot["sequence"]) == (event["number"], event["count"], sequence)
    for sequence, event in enumerate(plant.of("confirmation"), 1):
        slot = registers.CONFIRMATION.unpack(
            plant.memory.read(LAYOUT.confirmation(sequence), registers.CONFIRMATION.words)
        )
        assert (slot["number"], slot["bin"], slot["sequence"]) == (event["number"], event["bin"], sequence)


def test_nothing_is_accepted_between_a_product_change_and_its_acknowledgement():
    plant = Plant(accepts_all=True)
    plant.run(lambda: plant.coil_is_on())
    plant.line.change_product(7)
    plant.step()
    plant.step()
    assert plant.of("permit")[-1]["because"] == "product change"
    header = registers.PLC_HEADER.unpack(plant.memory.read(LAYOUT.plc, registers.PLC_HEADER.words))
    assert (header["category"], header["category_sequence"]) == (7, 1)
    plant.gate.category_sequence = 1
    plant.run(lambda: plant.of("permit")[-1]["permit"])


def test_the_line_that_the_gate_stops_stands_until_the_operator_starts_it():
    plant = Plant()
    plant.run(lambda: plant.now > 0.5)
    plant.gate.state = GateState.READY | GateState.STOP_LINE
    plant.run(lambda: plant.belt.speed_mm_s == 0.0, limit_s=3.0)
    plant.gate.state = GateState.READY
    stands_until = plant.now + 1.0
    plant.run(lambda: plant.now > stands_until)
    assert plant.belt.speed_mm_s == 0.0
    plant.line.start()
    plant.run()
    assert plant.in_bin(Bin.GOOD) == GOOD_PARTS


def test_a_result_that_lay_in_the_slot_before_the_trigger_belongs_to_an_earlier_part():
    plant = Plant(accepts_all=True, parts=10)
    for number in range(1, 11):
        plant.gate.write(Shot(number, 0, GOOD))
    plant.gate.write = lambda shot: None
    assert plant.run().in_bin(Bin.REJECT) == set(range(10))
