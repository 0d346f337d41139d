"""Where parts are, what still reaches them, and what became of them. No clock, no connection."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchline import config
from patchline.gate.belt import Belt
from patchline.gate.tracker import NO_NUMBER, OTHER_CATEGORY, SUPERSEDED, UNANNOUNCED, Finding, Outcome, Place
from patchline.plc.register_map import Bin, PlcState
from patchline.plc.station import Confirmation, Report, Trigger
from patchline.protocol.gate_messages import ActionRecord
from patchline.protocol.messages import Announcement

WALL_MS = 1_800_000_000_000
RULES = {"arm": 1000, "window": 100, "sensor": 1500, "sensor_window": 50, "announce_ms": 500}


def belt(**rules):
    return Belt(config.BeltRules(**RULES | rules), {1: "bottle", 2: "cable"}, 100)


def part(number=1, count=None, category="bottle"):
    return Announcement(
        job_id=f"job-{number}",
        line="l",
        category=category,
        part_id="p",
        captured_at=WALL_MS,
        number=number,
        encoder_count=count,
    )


def done(number=1, action="reject", because="fail", count=None):
    return ActionRecord(
        job_id=f"job-{number}",
        line="l",
        category="bottle",
        part_id="p",
        action=action,
        because=because,
        acted_at=WALL_MS,
        number=number,
        encoder_count=count,
    )


def report(count=0, triggers=(), confirmations=(), runs=True, category=0, heartbeat=1):
    state = PlcState.LINE_RUNS if runs else PlcState(0)
    return Report(state, heartbeat, count, category, 0, tuple(triggers), tuple(confirmations))


@pytest.mark.parametrize(
    ("count", "place"),
    [
        (0, Place.BEFORE),
        (899, Place.BEFORE),
        (900, Place.WINDOW),
        (1000, Place.WINDOW),
        (1001, Place.PAST),
        (2000, Place.PAST),
        (2001, Place.GONE),
        (-50, Place.BEFORE),
    ],
)
def test_the_place_of_a_part_is_its_way_from_the_trigger(count, place):
    line = belt()
    line.on_report(report(count=7000 + count), 0.0)
    assert line.place(part(count=7000), 0.0) is place


def test_time_does_not_move_a_part_on_a_belt_that_stands():
    line = belt()
    line.on_report(report(count=500), 0.0)
    assert line.place(part(count=0), 0.0) is line.place(part(count=0), 3600.0) is Place.BEFORE


def test_a_part_comes_back_when_the_belt_runs_back():
    line = belt()
    line.on_report(report(count=950), 0.0)
    assert line.place(part(count=0), 0.0) is Place.WINDOW
    line.on_report(report(count=400), 1.0)
    assert line.place(part(count=0), 1.0) is Place.BEFORE


@given(start=st.integers(-(2**31) + 1, 2**31 - 1), way=st.integers(-100_000, 100_000))
def test_the_encoder_may_wrap(start, way):
    line = belt(arm=100_000, window=1, sensor=None)
    now = (start + way + 2**31) % 2**32 - 2**31
    line.on_report(report(count=now), 0.0)
    expected = Place.BEFORE if way < 99_999 else Place.WINDOW
    assert line.place(part(count=start), 0.0) is expected


def test_the_count_of_the_trigger_serves_if_the_announcement_has_none():
    line = belt()
    line.on_report(report(count=950, triggers=[Trigger(1, 0, 0)]), 0.0)
    assert line.place(part(1), 0.0) is Place.WINDOW
    assert line.place(part(2), 0.0) is Place.UNKNOWN


def test_without_an_encoder_the_way_is_the_time_since_the_trigger():
    line = belt(unit="ms")
    line.on_report(report(triggers=[Trigger(1, 0, 0)]), 10.0)
    assert line.place(part(1), 10.8) is Place.BEFORE
    assert line.place(part(1), 10.95) is Place.WINDOW
    assert line.place(part(1), 11.1) is Place.PAST


def test_without_encoder_and_trigger_the_way_is_the_time_since_the_announcement():
    line = belt(unit="ms")
    line.on_part(part(1), 10.0)
    assert line.place(part(1), 10.95) is Place.WINDOW


def test_an_action_is_held_until_the_window_only_if_the_gate_has_to_release_it():
    for release, held in (("window", True), ("decided", False)):
        line = belt(release=release)
        line.on_report(report(count=0), 0.0)
        assert line.holds(part(count=0), 0.0) is held
        line.on_report(report(count=900), 0.0)
        assert not line.holds(part(count=0), 0.0)


def test_a_part_that_nobody_announced_in_time_is_found_once_and_never_accepted():
    line = belt()
    line.on_report(report(triggers=[Trigger(1, 40, 0)]), 10.0)
    assert line.step(10.4) == []
    assert line.step(10.5) == [Finding(Outcome.UNANNOUNCED, 1, count=40)]
    line.on_part(part(1), 10.6)
    assert line.step(20.0) == []
    assert line.objection(part(1)) == UNANNOUNCED


def test_an_announcement_may_come_before_or_after_its_trigger():
    line = belt()
    line.on_part(part(1), 10.0)
    line.on_report(report(triggers=[Trigger(1, 0, 0), Trigger(2, 0, 0)]), 10.1)
    line.on_part(part(2), 10.4)
    assert line.step(20.0) == []
    assert line.objection(part(1)) is line.objection(part(2)) is None


def test_a_part_without_a_number_or_of_another_category_is_not_accepted():
    line = belt()
    line.on_report(report(triggers=[Trigger(1, 0, 2), Trigger(2, 0, 1)], category=1), 0.0)
    assert line.objection(part(None)) == NO_NUMBER
    assert line.objection(part(1)) == OTHER_CATEGORY
    assert line.objection(part(2)) is None


def test_the_category_of_the_header_serves_if_a_trigger_has_none():
    line = belt()
    line.on_report(report(triggers=[Trigger(1, 0, 0)], category=2), 0.0)
    assert line.objection(part(1)) == OTHER_CATEGORY


def test_a_reject_that_the_sensor_sees_is_confirmed():
    line = belt()
    line.on_done(done(1, count=0), 0.0)
    line.on_report(report(count=1500, confirmations=[Confirmation(1, 1500, Bin.REJECT)]), 1.0)
    line.on_report(report(count=9000), 2.0)
    assert line.step(2.0) == []


def test_a_reject_that_no_sensor_sees_has_escaped():
    line = belt()
    line.on_report(report(), 0.0)
    line.on_done(done(1, count=0), 0.0)
    line.on_report(report(count=1550), 1.0)
    assert line.step(1.0) == []
    line.on_report(report(count=1551), 1.1)
    assert line.step(1.1) == [Finding(Outcome.ESCAPED, 1, "job-1")]
    assert line.step(9.0) == []
    assert line.escaped == 1


def test_a_reject_that_is_seen_in_the_good_bin_has_escaped_at_once():
    line = belt()
    line.on_done(done(1, count=0), 0.0)
    line.on_report(report(count=1400, confirmations=[Confirmation(1, 1400, Bin.GOOD)]), 1.0)
    assert line.step(1.0) == [Finding(Outcome.ESCAPED, 1, "job-1")]


def test_an_accepted_part_in_the_reject_bin_is_diverted_and_one_that_is_not_seen_is_nothing():
    line = belt()
    for number in (1, 2):
        line.on_done(done(number, "accept", "pass", count=0), 0.0)
    line.on_report(report(count=1500, confirmations=[Confirmation(1, 1500, Bin.REJECT)]), 1.0)
    line.on_report(report(count=9000), 2.0)
    assert line.step(2.0) == [Finding(Outcome.DIVERTED, 1, "job-1")]
    assert line.escaped == 0


def test_a_confirmation_may_come_before_the_gate_has_acted():
    line = belt()
    line.on_report(report(count=1500, confirmations=[Confirmation(1, 1500, Bin.REJECT)]), 1.0)
    line.on_done(done(1, count=0, because="no verdict in time"), 1.1)
    line.on_report(report(count=9000), 2.0)
    assert [finding.outcome for finding in line.step(2.0)] == [Outcome.MISSED]


def test_an_action_that_is_done_behind_the_arm_is_missed():
    line = belt(sensor=None)
    line.on_report(report(count=1001), 0.0)
    line.on_done(done(1, count=0), 0.0)
    assert line.step(0.0) == [Finding(Outcome.MISSED, 1, "job-1")]
    assert line.missed == 1


def test_the_margin_is_the_share_of_the_way_that_was_left():
    line = belt()
    line.on_report(report(count=250), 0.0)
    line.on_done(done(1, count=0), 0.0)
    assert line.take_margins() == [0.75]
    assert line.take_margins() == []


def test_rejects_in_a_row_stop_the_line_until_it_is_started_again():
    line = belt(stop_after_rejects=3)
    line.on_report(report(), 0.0)
    for number in range(2):
        line.on_done(done(number), 0.0)
    line.on_done(done(2, "accept", "pass"), 0.0)
    for number in range(3, 6):
        assert not line.stop_line
        line.on_done(done(number), 0.0)
    assert line.stop_line
    line.on_report(report(runs=False), 1.0)
    assert line.stop_line
    line.on_report(report(runs=True), 2.0)
    assert not line.stop_line


def test_a_part_with_several_images_is_one_reject_in_a_row():
    line = belt(stop_after_rejects=2)
    line.on_report(report(), 0.0)
    for job_id in ("a", "b", "c"):
        line.on_done(done(1).model_copy(update={"job_id": job_id}), 0.0)
    assert (line.rejects_in_row, line.stop_line) == (1, False)
    line.on_done(done(2), 0.0)
    assert line.stop_line


def test_missed_actions_in_a_row_stop_the_line():
    line = belt(stop_after_missed=2)
    line.on_report(report(count=5000), 0.0)
    line.on_done(done(1, count=0), 0.0)
    assert not line.stop_line
    line.on_done(done(2, count=0), 0.0)
    assert line.stop_line


def test_a_number_that_the_plc_uses_again_is_a_new_part():
    line = belt()
    line.on_report(report(triggers=[Trigger(1, 0, 0)]), 0.0)
    line.step(1.0)
    line.on_report(report(triggers=[Trigger(1, 5000, 0)], count=5000), 100.0)
    assert line.objection(part(1)) is None
    assert line.place(part(1), 100.0) is Place.BEFORE
    assert line.step(101.0) == [Finding(Outcome.UNANNOUNCED, 1, count=5000)]


def test_the_belt_remembers_a_bounded_number_of_parts():
    line = belt()
    for number in range(1000):
        line.on_part(part(number), 0.0)
        line.on_done(done(number, count=0), 0.0)
        line.on_report(report(triggers=[Trigger(number, 0, 0)]), 0.0)
    findings = line.step(0.0)
    assert sum(finding.outcome is Outcome.ESCAPED for finding in findings) == 900
    numbers, confirmations = line._numbers, line._confirmations
    stores = (numbers._triggered, numbers._announced, numbers._refused, confirmations._awaited, confirmations._seen)
    for store in stores:
        assert len(store) <= 100


def test_an_announced_part_is_never_unannounced_however_many_parts_follow_whose_triggers_were_not_heard():
    line = belt()
    line.on_report(report(triggers=[Trigger(1, 0, 0)]), 0.0)
    line.on_part(part(1), 0.1)
    for number in range(2, 300):  # the belt remembers 100
        line.on_part(part(number), 0.2)
    assert line.step(100.0) == []


def test_a_part_announced_long_before_the_trigger_of_its_number_is_an_earlier_one():
    line = belt()
    line.on_part(part(1), 10.0)
    line.on_report(report(), 20.0)
    line.on_report(report(count=5000, triggers=[Trigger(1, 5000, 0)]), 20.1)
    assert line.objection(part(1)) == SUPERSEDED
    assert line.place(part(1), 20.1) is Place.GONE
    assert line.step(20.6) == [Finding(Outcome.UNANNOUNCED, 1, count=5000)]


def test_a_trigger_that_is_read_late_belongs_to_the_part_that_was_announced_meanwhile():
    line = belt()
    line.on_report(report(), 10.0)
    line.on_part(part(1), 10.1)
    line.on_report(report(count=100, triggers=[Trigger(1, 0, 0)]), 60.0)
    assert line.objection(part(1)) is None
    assert line.step(61.0) == []


def test_a_trigger_that_could_not_be_read_for_long_belongs_to_the_part_that_was_announced_then():
    line = belt()
    line.on_report(report(), 10.0)
    line.on_part(part(1), 10.1)
    for now in (11.0, 12.0, 13.0):
        line.on_report(replace(report(), failure="no answer"), now)
    line.on_report(report(count=100, triggers=[Trigger(1, 0, 0)]), 13.5)
    assert line.objection(part(1)) is None


def test_a_plc_that_has_started_again_gets_nothing_about_the_parts_before():
    line = belt()
    line.on_part(part(1), 10.0)
    line.on_done(done(2, count=0), 10.0)
    line.on_report(replace(report(), restarted=True), 10.2)
    line.on_part(part(1), 10.3)  # a late verdict of the same job
    assert line.place(part(1, count=0), 10.3) is Place.GONE
    later = part(1).model_copy(update={"job_id": "later"})
    line.on_part(later, 10.4)
    assert line.objection(later) is None
    line.on_report(report(count=9000), 10.5)
    assert line.step(11.0) == [Finding(Outcome.UNCONFIRMED, 2, "job-2")]


def outcomes(line, now, accepting=True):
    return [(finding.number, finding.outcome) for finding in line.step(now, accepting)]


def test_a_part_that_passed_the_arm_before_a_gate_ran_is_unattended_and_stops_no_line():
    line = belt(stop_after_missed=1, stop_after_rejects=1, sensor=None)
    line.on_report(report(count=1500), 0.0)
    assert outcomes(line, 0.0) == []
    for number, count in ((1, 0), (2, 499)):  # 1500 and 1001 behind their triggers
        line.on_done(done(number, count=count, because="no verdict in time"), 0.1)
    assert outcomes(line, 0.1) == [(1, Outcome.UNATTENDED), (2, Outcome.UNATTENDED)]
    assert (line.missed, line.missed_in_row, line.rejects_in_row, line.stop_line) == (0, 0, 0, False)
    line.on_report(report(count=1501), 0.2)
    line.on_done(done(3, count=500), 0.2)  # was before the arm when the gate started
    assert outcomes(line, 0.2) == [(3, Outcome.MISSED)]
    assert (line.missed, line.stop_line) == (1, True)


def test_a_part_that_passed_the_arm_while_the_gate_heard_no_messages_is_unattended():
    line = belt(sensor=None)
    for count, accepting in ((0, True), (100, True), (500, False), (1500, False), (1600, True)):
        line.on_report(report(count=count), count / 1000)
        assert outcomes(line, count / 1000, accepting) == []
    line.on_done(done(1, count=400), 1.6)
    assert outcomes(line, 1.6) == [(1, Outcome.UNATTENDED)]


def test_without_an_encoder_a_part_of_before_the_start_is_unattended_by_the_time_of_its_announcement():
    line = belt(unit="ms", sensor=None)
    line.on_part(part(1), 8.0)  # as the gate's memory says
    line.on_part(part(2), 9.5)
    line.on_report(report(), 10.0)
    outcomes(line, 10.0)
    for number, now in ((1, 10.1), (2, 11.0)):
        line.on_done(done(number), now)
    assert outcomes(line, 11.0) == [(1, Outcome.UNATTENDED), (2, Outcome.MISSED)]


@pytest.mark.parametrize("kind", ["not read", "frozen", "lost", "partly read"])
def test_a_reject_that_passed_the_sensor_while_the_plc_was_silent_is_unconfirmed_and_not_escaped(kind):
    line = belt()
    for beat in range(10):
        line.on_report(report(count=beat, heartbeat=beat), beat / 10)
    line.on_done(done(1, count=0), 0.9)
    for step in range(10, 30):
        if kind == "not read":
            line.on_silence()
        elif kind == "frozen":
            line.on_report(report(count=9, heartbeat=9), step / 10)
        elif kind == "partly read":
            line.on_report(replace(report(count=9, heartbeat=step), failure="no answer"), step / 10)
        assert outcomes(line, step / 10) == []
    line.on_report(replace(report(count=9000, heartbeat=50), lost=kind == "lost"), 3.0)
    assert outcomes(line, 3.0) == [(1, Outcome.UNCONFIRMED)]
    assert line.escaped == 0
    line.on_done(done(2, count=8000), 3.1)  # the PLC is heard all the time from now on
    line.on_report(report(count=9600, heartbeat=51), 3.2)
    assert outcomes(line, 3.2) == [(2, Outcome.ESCAPED)]


def test_a_part_that_is_seen_in_the_wrong_bin_after_a_silence_has_escaped():
    line = belt()
    line.on_report(report(), 0.0)
    line.on_done(done(1, count=0), 0.1)
    line.on_done(done(2, count=0), 0.1)
    line.on_silence()
    seen = [Confirmation(1, 1500, Bin.GOOD), Confirmation(2, 1500, Bin.REJECT)]
    line.on_report(report(count=9000, confirmations=seen), 5.0)
    assert outcomes(line, 5.0) == [(1, Outcome.ESCAPED)]


def test_a_reject_that_had_passed_the_sensor_before_the_gate_started_is_unconfirmed():
    line = belt()
    line.on_report(report(count=1600), 0.0)
    assert outcomes(line, 0.0) == []
    line.on_done(done(1, count=0), 0.1)  # behind the sensor
    line.on_done(done(2, count=300), 0.1)  # between arm and sensor
    line.on_report(report(count=2000), 0.2)
    assert outcomes(line, 0.2) == [
        (1, Outcome.UNATTENDED),
        (2, Outcome.UNATTENDED),
        (1, Outcome.UNCONFIRMED),
        (2, Outcome.ESCAPED),
    ]


def test_without_an_encoder_a_reject_has_not_escaped_as_long_as_the_plc_has_not_been_heard_after_it():
    line = belt(unit="ms", arm=100, window=10, sensor=150, sensor_window=50)
    for beat in range(3):
        line.on_report(report(heartbeat=beat, triggers=[Trigger(1, 0, 0)] if beat == 2 else []), beat / 10)
    line.on_part(part(1), 0.2)
    line.on_done(done(1), 0.21)
    for step in range(22, 70):
        line.on_report(report(heartbeat=2), step / 100)  # the PLC is frozen
        assert outcomes(line, step / 100) == []
    line.on_report(report(heartbeat=3, confirmations=[Confirmation(1, 0, Bin.REJECT)]), 0.7)
    assert outcomes(line, 0.7) == []
