import errno
import json
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from patchline import config
from patchline.gate.decide import NO_VERDICT, Gate, Heard, Permit
from patchline.gate.journal import Journal
from patchline.gate.memory import Memory
from patchline.protocol.gate_messages import Act, Action, ActionRecord, ActState
from patchline.protocol.messages import Decision
from patchline.runtime import damage
from tests import gate_input

NOW_MS = 1_800_000_000_000
NOW = 1000.0  # seconds on the monotonic clock, which has nothing to do with NOW_MS
ALL, REJECT_ONLY, NOTHING = Permit(True, True), Permit(False, True), Permit(False, False)
RULES = config.GateRules(max_wait_ms=5000, grace_ms=200)


def part(job_id, deadline=NOW_MS + 1000, captured_at=NOW_MS, **fields):
    return gate_input.announcement(job_id, captured_at, deadline=deadline, **fields)


def verdict(job_id, decision=Decision.PASS, **fields):
    return gate_input.verdict(job_id, NOW_MS, decision, **fields)


def act_of(record, state):
    return Act(**record.model_dump(), gate="other", state=state)


def new_gate(rules=RULES, remember=100):
    return Gate(lambda _: rules, stale_after_s=1.0, remember=remember)


@pytest.fixture
def gate():
    return new_gate()


def act(gate, now=NOW, permit=ALL):
    """Do everything that is due and permitted. Return the records."""
    records = []
    while (record := gate.next_action(now, NOW_MS, permit)) is not None:
        gate.parts.intend(record)
        gate.done(record.job_id, record.because)
        records.append(record)
    return records


def actions(records):
    return [(record.job_id, record.action, record.because) for record in records]


@pytest.mark.parametrize("decision", list(Decision))
def test_only_the_verdict_pass_accepts_a_part(gate, decision):
    gate.on_verdict(verdict("j", decision), NOW)
    action = Action.ACCEPT if decision is Decision.PASS else Action.REJECT
    assert actions(act(gate)) == [("j", action, decision)]


def test_the_configuration_can_accept_the_verdict_review():
    gate = new_gate(config.GateRules(review_action="accept"))
    gate.on_verdict(verdict("j", Decision.REVIEW), NOW)
    gate.on_verdict(verdict("k", Decision.FAIL), NOW)
    assert actions(act(gate)) == [("j", Action.ACCEPT, "review"), ("k", Action.REJECT, "fail")]


def test_rules_can_differ_by_line_and_by_category_which_prevails():
    gate = config.Gate(
        grace_ms=100,
        lines={"l": config.GateOverride(max_wait_ms=2000, grace_ms=50)},
        categories={"c": config.GateOverride(max_wait_ms=500, review_action="accept")},
    )
    assert gate.rules("l", "c") == config.GateRules(review_action="accept", max_wait_ms=500, grace_ms=50)
    assert gate.rules("l", "d") == config.GateRules(max_wait_ms=2000, grace_ms=50)
    assert gate.rules("m", "d") == config.GateRules(grace_ms=100)


def test_the_gate_acts_once_per_job(gate):
    assert gate.on_verdict(verdict("j"), NOW) is Heard.DECIDED
    assert gate.on_verdict(verdict("j", Decision.FAIL), NOW) is Heard.KNOWN
    assert actions(act(gate)) == [("j", Action.ACCEPT, "pass")]
    assert gate.on_verdict(verdict("j", Decision.FAIL), NOW) is Heard.KNOWN
    assert act(gate) == []


def test_a_part_without_a_verdict_is_rejected_after_its_patience_and_the_grace_period(gate):
    gate.on_part(part("j"), NOW)
    assert act(gate, NOW + 1.19) == []
    assert actions(act(gate, NOW + 1.21)) == [("j", Action.REJECT, NO_VERDICT)]
    assert act(gate, NOW + 5) == []
    assert gate.on_verdict(verdict("j"), NOW + 5) is Heard.LATE
    assert act(gate, NOW + 5) == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_patience_does_not_depend_on_the_clock_of_the_publisher(gate, hours):
    captured_at = NOW_MS + hours * 3_600_000
    gate.on_part(part("j", captured_at + 1000, captured_at), NOW)
    assert act(gate, NOW + 1.19) == []
    assert len(act(gate, NOW + 1.21)) == 1


@pytest.mark.parametrize("captured_before_ms", [-3_600_000, 0, 500, 3_600_000])
def test_a_part_is_rejected_at_its_deadline_however_long_before_its_announcement_it_was_captured(
    gate, captured_before_ms
):
    captured_at = NOW_MS - captured_before_ms
    deadline = max(NOW_MS, captured_at) + 1000
    gate.on_part(part("j", deadline, captured_at, announced_at=NOW_MS), NOW)
    assert act(gate, NOW + 1.19) == []
    assert len(act(gate, NOW + 1.21)) == 1


@pytest.mark.parametrize("deadline", [None, NOW_MS + 3_600_000])
def test_a_part_without_a_deadline_or_with_a_far_one_is_rejected_after_the_longest_wait(gate, deadline):
    gate.on_part(part("j", deadline), NOW)
    assert act(gate, NOW + 5.19) == []
    assert len(act(gate, NOW + 5.21)) == 1


def test_a_pass_that_arrives_too_late_is_no_pass(gate):
    gate.on_part(part("j"), NOW)
    assert gate.on_verdict(verdict("j"), NOW + 1.3) is Heard.LATE
    assert actions(act(gate, NOW + 1.3)) == [("j", Action.REJECT, NO_VERDICT)]


def test_a_pass_that_cannot_be_acted_on_in_time_becomes_a_reject(gate):
    gate.on_part(part("j"), NOW)
    gate.on_verdict(verdict("j"), NOW + 0.5)
    assert act(gate, NOW + 0.6, REJECT_ONLY) == []
    assert actions(act(gate, NOW + 1.3, REJECT_ONLY)) == [("j", Action.REJECT, NO_VERDICT)]


def test_without_a_permit_nothing_is_done_and_nothing_is_lost(gate):
    gate.on_part(part("j"), NOW)
    gate.on_verdict(verdict("k"), NOW)
    assert act(gate, NOW + 3, NOTHING) == []
    assert {record.job_id for record in act(gate, NOW + 3)} == {"j", "k"}


def test_a_part_with_a_verdict_in_time_is_no_longer_expected(gate):
    gate.on_part(part("j"), NOW)
    assert gate.parts.expected == 1
    gate.on_verdict(verdict("j"), NOW + 0.9)
    assert (gate.parts.expected, gate.parts.undone) == (0, 1)
    assert actions(act(gate, NOW + 0.9)) == [("j", Action.ACCEPT, "pass")]
    assert act(gate, NOW + 9) == []


def test_parts_are_rejected_in_the_order_of_their_deadlines(gate):
    for job_id, deadline in (("late", NOW_MS + 900), ("soon", NOW_MS + 100), ("none", None)):
        gate.on_part(part(job_id, deadline), NOW)
    assert [record.job_id for record in act(gate, NOW + 1.2)] == ["soon", "late"]
    assert gate.parts.expected == 1


def test_a_repeated_announcement_or_one_after_its_verdict_changes_nothing(gate):
    assert gate.on_part(part("j"), NOW)
    assert not gate.on_part(part("j"), NOW + 1)
    gate.on_verdict(verdict("k"), NOW)
    assert not gate.on_part(part("k"), NOW)
    act(gate)
    assert not gate.on_part(part("k"), NOW)
    assert [record.job_id for record in act(gate, NOW + 1.3)] == ["j"]


def test_an_action_that_comes_too_late_for_its_part_is_stale_and_comes_after_the_others(gate):
    gate.on_part(part("j"), NOW)
    gate.on_part(part("k", deadline=NOW_MS + 3000), NOW)
    assert [(record.job_id, record.stale) for record in act(gate, NOW + 3.3)] == [("k", None), ("j", True)]
    gate.on_verdict(verdict("old", captured_at=NOW_MS - 9000), NOW, waited_s=9.0)
    gate.on_verdict(verdict("new", captured_at=NOW_MS - 1000), NOW, waited_s=1.0)
    assert [(record.job_id, record.stale) for record in act(gate)] == [("new", None), ("old", True)]


def test_an_action_that_failed_is_repeated_and_never_becomes_the_opposite(gate):
    gate.on_part(part("j"), NOW)
    gate.on_verdict(verdict("j"), NOW)
    gate.parts.intend(gate.next_action(NOW, NOW_MS, ALL))
    assert gate.next_action(NOW + 9, NOW_MS, REJECT_ONLY) is None
    record = gate.next_action(NOW + 9, NOW_MS, ALL)
    assert (record.action, record.because, record.stale) == (Action.ACCEPT, "pass", True)


def test_an_intended_action_of_an_earlier_process_is_repeated(gate):
    record = ActionRecord(
        job_id="j", line="l", category="c", part_id="p", action="accept", because="pass", acted_at=NOW_MS
    )
    gate.restore([], [record], NOW)
    assert not gate.on_part(part("j"), NOW)
    assert gate.on_verdict(verdict("j", Decision.FAIL), NOW) is Heard.KNOWN
    assert actions(act(gate, NOW + 60)) == [("j", Action.ACCEPT, "pass")]


def test_a_standby_repeats_no_act_that_was_announced_and_does_the_others():
    active, standby = new_gate(), new_gate()
    for gate in (active, standby):
        for job_id in ("a", "b", "c"):
            gate.on_part(part(job_id), NOW)
        gate.on_verdict(verdict("a"), NOW)
        gate.on_verdict(verdict("b", Decision.FAIL), NOW)
    standby.on_act(act_of(active.next_action(NOW, NOW_MS, ALL), ActState.DONE), NOW)
    assert actions(act(standby)) == [("b", Action.REJECT, "fail")]
    assert actions(act(standby, NOW + 1.3)) == [("c", Action.REJECT, NO_VERDICT)]


def test_a_standby_repeats_the_act_that_the_active_gate_intended(gate):
    active = new_gate()
    active.on_verdict(verdict("j"), NOW)
    gate.on_part(part("j"), NOW)
    gate.on_act(act_of(active.next_action(NOW, NOW_MS, ALL), ActState.INTENDED), NOW)
    assert actions(act(gate, NOW + 9)) == [("j", Action.ACCEPT, "pass")]


def test_a_standby_forgets_what_the_active_gate_must_have_done_long_ago(gate):
    gate.on_part(part("j"), NOW)
    gate.on_part(part("k", deadline=None), NOW)
    gate.on_verdict(verdict("m", deadline=NOW_MS + 1000, captured_at=NOW_MS), NOW)
    assert gate.parts.forget_overdue(NOW + 6, overdue_s=5.0) == []
    assert set(gate.parts.forget_overdue(NOW + 7, overdue_s=5.0)) == {"j", "m"}
    assert (gate.parts.expected, gate.parts.undone) == (1, 0)


def save(memory, record):
    memory.save_action(record.job_id, record.because)


def done(gate, job_id, decision=Decision.PASS):
    gate.on_verdict(verdict(job_id, decision), NOW)
    (record,) = act(gate)
    return record


def test_a_restarted_gate_restores_its_state(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    for number in range(5):
        gate.on_part(part(f"j{number}"), NOW)
        memory.save_part(part(f"j{number}"), NOW_MS)
    for number in range(4):
        save(memory, done(gate, f"j{number}"))
    memory.save_held_last(True)
    memory.save_has_partner(True)
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    restarted = new_gate()
    restarted.restore(again.load_acted(), [], NOW)
    ((expected),) = again.load_expected()
    assert (expected.part.job_id, expected.arrived_at) == ("j4", NOW_MS)
    assert again.load_held_last()
    assert again.load_has_partner()
    again.close()
    restarted.on_part(expected.part, NOW, age_s=1.0)
    assert restarted.on_verdict(verdict("j3"), NOW) is Heard.KNOWN
    assert [record.job_id for record in act(restarted, NOW + 0.21)] == ["j4"]
    assert restarted.on_verdict(verdict("j0"), NOW) is Heard.DECIDED  # forgotten: only three jobs are remembered


def test_the_memory_of_an_earlier_build_is_taken_over(tmp_path):
    legacy = sqlite3.connect(tmp_path / "l.sqlite")
    legacy.execute("CREATE TABLE expected (job_id TEXT PRIMARY KEY, part TEXT)")
    legacy.execute("CREATE TABLE acted (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, because TEXT)")
    legacy.execute("INSERT INTO expected VALUES ('j', ?)", (part("j").model_dump_json(),))
    legacy.execute("INSERT INTO acted (job_id, because) VALUES ('k', 'pass')")
    legacy.commit()
    legacy.close()
    memory = Memory(tmp_path / "l.host.sqlite", remember=3, legacy=tmp_path / "l.sqlite")
    ((expected),) = memory.load_expected()
    assert (expected.part, expected.arrived_at) == (part("j"), NOW_MS)
    assert memory.load_acted() == [("k", "pass")]
    assert memory.load_held_last()  # its gate was the only one
    memory.save_part(part("new"), NOW_MS)
    memory.close()
    assert not (tmp_path / "l.sqlite").exists()
    second = Memory(tmp_path / "l.host-2.sqlite", remember=3, legacy=tmp_path / "l.sqlite")
    assert (second.load_expected(), second.load_held_last(), second.load_has_partner()) == ([], False, False)
    second.close()


def test_a_memory_that_cannot_be_written_does_not_stop_the_gate(gate, tmp_path):
    memory = Memory(tmp_path / "l.sqlite", remember=3)
    memory._sqlite.execute("PRAGMA query_only=ON")  # no write succeeds, like on a full disk
    memory.save_part(part("j"), NOW_MS)
    save(memory, done(gate, "j"))
    memory.enqueue(lambda: memory._sqlite.execute("PRAGMA query_only=OFF"))
    save(memory, done(gate, "k"))
    memory.close()
    again = Memory(tmp_path / "l.sqlite", remember=3)
    assert again.load_acted() == [("k", "pass")]
    again.close()


def test_a_journal_knows_what_was_intended_and_what_was_done(gate, tmp_path):
    path = tmp_path / "l.journal"
    journal = Journal(path)
    first, second = done(gate, "j"), done(gate, "k", Decision.FAIL)
    journal.write_intent(first)
    journal.write_done(first)
    journal.write_intent(second)
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"intent":{"job_id":"torn')
    again = Journal(path)
    assert (again.done, again.intended) == ([first], [second])
    again.close()


def test_a_journal_knows_of_which_acts_nobody_was_told_also_in_a_new_file(gate, tmp_path):
    path, tasks = tmp_path / "l.journal", []
    journal = Journal(path, max_bytes=1)
    first, second = done(gate, "j"), done(gate, "k")
    for record in (first, second):
        journal.write_done(record)
    journal.write_told(first)
    journal.rotate(tasks.append)
    tasks[0]()
    journal.close()
    again = Journal(path)
    assert again.untold == [second]
    again.write_told(second)
    again.close()
    last = Journal(path)
    assert (last.untold, last.done) == ([], [second])
    last.close()


def test_a_full_journal_is_deleted_once_the_memory_has_its_contents(gate, tmp_path):
    path, tasks = tmp_path / "l.journal", []
    journal = Journal(path, max_bytes=1)
    first, second = done(gate, "j"), done(gate, "k")
    journal.write_done(first)
    journal.write_told(first)
    journal.rotate(tasks.append)
    journal.write_done(second)
    journal.rotate(tasks.append)  # nothing: the memory has not saved the first yet
    assert [record.job_id for record in Journal(path).done] == ["j", "k"]
    (task,) = tasks
    task()
    assert [record.job_id for record in Journal(path).done] == ["k"]
    journal.rotate(tasks.append)
    assert len(tasks) == 2
    journal.close()


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


def test_a_file_that_is_not_a_memory_is_set_aside_and_a_new_one_is_used(tmp_path):
    (tmp_path / "l.g.sqlite").write_bytes(b"not a database" * 1000)
    memory = Memory(tmp_path / "l.g.sqlite", remember=3)
    memory.save_part(part("j"), NOW_MS)
    memory.close()
    again = Memory(tmp_path / "l.g.sqlite", remember=3)
    assert [expected.part.job_id for expected in again.load_expected()] == ["j"]
    again.close()
    (aside,) = damage.set_aside_files(tmp_path, "l")
    assert aside.read_bytes().startswith(b"not a database")


def large_memory(path, jobs=300):
    """Fill a memory: every second job is expected, the others are acted on."""
    memory = Memory(path, remember=10 * jobs)
    for number in range(jobs):
        if number % 2:
            memory.save_action(f"j{number:04}", "pass")
        else:
            memory.save_part(part(f"j{number:04}"), NOW_MS)
    memory.save_held_last(True)
    memory.close()


def overwrite_page_with(path, text, damaged):
    """Overwrite the page that has a text in a row of its table, not of an index."""
    data = path.read_bytes()
    (hit, *_) = [start for start in range(0, len(data), 4096) if text in data[start : start + 4096]]
    path.write_bytes(data[:hit] + damaged + data[hit + 4096 :])


@pytest.mark.parametrize("damaged", [bytes(4096), b"\xa5" * 4096], ids=["zeros", "garbage"])
def test_of_a_memory_with_a_damaged_page_everything_else_is_used(tmp_path, damaged):
    path = tmp_path / "l.g.sqlite"
    large_memory(path)
    overwrite_page_with(path, b'"job_id":"j0100"', damaged)
    overwrite_page_with(path, b"j0101pass", damaged)
    memory = Memory(path, remember=3000)
    expected = {expected.part.job_id for expected in memory.load_expected()}
    acted = [job_id for job_id, _ in memory.load_acted()]
    memory.close()
    assert acted == [f"j{number:04}" for number in range(1, 300, 2)], "the index still has those of the damaged page"
    assert {f"j{number:04}" for number in range(0, 300, 2)} > expected
    assert len(expected) > 120
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


def test_an_expected_part_that_makes_no_sense_costs_no_other(tmp_path):
    path = tmp_path / "l.g.sqlite"
    large_memory(path, 6)
    with closing(sqlite3.connect(path)) as sqlite, sqlite:
        sqlite.execute("UPDATE expected SET part = CAST(x'7bff' AS TEXT) WHERE job_id = 'j0002'")
    memory = Memory(path, remember=3)
    assert [expected.part.job_id for expected in memory.load_expected()] == ["j0000", "j0004"]
    assert memory.load_held_last()
    assert not memory.load_has_partner()
    memory.close()


def test_a_memory_that_is_damaged_while_its_gate_runs_is_replaced_and_written(gate, tmp_path):
    path = tmp_path / "l.g.sqlite"
    large_memory(path)
    memory = Memory(path, remember=3000)
    overwrite_page_with(path, b"j0299pass", b"\xa5" * 4096)
    memory.enqueue(lambda: memory._sqlite.execute("PRAGMA cache_size=0"))
    save(memory, done(gate, "new"))
    memory.close()
    again = Memory(path, remember=3000)
    assert ("new", "pass") in again.load_acted()
    again.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


def test_of_a_damaged_journal_the_readable_lines_are_used_and_the_file_is_set_aside(gate, tmp_path):
    path = tmp_path / "l.g.journal"
    journal = Journal(path)
    first, second, third = done(gate, "j"), done(gate, "k"), done(gate, "m", Decision.FAIL)
    journal.write_done(first)
    journal.write_done(second)
    journal.write_intent(third)
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + bytes(len(lines[1]) - 1) + b"\n" + lines[2]
    path.write_bytes(damaged)
    again = Journal(path)
    assert (again.done, again.intended) == ([first], [third])
    again.write_done(third)
    again.close()
    (aside,) = damage.set_aside_files(tmp_path, "l")
    assert aside.read_bytes() == damaged
    last = Journal(path)
    assert (last.done, last.intended) == ([first, third], [])
    last.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


def test_what_is_written_after_a_torn_line_can_be_read(gate, tmp_path):
    path = tmp_path / "l.g.journal"
    path.write_bytes(b'{"intent":{"job_id":"torn')
    journal = Journal(path)
    journal.write_done(done(gate, "j"))
    journal.close()
    again = Journal(path)
    assert [record.job_id for record in again.done] == ["j"]
    again.close()
    assert damage.set_aside_files(tmp_path, "l") == []


def short_writes(monkeypatch, *lengths):
    """Have the disk take only so many bytes of the next writes."""
    lengths, write = list(lengths), os.write

    def take(descriptor, data):
        return write(descriptor, data[: lengths.pop(0)] if lengths else data)

    monkeypatch.setattr(os, "write", take)


@pytest.mark.parametrize("truncates", [True, False])
def test_a_line_that_a_full_disk_takes_in_part_does_not_spoil_the_next_one(gate, tmp_path, monkeypatch, truncates):
    path, failures = tmp_path / "l.g.journal", []
    journal = Journal(path, on_failure=lambda: failures.append(1))
    first, second, third = done(gate, "j"), done(gate, "k"), done(gate, "m")
    journal.write_done(first)
    if not truncates:
        monkeypatch.setattr(os, "ftruncate", lambda *_: os.open(tmp_path, os.O_WRONLY))  # raises OSError
    short_writes(monkeypatch, 30, 7)
    journal.write_intent(second)
    journal.write_intent(second)
    journal.write_intent(third)
    journal.close()
    again = Journal(path)
    assert (again.done, again.intended, len(failures)) == ([first], [third], 2)
    again.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == (0 if truncates else 1)


def test_a_line_that_an_earlier_build_wrote_behind_a_torn_one_is_read(gate, tmp_path):
    path = tmp_path / "l.g.journal"
    journal = Journal(path)
    victim = done(gate, "victim")
    journal.write_intent(victim)
    journal.close()
    path.write_bytes(b'{"intent":{"job_id":"b6","line":"jr' + path.read_bytes())
    again = Journal(path)
    assert again.intended == [victim]
    again.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


@pytest.mark.parametrize("fails", ["opening the new file", "renaming the old file", "renaming the new file"])
def test_a_journal_that_cannot_be_renamed_is_used_on_and_renamed_later(gate, tmp_path, monkeypatch, fails):
    path, tasks, failures = tmp_path / "l.g.journal", [], []
    journal = Journal(path, max_bytes=100, on_failure=lambda: failures.append(1))
    records = [done(gate, f"j{number}") for number in range(5)]
    journal.write_done(records[0])
    refused = path.with_name(path.name + ".new") if fails == "renaming the new file" else path
    replace = Path.replace

    def refuse(source, *target):
        if fails == "opening the new file" or source == refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace(source, *target)

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(*((os, "open") if fails.startswith("opening") else (Path, "replace")), refuse)
        for record in records[1:4]:
            journal.rotate(tasks.append)
            journal.write_done(record)
    events = [entry["event"] for entry in logs if "journal" in entry["event"]]  # others may log, too
    assert events == ["gate journal cannot be renamed, it grows"]
    assert (tasks, len(failures)) == ([], 3)
    journal.rotate(tasks.append)
    journal.write_done(records[4])
    assert len(tasks) == 1
    journal.close()
    again = Journal(path)
    assert [record.job_id for record in again.untold] == [record.job_id for record in records]
    again.close()


def test_an_old_journal_that_cannot_be_deleted_ends_no_gate_and_is_replaced_by_the_next(gate, tmp_path, monkeypatch):
    path, tasks, failures = tmp_path / "l.g.journal", [], []
    journal = Journal(path, max_bytes=1, on_failure=lambda: failures.append(1))
    first, second = done(gate, "j"), done(gate, "k")
    journal.write_done(first)
    journal.write_told(first)
    journal.rotate(tasks.append)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: os.open(tmp_path, os.O_WRONLY))  # raises OSError
        tasks[0]()
    assert len(failures) == 1
    journal.write_done(second)
    journal.write_told(second)
    journal.rotate(tasks.append)
    tasks[1]()
    journal.close()
    again = Journal(path)
    assert again.done == []
    again.close()


@pytest.mark.timeout(20)
def test_a_disk_that_hangs_delays_no_act_and_has_all_lines_in_order_when_it_goes_on(gate, tmp_path, monkeypatch):
    path, failures = tmp_path / "l.g.journal", []
    journal = Journal(path, on_failure=lambda: failures.append(1), max_bytes=500)
    goes_on, write = threading.Event(), os.write
    monkeypatch.setattr(os, "write", lambda *arguments: goes_on.wait() and write(*arguments))
    records = [done(gate, f"j{number}") for number in range(100)]
    started = time.monotonic()
    for record in records:
        journal.write_intent(record)
        journal.write_done(record)
        journal.rotate(pytest.fail)
    journal.write_intent(last := done(gate, "last"))
    assert time.monotonic() - started < 5.0
    assert len(failures) == 201
    goes_on.set()
    journal.close()
    again = Journal(path)
    assert (again.untold, again.intended) == (records, [last])
    again.close()


def test_the_number_of_remembered_jobs_is_bounded():
    gate = new_gate(remember=3)
    for number in range(10):
        done(gate, f"j{number}")
    assert gate.on_verdict(verdict("j9"), NOW) is Heard.KNOWN
    assert gate.on_verdict(verdict("j0"), NOW) is Heard.DECIDED


def test_an_act_of_a_later_build_with_an_unknown_field_is_understood(gate):
    message = json.loads(act_of(done(gate, "j"), ActState.DONE).to_json()) | {"new": 1}
    assert Act.model_validate(message).job_id == "j"


def test_a_gate_without_a_plc_acts_by_job_whatever_the_numbers_are(gate):
    gate.on_part(part("a", number=7), NOW)
    gate.on_part(part("b", number=7), NOW)
    gate.on_verdict(verdict("a", Decision.FAIL, number=7), NOW)
    gate.on_verdict(verdict("b", number=7), NOW)
    assert [record.action for record in act(gate)] == [Action.REJECT, Action.ACCEPT]
