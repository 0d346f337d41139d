"""What the benchmark from photo to coil counts."""

import pytest

from bench import coil_legs
from bench.coil_legs import Legs
from bench.photo_to_coil import Run
from patchline.plc.register_map import Code
from patchline.protocol.messages import Decision, Verdict

FIRST = 51  # of the parts that count


def event(kind, at, **values):
    return {"kind": kind, "at": at, **values}


@pytest.fixture
def run():
    run = Run()
    run.on_events([event("trigger", number / 10, number=number) for number in range(1, FIRST + 2)])
    return run


def test_a_part_takes_until_the_plc_has_its_first_result(run):
    run.on_events([event("result", 5.12, number=FIRST, code=Code.PASS)])
    run.on_events([event("result", 9.0, number=FIRST, code=Code.PASS)])
    assert run.latencies_ms() == pytest.approx([20.0])


def test_parts_of_the_warm_up_have_no_latency_and_can_be_lost(run):
    run.on_events([event("result", 5.0, number=FIRST - 1, code=Code.PASS)])
    assert run.latencies_ms() == []
    assert run.lost == FIRST


def test_a_part_that_was_rejected_without_a_judgement_is_lost(run):
    results = [(number, Code.FAIL) for number in range(1, FIRST)] + [(FIRST, Code.NO_VERDICT), (FIRST + 1, Code.PASS)]
    run.on_events([event("result", 8.0, number=number, code=code) for number, code in results])
    assert run.lost == 1
    assert len(run.latencies_ms()) == 1


def test_the_rate_is_that_of_the_triggers(run):
    assert run.rate == pytest.approx(10.0)


def test_stalls_of_the_machine_are_added_up(run):
    run.on_events([event("stall", 1.0, seconds=0.2), event("stall", 2.0, seconds=0.3), event("empty", 3.0)])
    assert run.stalled_s == pytest.approx(0.5)
    assert run.is_empty


def verdict(number, received_at, decided_at):
    return Verdict(
        job_id=f"j{number}",
        line="bench",
        category="default",
        part_id=f"n{number}",
        number=number,
        decision=Decision.PASS,
        device="cpu:0",
        worker="w",
        attempt=1,
        received_at=received_at,
        decided_at=decided_at,
        durations_ms={"decode": 2.0, "extract": 7.0},
    )


def test_the_legs_of_a_part_are_its_time_and_those_of_the_warm_up_are_left_out(run):
    epoch_ms = 1_700_000_000_000
    run.on_events([event("result", 5.12, number=number, code=Code.PASS) for number in (FIRST - 1, FIRST)])
    verdicts = [verdict(number, epoch_ms + 5103, epoch_ms + 5114) for number in (FIRST - 1, FIRST)]
    run.follow(verdicts, epoch_ms / 1000)
    (legs,) = run.legs
    assert [legs.to_worker, legs.stages, legs.between, legs.to_plc] == pytest.approx([3.0, 9.0, 2.0, 6.0], abs=0.001)
    assert legs.total == pytest.approx(run.latencies_ms()[0], abs=0.001)


def test_the_slowest_hundredth_is_compared_with_all_parts():
    parts = [Legs(1.0, 2.0, 3.0, 4.0)] * 198 + [Legs(1.0, 2.0, 3.0, 104.0)] * 2
    rows = {row.name: row for row in coil_legs.rows(parts)}
    assert rows["slowest 1%, mean, to PLC : all parts"].ours == pytest.approx(104.0)
    assert rows["slowest 1%, mean, to PLC : all parts"].other == pytest.approx(5.0)
    assert rows["slowest 1%, mean, between : all parts"].ratio == pytest.approx(1.0)


def test_the_cost_of_a_part_is_compared_with_the_time_until_the_next_one():
    (row,) = coil_legs.cost_rows({"the gate": 1000.0}, parts=200, rate=40.0)
    assert (row.ours, row.other) == (pytest.approx(5.0), pytest.approx(25.0))
