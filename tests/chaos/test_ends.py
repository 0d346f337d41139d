"""Both ends of the line in a storm: images in watched folders, deadlines of two seconds, two gates with arms."""

import os
import time

import pytest

from tests.chaos import line_ends, promise, reconciliation
from tests.chaos.ends_storm import EndsStorm
from tests.chaos.storm import wait_until

SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "4"))
FAULTS = {"worker_kill": 10, "publisher_kill": 11, "active_kill": 6, "standby_kill": 5, "arm_kill": 12, "cut": 5}
FAULTS |= {"active_freeze": 3, "standby_freeze": 2, "publisher_freeze": 2, "worker_freeze": 1, "broker_restart": 2}
FAULTS |= {"broker_alarm": 2, "jobs_queue": 1, "verdicts_queue": 1, "active_queue": 2, "standby_queue": 2}
pytestmark = pytest.mark.timeout(600 * SCALE)


@pytest.fixture
def images(texture_folder):
    return sorted((texture_folder / "test").glob("*/*.png"))


def wait_for_an_accept(ends):
    """Wait until a part that is written from now on is accepted."""
    known = set(ends.acts())
    accepted = wait_until(lambda: any(_accepts(acts) for part, acts in ends.acts().items() if part not in known), 120.0)
    assert accepted, "the line accepts nothing"


def _accepts(acts):
    return any(act["action"] == "accept" for act in acts)


def wait_for_the_acts(ends, timeout_s=60.0):
    """Wait until every part was acted on: shortly for those that no gate has heard of. The rest is counted."""
    wait_until(lambda: ends.sources.keys() <= ends.acts().keys(), timeout_s / 4)
    wait_until(lambda: ends.heard().keys() <= ends.acts().keys(), timeout_s)


def test_no_part_passes_a_gate_unnoticed_in_a_storm(servers_to_restart, plant, images, tmp_path, results):
    node, _, redis_url, _ = servers_to_restart
    started = time.monotonic()
    with line_ends.set_up(plant, tmp_path / "plant", node.url, redis_url) as ends:
        storm = EndsStorm(ends, node, images, SEED)
        storm.wait_for_gates("start")
        with storm.feeding(rate=6):
            wait_for_an_accept(ends)
            storm.inject(**{kind: count * SCALE for kind, count in FAULTS.items()})
            wait_for_an_accept(ends)
        wait_for_the_acts(ends)
        result = promise.check(ends, storm, reconciliation.decider(ends.settings), time.monotonic() - started)
    results["ends"] = result
    assert result.holds, result
    kills = {kind: storm.done[kind] for kind in ("worker_kill", "publisher_kill", "gate_kill", "arm_kill")}
    assert min(kills.values()) >= 10 * SCALE, kills
    freezes = {role: storm.done[f"gate_freeze while {role}"] for role in ("serving", "standby")}
    assert min(freezes.values()) >= 1, freezes
    assert storm.done["broker_restart"] == 2 * SCALE


@pytest.mark.parametrize(
    ("broken", "count"),
    [("forgets", "unnoticed"), ("accepts_overdue", "accepts_without_pass"), ("ignores_acts", "opposite_acts")],
)
def test_a_broken_gate_would_be_detected(servers_to_restart, plant, images, tmp_path, broken, count):
    node, _, redis_url, _ = servers_to_restart
    with line_ends.set_up(plant, tmp_path / "plant", node.url, redis_url, broken) as ends:
        storm = EndsStorm(ends, node, images, SEED)
        storm.wait_for_gates("start")
        with storm.feeding(rate=5):
            if broken != "accepts_overdue":
                wait_for_an_accept(ends)
            for worker in ends.workers():
                worker.suspend()
            # A standby that ignores acts rejects what is older than its patience. Forgotten parts must not grow old:
            # the supervisor replaces the suspended workers, and their verdicts would name these parts again.
            expected = len(ends.heard()) + (15 if broken == "ignores_acts" else 5)
            assert wait_until(lambda: len(ends.heard()) >= expected, 60.0)
            storm.wait_for_gates("suspended workers")
            # Only a gate that goes on can forget what it has heard of the acts of the other one.
            victims = [name for name, role in ends.roles().items() if role == "serving" or broken != "ignores_acts"]
            for name in victims:
                ends.gates[name].kill()
            for name in victims:
                ends.gates[name].restart()
            storm.wait_for_gates("restart")
        wait_for_the_acts(ends, timeout_s=10.0)
        result = promise.check(ends, storm, reconciliation.decider(ends.settings), 0)
    assert not result.holds, result
    assert getattr(result, count) > 0, result
