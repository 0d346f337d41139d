"""What the benchmark from photo to coil counts."""

import pytest

from bench.photo_to_coil import Run
from patchline.plc.register_map import Code

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
