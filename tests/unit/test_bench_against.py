"""The rows of `make bench-against`, and what holds the memory of a worker."""

import os

import pytest

from bench import line, memory
from bench.against import Load, Measured, _rows
from bench.plant import DEFAULT
from bench.rows import JPEG

LOAD = Load("default, JPEG", DEFAULT, JPEG, [b""])


def measured(rate, worker=16.0):
    return Measured(rate, {"worker": worker, "RabbitMQ": 0.8, "Redis": 0.1}, 350.0, [float(n) for n in range(1, 101)])


def test_two_builds_are_compared_by_the_medians_of_their_rounds():
    rows = {
        row.name: row for row in _rows(LOAD, [measured(80), measured(120)], [measured(50, 32.0), measured(50, 32.0)])
    }
    rate = rows["default, JPEG: end to end"]
    assert (rate.ours, rate.other, rate.ratio, rate.spread) == (100, 50, 2, 0.4)
    assert rows["default, JPEG: worker, an image"].ratio == 0.5
    assert rows["default, JPEG: capture to verdict at 36/s, p99"].ours == pytest.approx(100)
    assert len(rows) == 7


def test_images_that_were_not_sent_evenly_have_no_latency():
    load = Load("large", DEFAULT, JPEG, [b""], is_paced=False)
    assert len(list(_rows(load, [measured(1)], [measured(1)]))) == 5


def test_what_holds_the_memory_of_a_process_adds_up_to_what_is_resident():
    held = memory.holders(line.Worker(os.getpid(), 0))
    assert held.total() == pytest.approx(line.resident_bytes(os.getpid()), rel=0.1)
    assert held["not mapped from files"] > held["python"] > 0
