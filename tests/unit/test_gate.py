import pytest

from patchline.gate.decide import Act, Gate
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
    return Gate(Act.REJECT, grace_ms=200, remember=100)


@pytest.mark.parametrize("decision", list(Decision))
def test_only_a_pass_lets_the_part_through(gate, decision):
    action = gate.on_verdict(verdict("j", decision), NOW)
    assert action.action is (Act.ACCEPT if decision is Decision.PASS else Act.REJECT)
    assert action.because == decision


def test_review_may_be_accepted_by_configuration():
    gate = Gate(Act.ACCEPT, grace_ms=200, remember=100)
    assert gate.on_verdict(verdict("j", Decision.REVIEW), NOW).action is Act.ACCEPT
    assert gate.on_verdict(verdict("k", Decision.FAIL), NOW).action is Act.REJECT


def test_it_acts_once_per_job(gate):
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW) is not None
    assert gate.on_verdict(verdict("j", Decision.FAIL), NOW) is None
    assert gate.repeated_verdicts == 1


def test_silence_rejects_after_the_deadline_and_the_grace(gate):
    gate.on_part(part("j"))
    assert gate.on_time(NOW + 1199) == []
    (action,) = gate.on_time(NOW + 1200)
    assert (action.job_id, action.action, action.because) == ("j", Act.REJECT, "no verdict in time")
    assert gate.on_time(NOW + 5000) == []
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 1300) is None


def test_a_verdict_in_time_ends_the_waiting(gate):
    gate.on_part(part("j"))
    assert gate.waiting == 1
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 900).action is Act.ACCEPT
    assert gate.waiting == 0
    assert gate.on_time(NOW + 9000) == []


def test_parts_are_rejected_in_the_order_of_their_deadlines(gate):
    for job_id, deadline in (("late", NOW + 900), ("soon", NOW + 100), ("never", None)):
        gate.on_part(part(job_id, deadline))
    assert [action.job_id for action in gate.on_time(NOW + 10_000)] == ["soon", "late"]
    assert gate.waiting == 1


def test_an_announcement_that_comes_twice_or_after_its_verdict_changes_nothing(gate):
    gate.on_part(part("j"))
    gate.on_part(part("j"))
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    gate.on_part(part("k"))
    assert [action.job_id for action in gate.on_time(NOW + 9000)] == ["j"]


def test_a_verdict_after_the_rejection_is_counted_as_late(gate):
    gate.on_part(part("j"))
    gate.on_time(NOW + 2000)
    assert gate.on_verdict(verdict("j", Decision.PASS), NOW + 3000) is None
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    gate.on_verdict(verdict("k", Decision.PASS), NOW)
    assert (gate.late_verdicts, gate.repeated_verdicts) == (1, 2)


def test_a_gate_that_restarts_goes_on_where_it_ended(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    for number in range(5):
        gate.on_part(part(f"j{number}"))
        memory.expect(part(f"j{number}"))
    for number in range(4):
        memory.acted(gate.on_verdict(verdict(f"j{number}", Decision.PASS), NOW))
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    restarted = Gate(Act.REJECT, grace_ms=200, remember=100)
    restarted.restore(again.expected(), again.remembered())
    again.close()
    assert restarted.waiting == 1
    assert restarted.on_verdict(verdict("j3", Decision.PASS), NOW) is None
    assert [action.job_id for action in restarted.on_time(NOW + 9000)] == ["j4"]
    assert restarted.on_verdict(verdict("j0", Decision.PASS), NOW) is not None  # beyond what is remembered


def test_a_memory_that_cannot_be_written_stops_no_part(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    memory._file.execute("PRAGMA query_only=ON")  # as on a full disk
    memory.expect(part("j"))
    memory.acted(gate.on_verdict(verdict("j", Decision.PASS), NOW))
    memory.then(lambda: memory._file.execute("PRAGMA query_only=OFF"))
    memory.acted(gate.on_verdict(verdict("k", Decision.PASS), NOW))
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    assert again.remembered() == [("k", "pass")]
    again.close()


@pytest.mark.timeout(20)
def test_what_fails_behind_the_gate_is_not_passed_over(tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    memory.then(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _tell_for_ever(memory)
    with pytest.raises(ZeroDivisionError):
        memory.close()


def _tell_for_ever(memory):
    while True:
        memory.then(lambda: pytest.fail("came after a fault"))


def test_a_file_that_is_no_memory_is_refused(tmp_path):
    (tmp_path / "l.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(SetupError, match="move it aside"):
        Memory(tmp_path / "l.sqlite", remember=3)


def test_what_it_remembers_is_bounded():
    gate = Gate(Act.REJECT, grace_ms=0, remember=3)
    for number in range(10):
        gate.on_verdict(verdict(f"j{number}", Decision.PASS), NOW)
    assert gate.on_verdict(verdict("j9", Decision.PASS), NOW) is None
    assert gate.on_verdict(verdict("j0", Decision.PASS), NOW) is not None
