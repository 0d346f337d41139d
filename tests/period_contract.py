"""The contract of the counts of a report. The same tests run on an archive in memory, on SQLite and on PostgreSQL."""

from dataclasses import replace

from patchline.archive.ledger import GapKind, LabelSearch
from patchline.archive.period import (
    ActCount,
    Announcements,
    OutcomeCount,
    Pause,
    Scope,
    StepCount,
    VerdictCount,
    WorkerCount,
)
from tests.archive_contract import NOW, VERSION, record
from tests.ledger_contract import OTHER_BANK, act, announcement, confirmation, entry, judgement, outcome

MINUTE = 60_000
SPAN = Scope(NOW, NOW + 60 * MINUTE)
OF_L1 = replace(SPAN, line="l1")
OF_BATCH = replace(SPAN, prefix="B7-")
LIMITS = {"thresholds": {"review": 90.0, "fail": 100.0}}


def shift():
    """An hour of two lines, by hand: minute, job, and what differs from a part of `brick` that passed on line l1."""
    return [
        (0, "a", {}),
        (1, "b", {"decision": "fail", "score": 150.0}),
        (2, "c", {"decision": "review", "score": 95.0, "part_id": "B7-1"}),
        (3, "d", {"decision": "fail", "score": 300.0, "part_id": "B7-2", "worker": "v"}),
        (4, "e", {"decision": "error", "reason": "crashed", "score": None, "thresholds": None} | UNJUDGED),
        (5, "f", {"decision": "expired", "reason": "deadline_passed", "score": None, "thresholds": None} | UNJUDGED),
        (6, "g", {"decision": "fail", "score": 999.0, "replay": True}),
        (30, "h", {"bank_version": OTHER_BANK, "thresholds": {"review": 80.0, "fail": 85.0}, "score": 60.0}),
        (31, "i", {"line": "l2", "category": "cup", "part_id": "b7-3", "score": 11.0}),
        (59, "j", {"part_id": "B7-4", "score": 70.0}),
        (60, "after", {}),
        (-1, "before", {}),
    ]


UNJUDGED = {"memory_bank": None, "bank_version": None}


def records():
    passed = {"decision": "pass", "score": 50.0} | LIMITS
    return [record(job, decided_at=NOW + at * MINUTE, **(passed | changes)) for at, job, changes in shift()]


def entries():
    """Acts on four parts of l1, of which one was accepted by mistake, and a gate that stood by has repeated one."""
    return [
        *(announcement(job, announced_at=NOW + 1, deadline=NOW + 9) for job in ("a", "b", "c", "e", "silent")),
        announcement("d", announced_at=NOW + 1, deadline=NOW + 9, part_id="B7-2"),
        act("a", "accept", because="pass"),
        act("b"),
        act("b", gate="h"),
        act("c", because="review", state="intended"),
        act("d", "accept", because="pass", part_id="B7-2"),
        act("e", because="no verdict", stale=True),
        act("long-ago", acted_at=NOW - 1),
        confirmation("a", bin="good"),
        outcome("b"),
        outcome("d", outcome="missed"),
        outcome("nobody", outcome="unannounced"),
        outcome("later", found_at=NOW + 60 * MINUTE),
        judgement("a", "defect"),
        judgement("h", "defect"),
        judgement("h", "good", NOW + 5_000),
        judgement("j", "defect"),
        judgement("b", "good"),
        judgement("before", "defect"),
    ]


def fill(archive):
    archive.save(records(), [])
    archive.save([record("a", decision="fail", decided_at=NOW + 7), record("before", decided_at=NOW - 9)], [])
    archive.save_ledger([entry(one) for one in entries()], [])


class PeriodContract:
    """A subclass has the fixture `periods`: the counts of an archive that `fill` has filled, and the archive."""

    def test_verdicts_are_counted_by_all_that_tells_them_apart(self, periods):
        counts, _ = periods
        at = [NOW + minute * MINUTE for minute in range(61)]
        limits, none = (90.0, 90.0, 100.0, 100.0), (None,) * 4
        assert set(counts.verdicts(OF_L1)) == {
            VerdictCount("l1", "brick", VERSION, "pass", None, False, 2, at[0], at[59], *limits),
            VerdictCount("l1", "brick", VERSION, "fail", None, False, 2, at[1], at[3], *limits),
            VerdictCount("l1", "brick", VERSION, "review", None, False, 1, at[2], at[2], *limits),
            VerdictCount("l1", "brick", VERSION, "fail", None, True, 1, at[6], at[6], *limits),
            VerdictCount("l1", "brick", OTHER_BANK, "pass", None, False, 1, at[30], at[30], 80.0, 80.0, 85.0, 85.0),
            VerdictCount("l1", "brick", "", "error", "crashed", False, 1, at[4], at[4], *none),
            VerdictCount("l1", "brick", "", "expired", "deadline_passed", False, 1, at[5], at[5], *none),
        }
        assert sum(one.parts for one in counts.verdicts(SPAN)) == 10
        assert [one.line for one in counts.verdicts(replace(SPAN, category="cup"))] == ["l2"]
        assert sum(one.parts for one in counts.verdicts(OF_BATCH)) == 3
        assert counts.verdicts(replace(SPAN, prefix="%")) == []
        assert counts.further(SPAN) == 1
        assert counts.further(replace(SPAN, line="l2")) == 0

    def test_the_extent_of_a_batch_is_that_of_its_verdicts(self, periods):
        counts, _ = periods
        assert counts.extent(OF_BATCH) == (NOW + 2 * MINUTE, NOW + 59 * MINUTE)
        assert counts.extent(replace(SPAN, prefix="B8")) is None

    def test_a_scope_with_too_many_verdicts_is_known_without_counting_them_all(self, periods):
        counts, _ = periods
        assert [counts.has_more(SPAN, most) for most in (9, 10)] == [True, False]
        assert [counts.has_more(OF_BATCH, most) for most in (2, 3)] == [True, False]

    def test_steps_of_time_are_counted_without_replays(self, periods):
        counts, _ = periods
        assert counts.steps(OF_L1, 30 * MINUTE) == [
            StepCount(0, "error", 1),
            StepCount(0, "expired", 1),
            StepCount(0, "fail", 2),
            StepCount(0, "pass", 1),
            StepCount(0, "review", 1),
            StepCount(1, "pass", 2),
        ]

    def test_workers_are_named_with_their_first_and_last_verdict(self, periods):
        counts, _ = periods
        assert counts.workers(SPAN) == [
            WorkerCount("v", "cpu:0", 1, NOW + 3 * MINUTE, NOW + 3 * MINUTE),
            WorkerCount("w", "cpu:0", 9, NOW, NOW + 59 * MINUTE),
        ]

    def test_the_worst_parts_are_the_furthest_above_their_threshold(self, periods):
        counts, _ = periods
        assert [one.job_id for one in counts.worst(SPAN, 10)] == ["d", "b", "c"]
        assert [one.job_id for one in counts.worst(OF_L1, 2)] == ["d", "b"]
        assert [one.job_id for one in counts.worst(OF_BATCH, 10)] == ["d", "c"]
        assert counts.worst(replace(SPAN, line="l2"), 10) == []

    def test_parts_that_passed_and_are_a_defect_are_found_by_the_newest_judgement(self, periods):
        counts, _ = periods
        assert [one.job_id for one in counts.missed(SPAN, 10)] == ["j", "a"]
        assert [one.job_id for one in counts.missed(SPAN, 1)] == ["j"]
        assert [one.job_id for one in counts.missed(OF_BATCH, 10)] == ["j"]

    def test_announcements_acts_and_outcomes_are_counted_once_for_each_part(self, periods):
        counts, _ = periods
        assert counts.announcements(OF_L1) == Announcements(6, 1)
        assert counts.announcements(OF_BATCH) == Announcements(1, 0)
        assert counts.announcements(replace(SPAN, line="l2")) == Announcements(0, 0)
        assert counts.acts(SPAN) == [
            ActCount("l1", "accept", "pass", False, 2),
            ActCount("l1", "reject", "fail", False, 1),
            ActCount("l1", "reject", "no verdict", True, 1),
        ]
        assert counts.acts(OF_BATCH) == [ActCount("l1", "accept", "pass", False, 1)]
        assert counts.outcomes(SPAN, ["l1"]) == [
            OutcomeCount("l1", "escaped", 1),
            OutcomeCount("l1", "missed", 1),
            OutcomeCount("l1", "unannounced", 1),
        ]
        assert counts.outcomes(OF_BATCH, ["l1"]) == [OutcomeCount("l1", "missed", 1)]
        assert counts.outcomes(SPAN, ["l2"]) == counts.outcomes(SPAN, []) == []

    def test_gaps_are_counted(self, periods):
        counts, _ = periods
        nothing = dict.fromkeys(GapKind, 0)
        assert counts.gaps(SPAN) == {
            GapKind.NO_ACT: 2,
            GapKind.OPPOSITE_ACTS: 0,
            GapKind.NOT_PASSED: 1,
            GapKind.NOT_CONFIRMED: 2,
        }
        assert counts.gaps(OF_BATCH) == nothing | {GapKind.NOT_PASSED: 1}
        assert counts.gaps(replace(SPAN, category="cup")) == nothing

    def test_pauses_are_those_between_two_verdicts_of_a_line(self, periods):
        counts, _ = periods
        assert counts.pauses(SPAN, "l1", 10 * MINUTE, 5) == [
            Pause("l1", NOW + 30 * MINUTE, NOW + 59 * MINUTE),
            Pause("l1", NOW + 6 * MINUTE, NOW + 30 * MINUTE),
        ]
        assert len(counts.pauses(SPAN, "l1", 10 * MINUTE, 1)) == 1
        assert counts.pauses(SPAN, "l2", 0, 5) == []

    def test_labels_of_a_batch_are_those_of_its_parts(self, periods):
        _, archive = periods
        search = LabelSearch(since=SPAN.since, until=SPAN.until, prefix="B7-")
        found = {(one.decision, one.judgement): one.parts for one in archive.label_counts(search)}
        assert found == {("pass", "defect"): 1, ("review", None): 1, ("fail", None): 1}
