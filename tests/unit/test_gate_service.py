"""The steps of a gate with clock, link and arm of the test: no broker, no thread, no sleep."""

import json

import pytest

from patchline.gate.decide import NO_VERDICT
from patchline.gate.instance import claim
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import (
    ActState,
)
from patchline.protocol.messages import Decision
from tests.gate_bench import Bench
from tests.own_logs import capture_own_logs

BENCH = Bench


def test_a_verdict_is_acknowledged_only_after_the_arm_has(serving):
    serving.part("j")
    serving.verdict("j")
    serving.arm.fault = "jammed"
    serving.step()
    serving.memory.enqueue(lambda: None)
    assert ("j", "accept", "pass") not in serving.acts()
    assert [act.state for act in serving.link.acts] == [ActState.INTENDED]
    serving.arm.fault = None
    serving.pass_time(0.5)
    assert serving.acts() == [("j", "accept", "pass")]
    assert [act.state for act in serving.link.acts] == [ActState.INTENDED, ActState.INTENDED, ActState.DONE]
    serving.crash()
    assert [job_id for job_id, _ in serving.acked].count("j") == 2  # the announcement and the verdict


def test_each_verdict_on_a_job_is_acknowledged_that_comes_before_its_act(serving):
    serving.part("j")
    serving.arm.fault = "jammed"
    for decision in (Decision.PASS, Decision.PASS, Decision.FAIL):
        serving.verdict("j", decision)
    serving.step()
    serving.arm.fault = None
    serving.pass_time(0.5)
    assert serving.acts() == [("j", "accept", "pass")]
    serving.memory.close()
    assert [job_id for job_id, _ in serving.acked].count("j") == 4  # the announcement and the verdicts


def test_the_first_verdict_on_a_job_decides_also_after_a_crash(serving):
    serving.arm.fault = "jammed"
    serving.verdict("j", Decision.FAIL)
    serving.verdict("j")
    serving.step()
    serving.crash()
    (kept,) = serving.unsettled("j")
    assert b'"fail"' in kept.message.body


def test_a_verdict_that_comes_again_after_a_lost_connection_takes_the_place_of_the_former_delivery(serving):
    serving.arm.fault = "jammed"
    serving.verdict("j")
    serving.step()
    serving.lose_connection()
    serving.verdict("j")
    serving.step()
    serving.arm.fault = None
    serving.pass_time(0.5)
    serving.memory.close()
    assert serving.unsettled("j") == []


def test_an_action_whose_process_crashed_is_repeated_and_not_reversed(serving):
    serving.part("j")
    serving.verdict("j")
    serving.arm.fault = "killed while it acts"
    serving.step()
    serving.crash()
    serving.verdict("j", Decision.FAIL)  # a second verdict of the same job
    serving.pass_time(10.0)
    assert serving.acts() == [("j", "accept", "pass")]


def test_the_arm_counts_as_out_of_order_until_it_acknowledges_or_has_nothing_to_do(serving):
    assert serving.service.arm_acknowledges
    serving.part("j")
    serving.verdict("j")
    serving.arm.faulty_jobs = {"j"}
    serving.pass_time(3.0)
    assert not serving.service.arm_acknowledges  # a check alone says little
    serving.arm.faulty_jobs = set()
    serving.pass_time(5.0)
    assert serving.service.arm_acknowledges
    serving.arm.fault = "switched off"
    serving.pass_time(2.0)
    assert not serving.service.arm_acknowledges
    serving.arm.fault = None
    serving.pass_time(2.0)
    assert serving.service.arm_acknowledges


def test_a_gate_says_that_it_stands_by_once_it_hears_its_line(bench):
    with capture_own_logs() as logs:
        bench.step()
        bench.now += 1.0
        bench.step()
        assert not [log["event"] for log in logs]
        bench.pass_time(0.5, active=False)
    assert [log["event"] for log in logs if "gate is" in log["event"]] == ["gate is standby"]


def test_what_is_done_is_not_done_again_even_if_the_memory_has_lost_it(serving):
    serving.part("j")
    serving.verdict("j")
    serving.step()
    serving.memory._sqlite.execute("DELETE FROM acted")
    serving.crash()
    serving.verdict("j")
    serving.pass_time(10.0)
    assert serving.acts() == []


def test_a_gate_without_rabbitmq_rejects_what_it_expects_after_a_restart(serving):
    serving.part("j")
    serving.step()
    serving.crash()
    serving.pass_time(1.5, pings=False)
    assert serving.acts() == []
    serving.pass_time(1.0, pings=False)
    assert serving.acts() == [("j", "reject", NO_VERDICT)]
    assert serving.link.declared_again > 0


def test_a_restarted_gate_without_rabbitmq_leaves_parts_to_its_partner_which_may_have_accepted_them(serving):
    serving.pass_time(1.0, other=True)
    serving.part("j")
    serving.step()
    serving.crash()
    serving.pass_time(9.0, pings=False)
    assert serving.acts() == []
    serving.act_of_other("j", ActState.DONE)
    serving.pass_time(4.0, active=False)
    assert serving.acts() == []


def test_a_restarted_gate_that_hears_neither_rabbitmq_nor_its_partner_rejects_after_five_leases(serving):
    serving.pass_time(1.0, other=True)
    serving.part("j")
    serving.step()
    serving.crash()
    serving.pass_time(11.0, pings=False)
    assert serving.acts() == [("j", "reject", NO_VERDICT)]


def test_a_standby_acts_on_nothing_and_takes_over_what_is_not_done(bench):
    bench.pass_time(3.0, active=False)
    for job_id in ("a", "b"):
        bench.part(job_id)
        bench.verdict(job_id)
    bench.act_of_other("a", ActState.DONE)
    bench.pass_time(0.5, active=False)
    assert bench.acts() == []
    bench.act_of_other("b", ActState.INTENDED)
    bench.pass_time(3.0)
    assert bench.acts() == [("b", "accept", "pass")]


def test_a_standby_whose_queue_was_missing_leaves_its_parts_to_the_gate_whose_acts_it_has_missed(bench):
    bench.pass_time(3.0, active=False)
    for job_id in ("a", "b", "c"):
        bench.part(job_id)
    bench.verdict("b")
    bench.act_of_other("c", ActState.INTENDED)
    bench.pass_time(0.5, active=False)
    bench.link.queue_loss = True
    bench.pass_time(5.0)
    assert bench.acts() == [("c", "accept", "pass")], "an action that was begun is repeated, never reversed"


def test_the_acting_gate_whose_queue_was_missing_rejects_what_it_expects(serving):
    serving.part("a")
    serving.pass_time(0.5)
    serving.link.queue_loss = True
    serving.pass_time(2.0)
    assert serving.acts() == [("a", "reject", "no verdict in time")]


def test_the_acting_gate_whose_queue_was_missing_acts_on_what_only_the_other_gate_has_heard_of(serving):
    serving.part("a", patience_ms=60_000)
    serving.verdict("done")
    serving.pass_time(0.5)
    serving.link.queue_loss = True
    serving.step()
    assert serving.link.requests == 1
    decided = {"action": "accept", "because": "pass", "score": 0.5}
    serving.pass_time(0.5)
    serving.snapshot(
        serving.open_part("a", **decided),
        serving.open_part("b", **decided),
        serving.open_part("c", due_in_s=0.8),
        serving.open_part("d", due_in_s=-0.5, **decided),
        serving.open_part("done", action="reject", because="fail"),
    )
    serving.pass_time(0.5)
    assert serving.acts() == [
        ("done", "accept", "pass"), ("a", "accept", "pass"), ("b", "accept", "pass"), ("d", "reject", NO_VERDICT)
    ]  # fmt: skip
    serving.pass_time(5.0)
    assert serving.acts()[4:] == [("c", "reject", NO_VERDICT)]
    assert serving.arm.actions[4].stale is None
    assert serving.link.requests == 1


def test_what_a_gate_has_learned_from_another_one_survives_a_crash(serving):
    serving.snapshot(serving.open_part("a", due_in_s=3.0), acted=[("b", "pass")])
    serving.step()
    serving.crash()
    serving.verdict("b", Decision.FAIL)
    serving.pass_time(2.5)
    assert serving.acts() == []
    serving.pass_time(1.0)
    assert serving.acts() == [("a", "reject", NO_VERDICT)]


def test_a_standby_whose_queue_was_missing_learns_from_the_acting_gate_what_is_done_and_what_is_open(bench):
    bench.pass_time(3.0, active=False)
    for job_id in ("done", "open", "intended"):
        bench.part(job_id, patience_ms=4000)
    bench.pass_time(0.5, active=False)
    bench.link.queue_loss = True
    bench.pass_time(0.5, active=False)
    bench.snapshot(
        bench.open_part("open", due_in_s=3.0),
        bench.open_part("intended", due_in_s=3.0, action="accept", because="pass", intended=True),
        acted=[("done", "pass")],
    )
    bench.verdict("done", Decision.FAIL)  # a second verdict of the same job
    bench.verdict("intended", Decision.FAIL)
    bench.pass_time(6.0)
    assert bench.acts() == [("intended", "accept", "pass"), ("open", "reject", NO_VERDICT)]


def test_a_gate_tells_another_one_what_is_open_and_what_is_done(serving):
    serving.verdict("done", Decision.FAIL)
    serving.step()
    serving.part("expected", patience_ms=4000)
    serving.arm.fault = "jammed"
    serving.verdict("intended")
    serving.verdict("intended-too", Decision.FAIL)
    serving.verdict("decided", Decision.FAIL)
    serving.request("g")
    serving.step()
    assert serving.link.snapshots == [], "its own request"
    serving.request()
    serving.step()
    (snapshot,) = serving.link.snapshots
    assert [(item.part.job_id, item.action, item.intended) for item in snapshot.open] == [
        ("expected", None, False),
        ("decided", "reject", False),
        ("intended", "accept", True),
        ("intended-too", "reject", True),
    ]
    assert snapshot.open[0].due_in_s == pytest.approx(4.2)
    assert snapshot.acted == (("done", "fail"),)


def test_a_gate_that_reads_an_old_request_answers_once_it_is_current(bench):
    bench.request()
    bench.part("a")
    bench.step()
    assert bench.link.snapshots == []
    bench.act_of_other("a", ActState.DONE)
    bench.pass_time(0.5, active=False)
    (snapshot,) = bench.link.snapshots
    assert (snapshot.open, snapshot.acted) == ((), (("a", "pass"),))


def test_a_snapshot_that_waited_in_the_queue_gives_no_part_more_time(bench):
    bench.snapshot(bench.open_part("a", due_in_s=60.0), sent_ago_ms=58_000)
    bench.step()
    bench.pass_time(3.0)
    assert bench.acts() == [("a", "reject", NO_VERDICT)]


def test_a_large_snapshot_is_sent_in_several_messages(serving):
    for number in range(1200):
        serving.gate.on_part(serving.open_part(f"j{number}").part, serving.now)
    serving.request()
    serving.step()
    assert [len(snapshot.open) for snapshot in serving.link.snapshots] == [500, 500, 200]


def test_a_request_is_repeated_a_few_times_until_it_is_answered(serving):
    serving.link.queue_loss = True
    serving.pass_time(2.0)
    assert 1 < serving.link.requests < 5
    serving.pass_time(10.0)
    assert serving.link.requests == 5
    serving.link.queue_loss = True
    serving.pass_time(0.5)
    serving.snapshot()
    serving.pass_time(10.0)
    assert serving.link.requests == 6


def test_a_former_holder_that_has_missed_the_acts_of_another_gate_leaves_its_parts_to_it(serving):
    serving.part("a", patience_ms=10_000)
    serving.pass_time(0.5)
    serving.pass_time(3.0, pings=False)
    serving.link.queue_loss = True
    serving.step()
    serving.request()
    serving.pass_time(0.5, active=False)
    assert serving.link.snapshots == [], "it does not know what the other one did"
    serving.ping_of_active_other()
    serving.pass_time(0.5, active=False)
    assert serving.link.snapshots[0].open == ()
    serving.pass_time(20.0)
    assert serving.acts() == []
    assert serving.link.requests > 1


def test_a_gate_that_stays_blind_tells_another_one_all_and_leaves_the_lease_to_it(serving):
    serving.part("a", patience_ms=10_000)
    serving.arm.fault = "jammed"
    serving.verdict("b")
    serving.pass_time(1.0)
    serving.arm.fault = None
    serving.link.queue_loss = True
    serving.step()
    serving.pass_time(1.5, deaf=True, other=True)
    assert serving.link.snapshots == []
    serving.link.unsent = 1
    serving.pass_time(1.0, deaf=True, other=True)
    assert [(item.part.job_id, item.intended) for item in serving.link.snapshots[0].open] == [("a", False), ("b", True)]
    assert serving.link.holds_lease, "the other gate does not know all yet"
    serving.link.unsent = 0
    serving.pass_time(10.0, deaf=True, other=True)
    assert not serving.link.holds_lease
    assert serving.acts() == []
    serving.act_of_other("b", ActState.DONE)
    serving.pass_time(0.5, active=False)
    assert serving.link.holds_lease
    serving.pass_time(20.0)
    assert serving.acts() == []


def test_a_gate_that_stays_blind_alone_keeps_the_lease_and_rejects_what_it_expects(serving):
    serving.part("a", patience_ms=5000)
    serving.step()
    serving.link.queue_loss = True
    serving.pass_time(10.0, deaf=True)
    assert serving.acts() == [("a", "reject", NO_VERDICT)]
    assert serving.link.holds_lease
    assert serving.link.snapshots == []


def test_the_verdict_of_a_replayed_job_and_one_of_another_line_move_no_arm(serving):
    serving.verdict("replayed", replay=True)
    serving.verdict("foreign", line="other")
    serving.part("foreign-part", line="other")
    with capture_own_logs() as logs:
        serving.pass_time(3.0)
    assert serving.acts() == []
    assert [log["event"] for log in logs if log["log_level"] != "warning"] == [
        "verdict of a replayed job, no action",
        "invalid message in the gate's queue",
        "invalid message in the gate's queue",
    ]


@pytest.mark.parametrize("offset_ms", [-15_000, 75_000])
def test_a_wrong_clock_of_the_gate_changes_no_decision_and_is_named(serving, offset_ms):
    serving.wall_offset_ms = offset_ms
    serving.part("j")
    with capture_own_logs() as logs:
        serving.step()
        serving.verdict("j")
        serving.step()
    assert serving.acts() == [("j", "accept", "pass")]
    differing = [(log["source"], log["host"], log["offset_s"]) for log in logs if "clocks differ" in log["event"]]
    assert differing == [("publisher", "l", offset_ms / 1000), ("worker", "host-7", offset_ms / 1000)]
    offset = serving.metrics.registry.get_sample_value(
        "patchline_gate_clock_offset_seconds", {"line": "l", "source": "worker", "host": "host-7"}
    )
    assert offset == offset_ms / 1000


def clocks(bench):
    """The hosts whose clocks a gate shows."""
    families = {family.name: family for family in bench.metrics.registry.collect()}
    return [sample.labels["host"] for sample in families["patchline_gate_clock_offset_seconds"].samples]


def test_the_clock_of_a_host_that_is_gone_is_shown_no_longer(serving):
    serving.verdict("a", decided_ago_ms=5000, worker="wrong:cpu:0:9")
    serving.step()
    assert clocks(serving) == ["wrong"]
    serving.now += 600.0
    serving.pass_time(1.0)
    serving.verdict("b")
    serving.step()
    assert clocks(serving) == ["host-7"]


def test_a_gate_shows_no_more_clocks_than_of_64_hosts_and_those_that_it_heard_last(serving):
    for number in range(100):
        serving.verdict(f"j{number}", worker=f"pod-{number}:cpu:0:9")
        serving.verdict(f"k{number}")
        serving.step()
    assert len(clocks(serving)) == 64
    assert "host-7" in clocks(serving)


def test_parts_from_before_the_start_are_judged_by_their_age(bench):
    bench.part("gone", captured_ago_ms=60_000)
    bench.part("fresh", captured_ago_ms=0, patience_ms=4000)
    bench.step()
    bench.pass_time(3.0)
    assert [(act.job_id, act.stale) for act in bench.arm.actions] == [("gone", True)]
    bench.pass_time(2.0)
    assert [(act.job_id, act.stale) for act in bench.arm.actions][1:] == [("fresh", None)]


def test_an_old_image_that_was_announced_before_the_start_has_the_time_until_its_deadline(bench):
    hour_ms = 3_600_000  # longer than max_wait_ms
    bench.part("old", captured_ago_ms=hour_ms, patience_ms=hour_ms + 4000)
    bench.step()
    bench.pass_time(3.5)
    assert bench.acts() == []
    bench.pass_time(1.0)
    assert bench.acts() == [("old", "reject", NO_VERDICT)]


def test_acts_are_counted_by_category_and_those_of_unknown_ones_together(serving):
    serving.part("j")
    serving.verdict("j")
    serving.pass_time(1.0)
    labels = {"line": "l", "action": "accept", "because": "pass"}
    count = serving.metrics.registry.get_sample_value
    assert count("patchline_gate_acts_total", labels | {"category": "c"}) == 1
    serving.metrics.acted(serving.arm.actions[0].model_copy(update={"category": "other"}), 0.1)
    assert count("patchline_gate_acts_total", labels | {"category": "unknown"}) == 1
    assert count("patchline_gate_acts_total", labels | {"category": "other"}) is None


def test_a_gate_that_acted_last_forgets_no_part_while_it_waits_to_act_again(serving):
    serving.part("j")
    serving.step()
    serving.now += 1000.0
    serving.crash()
    serving.pass_time(0.5, active=False)
    serving.service.forget_overdue(5.0)
    serving.pass_time(3.0)
    assert [(act.job_id, act.because, act.stale) for act in serving.arm.actions] == [("j", NO_VERDICT, True)]


def test_a_gate_that_was_killed_says_again_what_it_has_done_if_rabbitmq_may_not_know_it(serving):
    for job_id in ("a", "b"):
        serving.part(job_id)
        serving.verdict(job_id)
    serving.step()
    serving.link.told = [act for act in serving.link.acts if act.job_id == "a" and act.state is ActState.DONE]
    serving.step()
    serving.crash()
    assert [(act.job_id, act.state) for act in serving.link.acts] == [("b", ActState.DONE)]


def test_a_standby_keeps_what_the_acting_gate_has_not_done_for_long_and_does_it_when_that_one_is_killed(bench):
    """An arm that was slow to answer had such parts; no gate acted on them after the acting one was killed."""
    bench.pass_time(3.0, active=False)
    bench.part("j")
    bench.verdict("j")
    bench.pass_time(100.0, active=False)
    bench.service.forget_overdue(60.0)
    bench.pass_time(3.0)
    assert [(job_id, because) for job_id, _, because in bench.acts()] == [("j", NO_VERDICT)]


def test_a_fault_of_the_arm_is_counted_and_retried_with_a_growing_pause(serving):
    assert serving.service.arm_works
    serving.arm.fault = "jammed"
    serving.part("j")
    with capture_own_logs() as logs:
        serving.pass_time(12.0)
    assert not serving.service.arm_works
    faults = [log for log in logs if "not acknowledged" in log["event"]]
    pauses = [log["retry_in_s"] for log in faults if log["job_id"] == "j"]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    failures = serving.metrics.registry.get_sample_value("patchline_gate_act_failures_total", {"line": "l"})
    assert failures == len(faults)
    serving.arm.fault = None
    serving.pass_time(5.0)
    assert serving.acts() == [("j", "reject", NO_VERDICT)]
    assert serving.service.arm_works


def test_an_arm_that_is_out_of_order_while_nothing_is_due_works_again_once_it_says_so(serving):
    serving.arm.fault = "switched off"
    serving.pass_time(2.0)
    assert not serving.service.arm_works
    serving.arm.fault, serving.arm.silence = None, "no answer"
    serving.pass_time(10.0)
    assert not serving.service.arm_works, "it takes no signs of life"
    serving.arm.silence = None
    serving.pass_time(10.0)
    assert serving.service.arm_works


def test_a_part_on_which_the_arm_never_acts_delays_no_other_part(serving):
    serving.arm.faulty_jobs = {"j2"}
    for number in range(5):
        serving.part(f"j{number}")
        serving.verdict(f"j{number}")
    serving.pass_time(0.5)
    assert [job_id for job_id, *_ in serving.acts()] == ["j0", "j1", "j3", "j4"]
    serving.pass_time(10.0)  # now the pause of j2 is long
    serving.part("j5")
    serving.verdict("j5")
    serving.step()
    serving.step()
    assert serving.acts()[4:] == [("j5", "accept", "pass")]
    serving.arm.faulty_jobs = set()
    serving.pass_time(6.0)
    assert serving.acts()[5:] == [("j2", "accept", "pass")]


def test_a_part_that_is_due_does_not_wait_for_the_stale_acts_after_an_outage(serving):
    serving.arm.fault = "jammed"
    for number in range(30):
        serving.part(f"old{number}")
    serving.pass_time(5.0)
    serving.arm.fault = None
    serving.now += 5.0  # the end of the pause
    serving.part("fresh")
    serving.verdict("fresh")
    serving.pass_time(3.0)
    assert serving.acts()[0] == ("fresh", "accept", "pass")
    assert len(serving.acts()) == 31


def test_late_verdicts_are_counted_unless_the_gate_reads_what_it_has_missed(bench):
    bench.part("missed", captured_ago_ms=5000)
    bench.verdict("missed")
    bench.step()
    assert bench.gate.late_verdicts == 0
    bench.pass_time(3.0)
    bench.part("late")
    bench.pass_time(2.0)
    bench.verdict("late")
    bench.step()
    assert bench.gate.late_verdicts == 1


def test_after_a_freeze_a_gate_does_not_reject_before_it_has_heard_what_others_have_done(serving):
    serving.part("j", patience_ms=4000)
    serving.step()
    serving.now += 12.0
    serving.pass_time(1.0, pings=False)
    assert serving.acts() == []
    serving.act_of_other("j", ActState.DONE)
    serving.pass_time(2.0, active=False)
    assert serving.acts() == []


def test_a_gate_that_was_frozen_and_then_hears_nothing_rejects_what_it_expects_after_a_while(serving):
    serving.part("j", patience_ms=4000)
    serving.step()
    serving.now += 12.0
    serving.pass_time(11.0, pings=False)
    assert serving.acts() == [("j", "reject", NO_VERDICT)]


def test_two_gates_of_a_host_get_names_of_their_own_and_a_taken_name_is_refused(tmp_path):
    first, second = claim(tmp_path, "l", None), claim(tmp_path, "l", None)
    assert second.name == f"{first.name}-2"
    assert claim(tmp_path, "other-line", None).name == first.name
    with pytest.raises(SetupError, match=r"already running.*--instance"):
        claim(tmp_path, "l", first.name)
    first.close()
    assert claim(tmp_path, "l", None).name == first.name


def test_the_line_of_json_for_the_arm_names_job_part_and_action(serving):
    serving.verdict("j", Decision.FAIL)
    serving.step()
    (action,) = serving.arm.actions
    assert json.loads(action.to_json()).keys() == {
        "job_id", "line", "category", "part_id", "action", "because", "acted_at"
    }  # fmt: skip


def hang(bench, monkeypatch, seconds):
    """Have the disk take so many seconds for the next intent."""
    write = bench.journal.write_intent

    def hang(record):
        monkeypatch.setattr(bench.journal, "write_intent", write)
        write(record)
        bench.now += seconds

    monkeypatch.setattr(bench.journal, "write_intent", hang)


def test_an_accept_whose_time_is_over_when_the_disk_has_taken_the_intent_becomes_a_reject(serving, monkeypatch):
    serving.part("j", patience_ms=500)
    serving.verdict("j")
    hang(serving, monkeypatch, 1.0)
    serving.step()
    assert serving.acts() == [("j", "reject", NO_VERDICT)]
    assert [(act.action, act.state) for act in serving.link.acts] == [("reject", "intended"), ("reject", "done")]
    serving.crash()
    serving.pass_time(5.0)
    assert serving.acts() == []


@pytest.mark.parametrize("decision", [Decision.PASS, Decision.FAIL])
def test_a_gate_that_lost_its_lease_while_the_disk_hung_leaves_the_act_to_the_gate_that_took_over(
    serving, monkeypatch, decision
):
    serving.pass_time(1.0, other=True)
    serving.part("j", patience_ms=500)
    serving.verdict("j", decision)
    hang(serving, monkeypatch, 30.0)
    serving.step()
    assert (serving.acts(), serving.link.acts) == ([], [])
    serving.ping_of_active_other()
    serving.act_of_other("j", ActState.DONE)
    serving.pass_time(5.0)
    assert serving.acts() == []
