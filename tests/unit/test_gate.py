import pytest

from patchline.gate.decide import Action, Gate
from patchline.gate.memory import Memory
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Announcement, Decision, Verdict

NOW = 1_800_000_000_000


def part(job_id, deadline=NOW + 1000):
    return Announcement(job_id=job_id, line="l", category="c", part_id="p", captured_at=NOW, deadline=deadline)


def verdict(job_id, decision):
    return Verdict(
        job_id=job_id,
        line="l",
        category="c",
        part_id="p",
        decision=decision,
        worker="w",
        device="cpu:0",
        attempt=1,
        received_at=NOW,
        decided_at=NOW,
    )


@pytest.fixture
def gate():
    return Gate(Action.REJECT, grace_ms=200, remember=100)


@pytest.mark.parametrize("decision", list(Decision))
def test_only_the_verdict_pass_accepts_a_part(gate, decision):
    record = gate.on_verdict(verdict("j", decision), NOW)
    assert record.action is (Action.ACCEPT if decision is Decision.PASS else Action.REJECT)
    assert record.because == decision


def test_the_configuration_can_accept_the_verdict_review():
    gate = Gate(Action.ACCEPT, grace_ms=200, remember=100)
    assert gate.on_verdict(verdict("j", Decision.REVIEW), NOW).action is Action.ACCEPT
    assert gate.on_verdict(verdict("k", Decision.FAIL), NOW).action is Action.REJECT


def test_the_gate_acts_once_per_job(gate):
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW) is not None
    assert gate.on_verdict(verdict("j", Decision.FAIL), NOW) is None


def test_a_part_without_a_verdict_is_rejected_after_its_deadline_and_the_grace_period(gate):
    gate.on_part(part("j"))
    assert gate.reject_overdue(NOW + 1199) == []
    (record,) = gate.reject_overdue(NOW + 1200)
    assert (record.job_id, record.action, record.because) == ("j", Action.REJECT, "no verdict in time")
    assert gate.reject_overdue(NOW + 5000) == []
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 1300) is None


def test_a_part_with_a_verdict_in_time_is_no_longer_pending(gate):
    gate.on_part(part("j"))
    assert gate.pending == 1
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 900).action is Action.ACCEPT
    assert gate.pending == 0
    assert gate.reject_overdue(NOW + 9000) == []


def test_parts_are_rejected_in_the_order_of_their_deadlines(gate):
    for job_id, deadline in (("late", NOW + 900), ("soon", NOW + 100), ("never", None)):
        gate.on_part(part(job_id, deadline))
    assert [record.job_id for record in gate.reject_overdue(NOW + 10_000)] == ["soon", "late"]
    assert gate.pending == 1


def test_a_repeated_announcement_or_one_after_its_verdict_changes_nothing(gate):
    gate.on_part(part("j"))
    gate.on_part(part("j"))
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    gate.on_part(part("k"))
    assert [record.job_id for record in gate.reject_overdue(NOW + 9000)] == ["j"]


def test_a_verdict_after_the_rejection_is_counted_as_late(gate):
    gate.on_part(part("j"))
    gate.reject_overdue(NOW + 2000)
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 3000) is None
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    assert gate.late_verdicts == 1


def test_a_restarted_gate_restores_its_state(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    for number in range(5):
        gate.on_part(part(f"j{number}"))
        memory.save_part(part(f"j{number}"))
    for number in range(4):
        memory.save_action(gate.on_verdict(verdict(f"j{number}", Decision.PASS), NOW))
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    restarted = Gate(Action.REJECT, grace_ms=200, remember=100)
    restarted.restore(again.load_expected(), again.load_acted())
    again.close()
    assert restarted.pending == 1
    assert restarted.on_verdict(verdict("j3", Decision.PASS), NOW) is None
    assert [record.job_id for record in restarted.reject_overdue(NOW + 9000)] == ["j4"]
    assert (
        restarted.on_verdict(verdict("j0", Decision.PASS), NOW) is not None
    )  # forgotten: only three jobs are remembered


def test_a_memory_that_cannot_be_written_does_not_stop_the_gate(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    memory._sqlite.execute("PRAGMA query_only=ON")  # no write succeeds, like on a full disk
    memory.save_part(part("j"))
    memory.save_action(gate.on_verdict(verdict("j", Decision.PASS), NOW))
    memory.enqueue(lambda: memory._sqlite.execute("PRAGMA query_only=OFF"))
    memory.save_action(gate.on_verdict(verdict("k", Decision.PASS), NOW))
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    assert again.load_acted() == [("k", "pass")]
    again.close()


@pytest.mark.timeout(20)
def test_an_error_on_the_writer_thread_is_raised_by_the_next_call(tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    memory.enqueue(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _enqueue_until_it_raises(memory)
    with pytest.raises(ZeroDivisionError):
        memory.close()


def _enqueue_until_it_raises(memory):
    while True:
        memory.enqueue(lambda: pytest.fail("a task ran after an error"))


def test_a_file_that_is_not_a_memory_is_refused(tmp_path):
    (tmp_path / "l.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(SetupError, match="move the file to another folder"):
        Memory(tmp_path / "l.sqlite", remember=3)


def test_the_number_of_remembered_jobs_is_bounded():
    gate = Gate(Action.REJECT, grace_ms=0, remember=3)
    for number in range(10):
        gate.on_verdict(verdict(f"j{number}", Decision.PASS), NOW)
    assert gate.on_verdict(verdict("j9", Decision.PASS), NOW) is None
    assert gate.on_verdict(verdict("j0", Decision.PASS), NOW) is not None
