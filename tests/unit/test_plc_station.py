"""The gate's side of the register map, on words in memory."""

import pytest

from patchline.plc import register_map as registers
from patchline.plc.register_map import GATE_HEADER, RESULT, Code, GateState, Result
from patchline.plc.station import Confirmation, Station, Trigger
from patchline.plc.station import Result as Written
from patchline.plc.words import MemoryWords, PlcError
from tests.plc_memory import LAYOUT, Plc


@pytest.fixture
def plc():
    plc = Plc()
    plc.write_header(version=1)
    return plc


def result(number, verdict=Result.ACCEPT, code=Code.PASS):
    return Written(number, verdict, code, 0.5, 1200)


def test_a_result_is_in_the_slot_of_its_part(plc):
    plc.station().write_result(result(7))
    words = plc.result(7)
    assert (words["number"], words["result"], words["code"], words["count"], words["sequence"]) == (7, 1, 1, 1200, 1)
    assert words["score"] == 0.5


def test_a_result_written_again_is_the_same_result_with_another_sequence_number(plc):
    station = plc.station()
    station.write_result(result(7))
    first = plc.result(7)
    station.write_result(result(7))
    second = plc.result(7)
    assert first.pop("sequence") != second.pop("sequence")
    assert first == second


def test_a_gate_that_takes_over_goes_on_with_the_sequence_and_the_heartbeat_of_the_one_before(plc):
    before = plc.station()
    before.write_result(result(1))
    before.beat(GateState.READY, {})
    after = plc.station()
    after.write_result(result(2))
    after.beat(GateState.READY, {})
    assert plc.result(2)["sequence"] == plc.result(1)["sequence"] + 1
    assert plc.gate_header()["heartbeat"] == 2


def test_a_result_that_cannot_be_read_back_is_an_error(plc):
    class Forgetful(MemoryWords):
        def write(self, start, words):
            if len(words) != RESULT.words:
                super().write(start, words)

    with pytest.raises(PlcError, match="other words in its slot of part 7"):
        Station(Forgetful(), LAYOUT, lambda: 0.0).write_result(result(7))


def test_the_heartbeat_counts_and_is_never_0(plc):
    plc.memory.write(LAYOUT.gate, GATE_HEADER.pack({"heartbeat": 65_534}))
    station = plc.station()
    seen = []
    for _ in range(3):
        station.beat(GateState.READY, {"missed": 70_000})
        seen.append(plc.gate_header()["heartbeat"])
    assert seen == [65_535, 1, 2]
    assert plc.gate_header()["missed"] == 65_535


def test_the_header_echoes_what_the_plc_said(plc):
    station = plc.station()
    plc.trigger(5)
    plc.write_header(heartbeat=77)
    station.poll()
    station.beat(GateState.READY | GateState.BUSY, {})
    header = plc.gate_header()
    assert (header["heartbeat_echo"], header["trigger_sequence"], header["state"]) == (77, 1, 3)


def test_the_first_report_finds_its_place_and_later_ones_have_what_is_new(plc):
    station = plc.station()
    plc.trigger(1)
    assert station.poll().triggers == ()
    plc.trigger(2, count=20, category=3)
    plc.confirm(1, registers.Bin.REJECT, count=30)
    report = station.poll()
    assert report.triggers == (Trigger(2, 20, 3),)
    assert report.confirmations == (Confirmation(1, 30, 2),)
    assert station.poll().triggers == ()


def test_triggers_that_were_overwritten_unread_are_counted(plc):
    station = plc.station()
    station.poll()
    for number in range(1, 12):
        plc.trigger(number)
    report = station.poll()
    assert [trigger.number for trigger in report.triggers] == list(range(4, 12))
    assert report.lost == 3


def test_triggers_are_read_over_the_wrap_of_their_sequence_number(plc):
    plc.sequences["trigger"] = 65_534
    plc.write_header()
    station = plc.station()
    station.poll()
    for number in (1, 2, 3):
        plc.trigger(number)
    assert [trigger.number for trigger in station.poll().triggers] == [1, 2, 3]


def test_an_area_of_another_version_is_an_error(plc):
    plc.write_header(version=2)
    with pytest.raises(PlcError, match="version 2"):
        plc.station().poll()


def test_a_count_is_signed(plc):
    plc.write_header(count=-5)
    assert plc.station().poll().count == -5


def test_a_plc_that_does_not_answer_is_left_alone_for_a_while(plc):
    station, calls = plc.station(), []
    read = plc.memory.read
    plc.memory.read = lambda start, count: (calls.append(start), read(start, count))[1]
    plc.memory.fault = "frozen"
    for _ in range(3):
        with pytest.raises(PlcError, match="frozen"):
            station.poll()
        with pytest.raises(PlcError, match="frozen"):
            station.write_result(result(7))
    assert len(calls) == 1
    plc.now += 0.2
    plc.memory.fault = None
    station.write_result(result(7))
    assert plc.result(7)["number"] == 7


def test_a_plc_that_counts_anew_has_started_again_and_nothing_is_lost(plc):
    station = plc.station()
    for number in range(1, 6):
        plc.trigger(number)
        plc.confirm(number, registers.Bin.GOOD)
    station.poll()
    assert not station.poll().restarted
    plc.memory.words[LAYOUT.plc :] = [0] * (len(plc.memory.words) - LAYOUT.plc)
    plc.sequences = {"trigger": 0, "confirmation": 0}
    plc.trigger(1)
    report = station.poll()
    assert (report.restarted, report.lost) == (True, 0)
    assert [trigger.number for trigger in report.triggers] == [1]
    assert not station.poll().restarted
