"""The gate's side of the register map, on words in memory."""

import pytest

from patchline.plc import register_map as registers
from patchline.plc.register_map import GATE_HEADER, RESULT, Code, GateState, Result
from patchline.plc.station import Confirmation, Station, Trigger
from patchline.plc.station import Result as Written
from patchline.plc.words import MemoryWords, PlcError, PlcRefusal
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


def test_overwritten_triggers_have_numbers_since_a_plc_counts_its_parts(plc):
    station = plc.station()
    station.poll()
    for number in range(1, 12):
        plc.trigger(number)
    report = station.poll()
    assert (report.lost, report.overwritten) == (3, (1, 2, 3))
    assert [trigger.number for trigger in report.triggers] == list(range(4, 12))


def test_the_events_of_a_belt_that_is_busy_take_few_requests(plc):
    """Over OPC UA on a busy machine a request took so long that rings were overwritten unread."""
    station = plc.station()
    station.poll()
    for number in range(1, 8):
        plc.trigger(number)
        plc.confirm(number, registers.Bin.GOOD)
    requests = count_requests(plc)
    report = station.poll()
    assert (len(report.triggers), len(report.confirmations)) == (7, 7)
    assert len(requests) == 3


def test_a_heartbeat_takes_two_requests_if_no_other_gate_has_written(plc):
    station = plc.station()
    station.beat(GateState.READY, {})
    requests = count_requests(plc)
    for _ in range(3):
        station.resume()
        station.beat(GateState.READY, {})
    assert len(requests) == 6


def test_a_gate_goes_on_reading_where_the_one_before_has_stopped(plc):
    before = plc.station()
    plc.trigger(1)
    before.poll()
    plc.trigger(2)
    plc.confirm(1, registers.Bin.GOOD)
    before.poll()
    before.beat(GateState.READY, {})
    plc.trigger(3)
    plc.confirm(2, registers.Bin.GOOD)
    report = plc.station().poll()
    assert [trigger.number for trigger in report.triggers] == [3]
    assert [confirmation.number for confirmation in report.confirmations] == [2]


def test_a_gate_that_beats_before_it_reads_leaves_its_place_to_the_next_one(plc):
    plc.trigger(1)
    plc.station().beat(GateState.READY, {})
    assert plc.station().poll().triggers == ()
    assert plc.gate_header()["trigger_sequence"] == 1


def test_a_gate_hears_the_heartbeat_of_another_one_that_is_ready(plc):
    ours, other = plc.station(), plc.station()
    ours.beat(GateState.BLIND, {})
    assert not ours.hears_ready_gate()
    for state, heard in ((GateState.READY, True), (GateState.BLIND, False), (GateState.READY | GateState.BUSY, True)):
        other.resume()
        other.beat(state, {})
        assert ours.hears_ready_gate() is heard
        assert not ours.hears_ready_gate()


def test_what_a_gate_has_told_the_plc_can_be_read_by_another_one(plc):
    plc.station().write_result(result(7))
    plc.station().write_result(result(9, Result.REJECT, Code.FAIL))
    told = plc.station().told([7, 8, 9, 7 + LAYOUT.slots])
    assert {number: (slot.result, slot.code, slot.count) for number, slot in told.items()} == {
        7: (Result.ACCEPT, Code.PASS, 1200),
        9: (Result.REJECT, Code.FAIL, 1200),
    }


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


def test_triggers_that_were_read_are_reported_although_the_confirmations_cannot_be_read(plc):
    station = plc.station()
    station.poll()
    plc.trigger(1)
    plc.trigger(2)
    plc.confirm(1, registers.Bin.REJECT)
    broken = fail_at(plc, LAYOUT.confirmation(1))
    report = station.poll()
    assert [trigger.number for trigger in report.triggers] == [1, 2]
    assert (report.confirmations, report.failure) == ((), "broken")
    broken.clear()
    plc.now += 0.2
    report = station.poll()
    assert (report.triggers, report.failure) == ((), None)
    assert [confirmation.number for confirmation in report.confirmations] == [1]


def test_a_trigger_that_cannot_be_read_comes_with_the_next_report_and_those_before_it_at_once(plc):
    plc.sequences["trigger"] = LAYOUT.slots - 2
    plc.write_header()
    station = plc.station()
    station.poll()
    for number in (1, 2, 3):
        plc.trigger(number)
    broken = fail_at(plc, LAYOUT.trigger(LAYOUT.slots))  # the ring begins again with the second one
    assert [trigger.number for trigger in station.poll().triggers] == [1]
    broken.clear()
    plc.now += 0.2
    assert [trigger.number for trigger in station.poll().triggers] == [2, 3]


def test_a_restart_is_reported_although_the_triggers_after_it_cannot_be_read(plc):
    station = plc.station()
    plc.trigger(5)
    plc.trigger(6)
    station.poll()
    plc.sequences["trigger"] = 0
    plc.trigger(1)
    broken = fail_at(plc, LAYOUT.trigger(1))
    assert station.poll().restarted
    broken.clear()
    plc.now += 0.2
    report = station.poll()
    assert not report.restarted
    assert [trigger.number for trigger in report.triggers] == [1]


def test_a_plc_that_started_again_and_has_confirmed_a_part_already_has_lost_nothing(plc):
    station = plc.station()
    for number in range(1, 6):
        plc.trigger(number)
        plc.confirm(number, registers.Bin.GOOD)
    station.poll()
    plc.sequences = {"trigger": 0, "confirmation": 0}
    plc.trigger(1)
    plc.confirm(1, registers.Bin.GOOD)
    report = station.poll()
    assert (report.restarted, report.lost) == (True, 0)
    assert [confirmation.number for confirmation in report.confirmations] == [1]


def test_a_sequence_number_stands_in_one_slot_only_also_if_the_answer_to_a_write_was_lost(plc):
    station = plc.station()
    station.beat(GateState.READY, {})
    write = plc.memory.write

    def lose_the_answer(start, words):
        write(start, words)
        raise PlcError("no answer")

    plc.memory.write = lose_the_answer
    with pytest.raises(PlcError):
        station.write_result(result(1))
    plc.memory.write = write
    plc.now += 0.2
    station.write_result(result(2))
    assert plc.result(1)["sequence"] != plc.result(2)["sequence"]
    station.write_result(result(1))
    assert (plc.result(1)["number"], plc.result(1)["result"]) == (1, Result.ACCEPT)


def test_a_gate_that_takes_over_uses_no_number_of_a_result_that_came_after_the_last_heartbeat(plc):
    before = plc.station()
    before.beat(GateState.READY, {})
    for number in range(1, 6):
        before.write_result(result(number))
    plc.station().write_result(result(7))
    sequences = [plc.result(number)["sequence"] for number in (1, 2, 3, 4, 5, 7)]
    assert len(set(sequences)) == 6


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1000, r"the PLC's area \(triggers and confirmations\), words 1000 to 1111, cannot be read to its end"),
        (1111, r"words 1000 to 1111, cannot be read to its end: .*; make the PLC's memory as large as"),
    ],
)
def test_an_area_of_the_plc_that_is_too_small_is_named_and_gets_no_sign_of_life(size, message):
    memory = MemoryWords(size)
    station = Station(memory, LAYOUT, lambda: 0.0)
    for call in (station.poll, lambda: station.beat(GateState.READY, {}), lambda: station.write_result(result(1))):
        with pytest.raises(PlcRefusal, match=message):
            call()
    assert not any(memory.words)


def test_an_area_of_the_gate_that_is_too_small_is_named_and_gets_no_sign_of_life():
    layout = registers.Layout(gate=200, plc=0, slots=8)
    memory = MemoryWords(200 + layout.gate_words - 1)
    station = Station(memory, layout, lambda: 0.0)
    station.poll()
    with pytest.raises(PlcRefusal, match=r"the gate's area \(results\), words 200 to 295, cannot be read to its end"):
        station.beat(GateState.READY, {})
    assert not any(memory.words)


def test_an_area_of_the_gate_that_may_not_be_written_to_its_end_is_named():
    class HalfWritable(MemoryWords):
        def write(self, start, words):
            if start > 50:
                raise PlcRefusal("read-only")
            super().write(start, words)

    station = Station(HalfWritable(), LAYOUT, lambda: 0.0)
    with pytest.raises(PlcRefusal, match="words 0 to 95, cannot be written to its end: read-only"):
        station.beat(GateState.READY, {})


def test_the_check_of_the_areas_changes_no_result_even_if_it_is_done_much_later(plc):
    station, late = plc.station(), []
    write = plc.memory.write
    plc.memory.write = lambda start, words: late.append((start, words))
    station.beat(GateState.READY, {})
    plc.memory.write = write
    plc.station().write_result(result(LAYOUT.slots - 1))
    before = plc.result(LAYOUT.slots - 1)
    write(*late[0])
    assert plc.result(LAYOUT.slots - 1) == before


def test_the_areas_are_checked_again_after_each_error_since_it_may_be_another_plc(plc):
    station = plc.station()
    station.beat(GateState.READY, {})
    plc.memory.fault = "no answer"
    with pytest.raises(PlcError):
        station.beat(GateState.READY, {})
    plc.memory.fault = None
    del plc.memory.words[LAYOUT.plc + LAYOUT.plc_words - 1 :]
    plc.now += 0.2
    with pytest.raises(PlcRefusal, match="the PLC's area"):
        station.beat(GateState.READY, {})


def test_rings_of_the_plc_of_another_size_are_an_error_and_it_gets_no_sign_of_life(plc):
    station = plc.station()
    station.beat(GateState.READY, {})
    plc.write_header(slots=16)
    with pytest.raises(PlcError, match=r"the PLC's rings have 16 slots .* plc\.slots here is 8"):
        station.poll()
    with pytest.raises(PlcError, match="16 slots"):
        station.beat(GateState.READY, {})
    plc.write_header(slots=8)
    station.poll()
    station.beat(GateState.READY, {})


def fail_at(plc, word):
    """Let each read of this word fail until the returned set is cleared."""
    broken, read = {word}, plc.memory.read

    def read_unless_broken(start, count):
        if start in broken:
            raise PlcError("broken")
        return read(start, count)

    plc.memory.read = read_unless_broken
    return broken


def count_requests(plc):
    """Return a list that grows with each read and write of the PLC's words."""
    requests, read, write = [], plc.memory.read, plc.memory.write

    def counted(call):
        def run(*arguments):
            requests.append(arguments[0])
            return call(*arguments)

        return run

    plc.memory.read, plc.memory.write = counted(read), counted(write)
    return requests
