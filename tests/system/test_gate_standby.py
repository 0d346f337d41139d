"""Two gates on a line, as real processes: one serves, the other stands by."""

import signal
import time
from contextlib import closing

import pika
import pytest

from patchline.protocol import topology
from tests.system.conftest import GATES, wait_for
from tests.system.gates import (
    Arm,
    all_told,
    announce,
    assert_each_part_has_one_action,
    configure,
    decide,
    delete_queue,
    feed,
    is_serving,
    role,
    saved,
    stands_by,
    start,
    two_gates,
)

pytestmark = pytest.mark.timeout(240)


def test_the_second_gate_of_a_line_stands_by(line, tmp_path):
    _, arms = two_gates(line, tmp_path)
    feed(line, range(1, 50), seconds=0.01)
    wait_for(all_told(arms, 49))
    actions = assert_each_part_has_one_action(arms, range(1, 50))
    assert arms[1].acts() == []
    assert len(arms[0].acts()) == 49
    assert all((action == "accept") == (int(job[1:]) % 7 > 0 < int(job[1:]) % 3) for job, action in actions.items())


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_standby_takes_over_from_a_gate_that_is_killed_frozen_or_stopped(line, tmp_path, fault):
    gates, arms = two_gates(line, tmp_path)
    feed(line, range(1, 20))
    gates[0].send_signal(fault)
    feed(line, range(20, 60))
    wait_for(lambda: is_serving(gates[1]))
    if fault is signal.SIGSTOP:
        gates[0].send_signal(signal.SIGCONT)  # what it was about to do is no longer its task
    feed(line, range(60, 100))
    wait_for(all_told(arms, 99))
    time.sleep(3.0)
    assert_each_part_has_one_action(arms, range(1, 100))
    assert {"j1", "j2"} <= arms[0].job_ids()
    assert {"j98", "j99"} <= arms[1].job_ids()
    assert "j99" not in arms[0].job_ids()


def test_a_gate_that_wakes_up_rejects_nothing_that_the_other_gate_has_accepted_meanwhile(line, tmp_path):
    gates, arms = two_gates(line, tmp_path)
    patience_s = 20.0  # longer than the standby needs to take over
    for number in range(10):
        announce(line, f"j{number}", int(patience_s * 1000))
    announced_at = time.monotonic()
    time.sleep(1.0)
    gates[0].send_signal(signal.SIGSTOP)
    for number in range(10):
        decide(line, f"j{number}")
    wait_for(all_told(arms, 10))
    time.sleep(max(0.0, announced_at + patience_s + 1.0 - time.monotonic()))
    gates[0].send_signal(signal.SIGCONT)  # by its own count, the patience with all parts is over
    wait_for(lambda: gates[0].log.read_text().count("gate is standby") >= 2)
    time.sleep(3.0)
    assert_each_part_has_one_action(arms, range(10))
    assert {act["action"] for arm in arms for act in arm.acts()} == {"accept"}


def test_a_restarted_gate_becomes_the_standby_of_the_one_that_took_over(line, tmp_path):
    arms = [Arm(tmp_path / "arms", name) for name in ("first", "second", "again")]
    first = start(line, arms[0], tmp_path, "first")
    wait_for(lambda: is_serving(first))
    second = start(line, arms[1], tmp_path, "second")
    wait_for(lambda: stands_by(second))
    first.kill()
    first.wait()
    again = start(line, arms[2], tmp_path, "again")
    wait_for(lambda: is_serving(second))
    feed(line, range(1, 20), seconds=0.01)
    wait_for(all_told(arms, 19))
    assert not is_serving(again)
    assert_each_part_has_one_action(arms, range(1, 20))
    assert (arms[0].acts(), arms[2].acts()) == ([], [])


def test_a_standby_whose_queue_was_deleted_does_not_reject_what_the_other_gate_has_accepted(line, tmp_path):
    gates, arms = two_gates(line, tmp_path)
    memory = line.settings.paths.gate / f"l1.{GATES[1]}.sqlite"
    announce(line, "j1", patience_ms=10_000)
    wait_for(lambda: saved(memory, "expected") == 1)
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    connection.channel().queue_delete(topology.gate_queue("l1", GATES[1]))
    connection.close()
    decide(line, "j1")
    wait_for(arms[0].acts)
    wait_for(lambda: "subscribed again" in gates[1].log.read_text())
    gates[0].kill()
    wait_for(lambda: is_serving(gates[1]))
    announce(line, "j2", patience_ms=15_000)  # its patience ends after that of the first one
    wait_for(lambda: "j2" in arms[1].job_ids())
    assert [act["job_id"] for act in arms[1].acts()] == ["j2"]


def test_parts_that_only_the_standby_heard_of_are_acted_on_in_time_by_the_gate_whose_queue_was_deleted(line, tmp_path):
    configure(line, tmp_path, lease_ms=6000)  # within which a busy machine makes the queue again: no gate takes over
    gates, arms = two_gates(line, tmp_path)
    announce(line, "j1", patience_ms=12_000)
    announce(line, "j2", patience_ms=45_000)
    wait_for(lambda: saved(line.settings.paths.gate / f"l1.{GATES[0]}.sqlite", "expected") == 2)
    delete_queue(line, GATES[0])
    announce(line, "j3", patience_ms=6000)
    announce(line, "j4", patience_ms=45_000)
    decide(line, "j4")
    decide(line, "j2")
    wait_for(all_told(arms, 4))
    assert assert_each_part_has_one_action(arms, range(1, 5)) == {
        "j1": "reject", "j2": "accept", "j3": "reject", "j4": "accept"
    }  # fmt: skip
    assert [act.get("stale") for act in arms[0].acts()] == [None] * 4
    assert arms[1].acts() == []
    gates[0].kill()
    wait_for(lambda: is_serving(gates[1]))
    feed(line, range(5, 20))
    wait_for(all_told(arms, 19))
    assert_each_part_has_one_action(arms, range(1, 20))


def test_a_standby_takes_over_from_a_gate_whose_queue_stays_away(line, tmp_path):
    broker = line.settings.broker.model_copy(update={"make_queues": False})
    line.settings = line.settings.model_copy(update={"broker": broker})
    configure(line, tmp_path)
    gates, arms = two_gates(line, tmp_path)
    announce(line, "j1", patience_ms=10_000)
    wait_for(lambda: saved(line.settings.paths.gate / f"l1.{GATES[0]}.sqlite", "expected") == 1)
    delete_queue(line, GATES[0])
    feed(line, range(2, 10))
    wait_for(all_told(arms, 9))
    wait_for(lambda: is_serving(gates[1]))
    assert_each_part_has_one_action(arms, range(1, 10))
    line.broker.declare(topology.gate("l1", GATES))
    wait_for(lambda: role(gates[0]) == "standby")
    feed(line, range(10, 20))
    wait_for(all_told(arms, 19))
    gates[1].kill()
    wait_for(lambda: is_serving(gates[0]))
    feed(line, range(20, 30))
    wait_for(all_told(arms, 29))
    assert_each_part_has_one_action(arms, range(1, 30))
    assert "j29" in arms[0].job_ids()


def test_gates_make_a_deleted_lease_queue_again(line, tmp_path):
    gates, arms = two_gates(line, tmp_path)
    feed(line, range(1, 10))
    with closing(pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))) as connection:
        connection.channel().queue_delete(topology.lease_queue("l1"))
    feed(line, range(10, 40))
    wait_for(all_told(arms, 39))
    assert_each_part_has_one_action(arms, range(1, 40))
    wait_for(lambda: sorted(map(is_serving, gates)) == [False, True])


def test_no_part_gets_two_actions_if_the_queues_of_both_gates_are_deleted(line, tmp_path):
    gates, arms = two_gates(line, tmp_path)
    announce(line, "j1", patience_ms=6000)
    announce(line, "j2", patience_ms=15_000)
    memories = [line.settings.paths.gate / f"l1.{name}.sqlite" for name in GATES]
    wait_for(lambda: all(saved(memory, "expected") == 2 for memory in memories))
    delete_queue(line, *GATES)
    decide(line, "j1")
    wait_for(lambda: all(gate.log.read_text().count("subscribed again") for gate in gates))
    wait_for(lambda: is_serving(gates[0]))
    decide(line, "j2")
    feed(line, range(3, 10))
    wait_for(all_told(arms, 9))
    gates[0].kill()
    wait_for(lambda: is_serving(gates[1]))
    feed(line, range(10, 20))
    wait_for(all_told(arms, 19))
    actions = assert_each_part_has_one_action(arms, range(1, 20))
    assert (actions["j1"], actions["j2"]) == ("reject", "accept")
