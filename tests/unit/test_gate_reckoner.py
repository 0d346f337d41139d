"""What a gate records of parts on which another one has acted, or nobody has. No broker, no thread, no sleep."""

import pytest
from structlog.testing import capture_logs

from patchline.gate.tracker import TOLD, UNANNOUNCED, UNATTENDED
from patchline.plc import register_map as registers
from patchline.plc.register_map import NO_COUNT, Code, GateState, Result
from patchline.plc.station import Result as Written
from patchline.plc.station import Station
from patchline.protocol.gate_messages import Act, ActState
from patchline.protocol.messages import Decision
from tests.plc_bench import PlcBench
from tests.plc_memory import LAYOUT


class TwoGates(PlcBench):
    """A gate on the bench, and what another gate of its line says to the PLC."""

    def __init__(self, folder, **rules):
        super().__init__(folder, **rules)
        self.other = Station(self.plc.memory, LAYOUT, lambda: self.now)

    def other_beats(self, state=GateState.READY):
        self.other.resume()
        self.other.beat(state, {})

    def other_tells(self, number, result, count=NO_COUNT):
        self.other.write_result(Written(number, result, Code.PASS if result is Result.ACCEPT else 0, 0.0, count))

    def records(self):
        done = [act for act in self.link.acts if isinstance(act, Act) and act.state == "done"]
        return [(act.number, str(act.action), act.because) for act in done]

    def pass_time_beside_other(self, seconds):
        """Let time pass without messages, while the other gate beats."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.other_beats()
            self.step()


BENCH = TwoGates


def test_a_part_that_all_gates_have_forgotten_is_recorded_as_unattended_once_it_is_behind_the_arm(serving):
    serving.plc.trigger(7, count=0)
    serving.part("j", number=7, encoder_count=0)
    serving.step()
    serving.gate.parts.forget_unpinned()  # as after the loss of a queue
    serving.move(1000)
    assert serving.records() == []
    serving.move(1001)
    assert serving.records() == [(7, "reject", UNATTENDED)]
    assert serving.outcomes() == [(7, "unattended")]
    assert serving.result(7) is None  # the PLC has rejected it by itself
    serving.move(1002)
    assert len(serving.records()) == 1


def test_a_part_whose_verdict_is_awaited_behind_the_arm_is_not_recorded_twice(serving):
    serving.plc.trigger(7, count=0)
    serving.part("j", number=7, encoder_count=0)
    serving.move(2500)
    serving.verdict("j", number=7, encoder_count=0)
    serving.move(2501)
    assert [number for number, *_ in serving.records()] == [7]


def test_parts_whose_triggers_were_overwritten_unread_are_recorded_with_their_numbers(serving):
    for number in range(1, 12):
        serving.plc.trigger(number, count=100 * number)
    serving.pass_time(1.5)
    unattended = [number for number, _, because in serving.records() if because == UNATTENDED]
    assert unattended == [1, 2, 3]
    assert [number for number, _, because in serving.records() if because == UNANNOUNCED] == list(range(4, 12))
    value = serving.metrics.registry.get_sample_value
    assert value("patchline_gate_plc_lost_total", {"line": "l"}) == 3


def test_a_part_whose_trigger_was_overwritten_unread_waits_for_its_verdict_if_it_was_announced(serving):
    serving.part("j", number=1, patience_ms=60_000)
    serving.step()
    for number in range(1, 12):
        serving.plc.trigger(number, count=100 * number)
    serving.pass_time(1.0)
    assert [number for number, _, because in serving.records() if because == UNATTENDED] == [2, 3]


def test_parts_that_came_while_no_gate_ran_are_recorded_by_the_next_one(serving):
    serving.plc.trigger(1, count=0)
    serving.part("j", number=1, encoder_count=0)
    serving.verdict("j")
    serving.move(100)
    serving.now += 0.1
    serving.step()
    serving.plc.trigger(2, count=200)
    serving.crash()
    serving.link.acts.clear()
    serving.pass_time(3.0)
    assert serving.records() == [(2, "reject", UNANNOUNCED)]


def test_the_parts_of_before_a_plc_lost_its_memory_are_recorded_and_their_numbers_belong_to_later_ones(serving):
    serving.plc.trigger(1, count=0)
    serving.plc.trigger(2, count=500)
    serving.move(600)
    serving.plc.sequences["trigger"] = 0
    serving.move(700)
    serving.plc.trigger(1, count=5000)
    serving.part("j", number=1, encoder_count=5000)
    serving.verdict("j", number=1, encoder_count=5000)
    serving.act_of_other("k", ActState.DONE, number=2, encoder_count=500)
    serving.move(5010)
    serving.pass_time(11.0)
    acts = [act for act in serving.link.acts if isinstance(act, Act) and act.state == "done"]
    assert [(act.number, act.encoder_count, str(act.action)) for act in acts] == [(1, 5000, "accept"), (1, 0, "reject")]


def test_a_part_that_was_accepted_before_the_gate_saw_that_its_plc_counts_anew_is_not_rejected(serving):
    serving.plc.trigger(1, count=-50_000)
    serving.plc.trigger(2, count=-49_000)
    serving.plc.confirm(1, registers.Bin.GOOD, count=-48_500)
    serving.move(-45_000)
    serving.link.acts.clear()
    serving.part("j", number=1, encoder_count=0)
    serving.verdict("j", number=1, encoder_count=0)
    serving.service.step()
    serving.plc.sequences["trigger"] = 0
    serving.plc.trigger(1, count=0)
    serving.move(10)
    serving.pass_time(2.0)
    assert [record for record in serving.records() if record[0] == 1] == [(1, "accept", "pass")]


def test_a_reject_is_not_compared_with_where_an_earlier_part_of_the_number_was_seen(tmp_path):
    bench = TwoGates(tmp_path, sensor=1500, sensor_window=50)
    bench.pass_time(3.0)
    bench.plc.confirm(1, registers.Bin.GOOD, count=-50_000)
    bench.move(0)
    bench.part("j", number=1, encoder_count=0)
    bench.verdict("j", Decision.FAIL, number=1, encoder_count=0)
    bench.move(10)
    assert bench.outcomes() == []
    bench.memory.close()


@pytest.mark.parametrize("told", [Result.ACCEPT, Result.REJECT])
def test_a_gate_that_takes_over_records_what_the_former_one_has_told_the_plc(bench, told):
    bench.other_beats()
    bench.pass_time(3.0, active=False)
    bench.part("j", number=7, encoder_count=0)
    bench.other_tells(7, told, count=1000)
    bench.other_beats()
    bench.pass_time(0.5, active=False)  # the other one is killed before it announces its act
    bench.plc.write_header(count=1001)
    bench.pass_time(3.0)
    assert bench.records() == [(7, told.name.lower(), TOLD)]
    assert bench.outcomes() == []


def test_a_result_of_an_earlier_part_with_the_number_says_nothing(bench):
    bench.other_beats()
    bench.other_tells(7, Result.ACCEPT, count=1000)
    bench.pass_time(2.0, active=False)
    bench.part("j", number=7, encoder_count=50_000, patience_ms=60_000)
    bench.plc.write_header(count=50_000)
    bench.pass_time(3.0)
    assert bench.records() == []
    assert bench.gate.parts.expected == 1


def test_an_accept_of_the_former_gate_does_not_hold_against_a_verdict(bench):
    bench.other_beats()
    bench.pass_time(2.0, active=False)
    bench.part("j", number=7, encoder_count=0, patience_ms=60_000)
    bench.verdict("j", Decision.FAIL, number=7, encoder_count=0)
    bench.other_tells(7, Result.ACCEPT, count=1000)
    bench.other_beats()
    bench.pass_time(3.0)
    assert bench.records() == [(7, "reject", "fail")]
    assert bench.result(7) == (Result.REJECT, Code.FAIL)


def test_a_standby_that_has_missed_the_act_of_another_gate_finds_it_in_the_plc(bench):
    bench.pass_time(2.0, active=False)
    bench.plc.trigger(7, count=0)
    bench.plc.trigger(8, count=0)
    bench.other_beats()
    bench.other_tells(7, Result.ACCEPT, count=1000)
    bench.pass_time(1.0, active=False)
    bench.plc.write_header(count=1001)
    bench.pass_time(1.0, active=False)
    bench.plc.memory.write(LAYOUT.result(7), [0] * registers.RESULT.words)  # the slot of a later part
    bench.pass_time(3.0)
    assert bench.records() == [(8, "reject", UNANNOUNCED)]


def test_a_blind_gate_rejects_nothing_while_another_one_acts_and_goes_on_when_that_falls_silent(serving):
    serving.pass_time_beside_other(4.0)
    serving.part("j", number=7)
    serving.step()
    heartbeats = serving.plc.gate_header()["heartbeat"]
    with capture_logs() as logs:
        serving.pass_time_beside_other(30.0)
        assert serving.records() == []
        assert serving.plc.gate_header()["heartbeat"] == heartbeats + 300  # those of the other one
        serving.now += 1.1
        serving.step()
    assert [number for number, *_ in serving.records()] == [7]
    assert serving.plc.gate_header()["state"] & GateState.BLIND
    events = [log["event"] for log in logs if "another gate acts" in log["event"] or "no other gate" in log["event"]]
    assert events == ["another gate acts, this one is blind and stands back", "no other gate acts"]


def test_a_blind_gate_does_not_stand_back_from_another_blind_one(serving):
    serving.part("j", number=7)
    serving.step()
    for _ in range(200):
        serving.now += 0.1
        serving.other_beats(GateState.BLIND)
        serving.step()
    assert [number for number, *_ in serving.records()] == [7]


def test_a_blind_gate_finds_no_part_unannounced_before_it_hears_its_line_again(serving):
    serving.pass_time(20.0, deaf=True)
    for number in (7, 8):
        serving.plc.trigger(number, count=0)
    serving.pass_time(5.0, deaf=True)
    assert serving.records() == []
    serving.part("j", number=7, encoder_count=0)
    serving.pass_time(0.5)
    assert serving.records() == [(8, "reject", UNANNOUNCED)]
