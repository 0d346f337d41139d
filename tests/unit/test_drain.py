"""The orderly end of a worker, with the broker in memory."""

import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from patchline.worker.drain import drain
from tests.unit.test_lane import JOBS_QUEUE, SUSPECTS_QUEUE, Line

TIMEOUT_S = 15.0


@pytest.fixture
def line():
    return Line()


def start(line):
    """Start a lane of each kind, as a worker does."""
    lanes = [line.lane, line.suspect_lane]
    threads = [threading.Thread(target=lane.run, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    return lanes, threads


def hold(line):
    """Let inspections wait. Return the events that say that one has begun, and that let it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go_on.wait(TIMEOUT_S)

    line.inspector.during = wait
    return begun, go_on


@pytest.mark.timeout(60)
def test_jobs_that_have_arrived_are_finished_and_the_others_stay_in_the_queue(line):
    begun, go_on = hold(line)
    for number in range(5):
        line.send(f"j{number}")
    lanes, threads = start(line)
    assert begun.wait(TIMEOUT_S)
    threading.Timer(0.2, go_on.set).start()
    assert drain(lanes, threads, line.broker, TIMEOUT_S) == 0
    finished = {verdict.job_id for verdict in line.verdicts()}
    assert finished == {"j0", "j1"}  # the lane prefetches two
    assert [delivery.message.message_id for delivery in line.messages(JOBS_QUEUE)] == ["j2", "j3", "j4"]


@pytest.mark.timeout(60)
def test_jobs_that_a_drain_gives_back_are_no_suspects(line):
    begun, go_on = hold(line)
    for number in range(2):
        line.send(f"j{number}")
    lanes, threads = start(line)
    assert begun.wait(TIMEOUT_S)
    assert drain(lanes, threads, line.broker, drain_s=0.0) == 2
    assert threads[0].is_alive()
    again = line.messages(JOBS_QUEUE)
    assert {(delivery.message.message_id, delivery.attempt, delivery.redelivered) for delivery in again} == {
        ("j0", 1, False),
        ("j1", 1, False),
    }
    go_on.set()
    threads[0].join(TIMEOUT_S)
    assert not threads[0].is_alive()
    assert line.messages(JOBS_QUEUE) == []


def test_jobs_and_suspects_are_stopped_together(line):
    calls = []

    def consumer():
        begin = lambda: calls.append("begun") or partial(calls.append, "waited")  # noqa: E731
        return SimpleNamespace(begin_stop=begin, take=lambda _: None)

    lanes = [replace(line.lane, jobs=consumer()), replace(line.suspect_lane, jobs=consumer())]
    assert drain(lanes, [], line.broker, drain_s=0.0) == 0
    assert calls == ["begun", "begun", "waited", "waited"]


@pytest.mark.timeout(60)
def test_a_suspect_that_a_drain_gives_back_keeps_its_attempts(line):
    line.send()
    line.crash()
    line.step()  # moves it to the suspects
    begun, go_on = hold(line)
    lanes, threads = start(line)
    assert begun.wait(TIMEOUT_S)
    assert drain(lanes, threads, line.broker, drain_s=0.0) == 1
    (again,) = line.messages(SUSPECTS_QUEUE)
    assert (again.attempt, again.redelivered) == (2, False)
    go_on.set()


@pytest.mark.timeout(60)
def test_a_redelivered_job_stays_a_suspect_when_a_drain_gives_it_back(line):
    line.send()
    line.crash()
    line.lane.jobs.stop()
    assert drain([line.lane], [], line.broker, drain_s=0.0) == 1
    (again,) = line.messages(JOBS_QUEUE)
    assert again.redelivered
