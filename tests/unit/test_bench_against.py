"""The rows of `make bench-against` and their bounds, and what holds the memory of a worker."""

import os

import pytest

from bench import line, memory
from bench.bounds import Bound, judged
from bench.loads import Load
from bench.measured import Measured
from bench.plant import DEFAULT
from bench.questions import load_rows
from bench.rows import JPEG
from bench.table import ratio_row, row_of_rounds

LOAD = Load("default, JPEG", DEFAULT, JPEG, [b""], is_paced=True)


def measured(rate, worker=16.0):
    core_ms = {"worker": worker, "RabbitMQ": 0.8, "Redis": 0.1}
    return Measured(rate, core_ms, 350.0, [20.0] * 3, [float(n) for n in range(1, 101)])


def bound_of(row, bounds, *others):
    return next(iter(judged([row, *others], bounds))).bound


def test_two_builds_are_compared_by_the_medians_of_their_rounds():
    rows = {
        row.name: row
        for row in load_rows(LOAD, [measured(80), measured(120)], [measured(50, 32.0), measured(50, 32.0)])
    }
    rate = rows["default, JPEG: end to end"]
    assert (rate.ours, rate.other, rate.ratio, rate.spread) == (100, 50, 2, 0.4)
    assert rows["default, JPEG: worker, an image"].ratio == 0.5
    assert rows["default, JPEG: capture to verdict at 36/s, p99"].ours == pytest.approx(100)
    assert rows["default, JPEG: this build at 36/s, p99 of the worst round : a part alone"].ratio == pytest.approx(5)
    assert rows["default, JPEG: this build at 36/s, longest of 200 : 100 ms"].ratio == 1
    assert len(rows) == 10


def test_images_that_were_not_sent_evenly_have_no_latency():
    load = Load("large", DEFAULT, JPEG, [b""])
    assert len(list(load_rows(load, [measured(1)], [measured(1)]))) == 5


def test_a_ratio_is_held_against_the_bound_of_its_row():
    bounds = [Bound("fast", least=2.0), Bound("small", most=0.5)]
    assert bound_of(ratio_row("fast: a", "images/s", 4, 2), bounds) == "at least 2: held"
    assert bound_of(ratio_row("fast: a", "images/s", 3, 2), bounds) == "at least 2: missed"
    assert bound_of(ratio_row("small: a", "MB", 3, 4), bounds) == "at most 0.5: missed"
    assert bound_of(ratio_row("other", "MB", 3, 4), bounds) == ""


def test_a_bound_that_needs_another_one_is_not_asked_where_that_is_missed():
    bounds = [Bound("chips", least=7.9, only_if="room"), Bound("room", most=1.0)]
    chips = ratio_row("chips : 1", "images/s", 4, 1)
    assert bound_of(chips, bounds, ratio_row("room : cores", "ms", 3, 2)) == "at least 7.9: not asked"
    assert bound_of(chips, bounds, ratio_row("room : cores", "ms", 1, 2)) == "at least 7.9: missed"


def test_what_holds_the_memory_of_a_process_adds_up_to_what_is_resident():
    held = memory.holders(line.Worker(os.getpid(), 0))
    assert held.total() == pytest.approx(line.resident_bytes(os.getpid()), rel=0.1)
    assert held["not mapped from files"] > held["python"] > 0


def test_rounds_are_compared_by_their_medians_and_the_wider_spread():
    row = row_of_rounds("fast", "images/s", [4.0, 5.0, 4.5], [2.0, 2.0, 3.0])
    assert (row.ours, row.other, row.ratio, row.spread) == (4.5, 2.0, 2.25, 0.5)
