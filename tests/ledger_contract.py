"""The contract of the ledger. The same tests run on the one in memory, on SQLite and on PostgreSQL."""

import json
from dataclasses import replace

import pytest

from patchline.archive import ledger_rows, rows
from patchline.archive.base import Saved
from patchline.archive.ledger import Count, GapKind, GapSearch, LabelledScore, LabelSearch
from patchline.archive.scores import ScoreCount, ScoreSearch
from patchline.archive.shadows import ShadowCount, ShadowSearch
from patchline.broker.base import Delivery, Message
from patchline.protocol import messages, topology
from patchline.protocol.gate_messages import ACT_TYPE, CONFIRMATION_TYPE, OUTCOME_TYPE
from patchline.protocol.judgement_message import JUDGEMENT_TYPE
from patchline.protocol.shadow_message import SHADOW_TYPE
from tests.archive_contract import BANK, NOW, VERSION, record

LATER = GapSearch(until=NOW + 1_000_000)
OTHER_BANK = "0" * 64


def delivery(message, exchange):
    return Delivery(message, "key", 1, lambda _: None, lambda: False, exchange)


def as_json(type_, values):
    document = {name: value for name, value in values.items() if value is not None}
    return Message(json.dumps(document).encode(), values["job_id"], type_, "application/json")


def announcement(job_id="job-1", **changes):
    headers = {"line": "l1", "category": "brick", "part_id": f"part-of-{job_id}", "captured_at": NOW - 50}
    headers |= {"deadline": NOW + 10_000, "announced_at": NOW - 40, "number": 7} | changes
    headers = {name: value for name, value in headers.items() if value is not None}
    return delivery(Message(b"", job_id, messages.PART_TYPE, None, headers), topology.PARTS)


def act(job_id="job-1", action="reject", state="done", **changes):
    values = {"job_id": job_id, "line": "l1", "category": "brick", "part_id": f"part-of-{job_id}", "number": 7}
    values |= {"action": action, "state": state, "because": "fail", "acted_at": NOW + 20, "gate": "g"} | changes
    return delivery(as_json(ACT_TYPE, values), topology.ACTS)


def outcome(job_id="job-1", **changes):
    values = {"job_id": job_id, "line": "l1", "number": 7, "outcome": "escaped", "gate": "g", "found_at": NOW + 900}
    return delivery(as_json(OUTCOME_TYPE, values | changes), topology.ACTS)


def confirmation(job_id="job-1", **changes):
    values = {"job_id": job_id, "line": "l1", "number": 7, "bin": "reject", "gate": "g", "found_at": NOW + 800}
    return delivery(as_json(CONFIRMATION_TYPE, values | changes), topology.ACTS)


def judgement(job_id="job-1", said="good", judged_at=NOW + 1_000, **changes):
    values = {"job_id": job_id, "judgement": said, "by": "anna", "judged_at": judged_at} | changes
    return delivery(as_json(JUDGEMENT_TYPE, values), topology.JUDGEMENTS)


def shadow(job_id="job-1", said="pass", judged_at=NOW + 30, **changes):
    values = {"job_id": job_id, "line": "l1", "category": "brick", "part_id": f"part-of-{job_id}", "worker": "w"}
    values |= {"bank_version": VERSION, "decision": "fail", "score": 1200.1, "shadow_version": OTHER_BANK}
    values |= {"shadow_decision": said, "shadow_score": 0.1 + 0.2, "judged_at": judged_at} | changes
    return delivery(as_json(SHADOW_TYPE, values), topology.SHADOWS)


def entry(message, archived_at=NOW + 2_000):
    return ledger_rows.entry(message, archived_at)


def everything(job_id):
    return [announcement(job_id), act(job_id, state="intended"), act(job_id), confirmation(job_id), judgement(job_id)]


class LedgerContract:
    """A subclass has the fixture `setting`."""

    def save(self, setting, *deliveries):
        return setting.archive.save_ledger([entry(one) for one in deliveries], [])

    def gaps(self, setting, kind, search=LATER):
        return [(gap.job_id, gap.detail) for gap in setting.archive.gaps(kind, search)]

    def test_what_is_known_of_a_job_is_read_as_it_was_stored_also_after_a_restart(self, setting):
        stored = [entry(one) for one in (*everything("job-1"), outcome())]
        assert setting.archive.save_ledger(stored, []) == Saved(announcements=1, acts=2, outcomes=2, judgements=1)
        found = setting.reopen().entries("job-1")
        assert sorted(found, key=repr) == sorted(stored, key=repr)
        assert setting.archive.entries("job-2") == []

    def test_rows_without_optional_values_are_read_as_they_were_stored(self, setting):
        stored = [
            entry(announcement(deadline=None, announced_at=None, number=None)),
            entry(act(number=None)),
            entry(judgement(kind=None, note=None)),
        ]
        setting.archive.save_ledger(stored, [])
        assert sorted(setting.archive.entries("job-1"), key=repr) == sorted(stored, key=repr)

    def test_the_same_messages_are_stored_once_however_often_they_come(self, setting):
        batch = everything("job-1")
        self.save(setting, *batch, *batch)
        again = [entry(one, NOW + 9_000) for one in batch]
        assert setting.archive.save_ledger(again, []) == Saved()
        assert len(setting.archive.entries("job-1")) == len(batch)
        assert {row.archived_at for row in setting.archive.entries("job-1")} == {NOW + 2_000}

    def test_a_part_that_is_announced_again_keeps_its_first_announcement(self, setting):
        self.save(setting, announcement(announced_at=NOW - 40))
        assert self.save(setting, announcement(announced_at=NOW + 5_000)) == Saved()
        assert [row.announced_at for row in setting.archive.entries("job-1")] == [NOW - 40]

    def test_what_a_shadow_says_is_stored_once_for_each_job_and_counted_by_pairs_of_decisions(self, setting):
        third = "1" * 64
        first = [shadow("a"), shadow("b"), shadow("c", "fail"), shadow("d", decision="pass", line="l2")]
        assert self.save(setting, *first, shadow("a", shadow_version=third)) == Saved(shadows=5)
        assert self.save(setting, shadow("a", "fail", NOW + 99), shadow("b", category="cup")) == Saved()
        archive = setting.reopen()
        search = ShadowSearch("brick", OTHER_BANK)
        assert archive.shadow_counts(search) == [
            ShadowCount("l1", VERSION, "fail", "fail", 1),
            ShadowCount("l1", VERSION, "fail", "pass", 2),
            ShadowCount("l2", VERSION, "pass", "pass", 1),
        ]
        found = list(archive.shadow_differences(search))
        assert found == [entry(one) for one in first[:2]]
        assert found[0].shadow_score == 0.1 + 0.2
        narrow = (("line", "l2"), ("since", NOW + 31), ("until", NOW + 30), ("version", "2" * 64), ("category", "cup"))
        for name, value in narrow:
            assert list(archive.shadow_differences(replace(search, **{name: value}))) == []
        assert list(archive.shadow_differences(replace(search, since=NOW + 30, until=NOW + 31))) == found
        assert [type(row).__name__ for row in archive.entries("c")] == ["Shadowed"]

    def test_the_time_of_a_part_counted_from_the_latest_one_of_a_shadow_is_found(self, setting):
        self.save(setting, *(shadow(f"job-{number}", judged_at=NOW + number) for number in (3, 1, 2)))
        self.save(setting, shadow("other", judged_at=NOW + 9, shadow_version="1" * 64))
        archive, search = setting.reopen(), ShadowSearch("brick", OTHER_BANK)
        assert [archive.shadow_time(search, number) for number in (1, 2, 3, 4)] == [NOW + 3, NOW + 2, NOW + 1, None]
        assert archive.shadow_time(replace(search, until=NOW + 3), 1) == NOW + 2
        assert archive.shadow_time(replace(search, line="l9"), 1) is None

    def test_unreadable_messages_are_kept(self, setting):
        row = rows.unreadable(Message(b"", "id", "type", None, {"line": 5}), "l1", "no line", NOW)
        assert setting.archive.save_ledger([], [row]) == Saved(unreadable=1)
        assert [(kept.body, kept.routing_key) for kept in setting.archive.unreadable(5)] == [(b'{"line": 5}', "l1")]

    def test_jobs_are_found_by_their_id_and_by_their_part_wherever_they_occur_the_latest_first(self, setting):
        setting.archive.save([record("verdict", part_id="p", decided_at=NOW + 5)], [])
        self.save(
            setting,
            announcement("announced", part_id="p", announced_at=NOW + 7),
            act("acted", part_id="p", acted_at=NOW + 6),
            outcome("found"),
            judgement("judged"),
        )
        assert setting.archive.jobs_of("p", 10) == ["announced", "acted", "verdict"]
        assert setting.archive.jobs_of("p", 2) == ["announced", "acted"]
        for job_id in ("verdict", "announced", "acted", "found", "judged"):
            assert setting.archive.jobs_of(job_id, 10) == [job_id]
        assert setting.archive.jobs_of("' OR 1=1 --", 10) == []

    def test_an_announced_part_without_a_finished_act_is_a_gap_once_it_was_due(self, setting):
        setting.archive.save([record("judged")], [])
        self.save(
            setting,
            *(announcement(job_id) for job_id in ("judged", "alone", "acted", "begun")),
            announcement("later", deadline=NOW + 2_000_000),
            announcement("endless", deadline=None, announced_at=NOW - 60),
            act("acted"),
            act("begun", state="intended"),
        )
        expected = [("alone", None), ("begun", None), ("judged", "fail"), ("endless", None)]
        assert self.gaps(setting, GapKind.NO_ACT) == expected
        assert self.gaps(setting, GapKind.NO_ACT, GapSearch(until=LATER.until, since=NOW - 50)) == expected[:3]
        assert self.gaps(setting, GapKind.NO_ACT, GapSearch(until=LATER.until, most=2)) == expected[:2]
        assert self.gaps(setting, GapKind.NO_ACT, GapSearch(until=LATER.until, line="l2")) == []
        assert self.gaps(setting, GapKind.NO_ACT, GapSearch(until=LATER.until, job_id="alone")) == expected[:1]
        assert self.gaps(setting, GapKind.NO_ACT, GapSearch(until=NOW)) == [("endless", None)]

    def test_a_part_that_was_accepted_and_rejected_is_a_gap_even_if_two_gates_say_the_same(self, setting):
        self.save(
            setting,
            *(act("both", action, gate=gate) for action in ("accept", "reject") for gate in ("g", "h")),
            act("twice", gate="g"),
            act("twice", gate="h"),
            act("changed", "accept", "intended"),
            act("changed"),
        )
        assert self.gaps(setting, GapKind.OPPOSITE_ACTS) == [("both", "fail")]

    def test_an_accept_without_a_verdict_that_allows_it_is_a_gap(self, setting):
        jobs = {"passed": "pass", "reviewed": "review", "failed": "fail", "replayed": "error"}
        setting.archive.save([record(job_id, decision=decision) for job_id, decision in jobs.items()], [])
        setting.archive.save([record("replayed", decision="pass", decided_at=NOW + 9)], [])
        self.save(setting, *(act(job_id, "accept", because="pass") for job_id in (*jobs, "unknown")), act("rejected"))
        assert self.gaps(setting, GapKind.NOT_PASSED) == [("failed", "pass"), ("unknown", "pass")]

    def test_a_reject_that_the_sensor_has_not_confirmed_is_a_gap_on_a_line_with_a_sensor(self, setting):
        self.save(
            setting,
            *(act(job_id) for job_id in ("seen", "unseen", "escaped", "astray")),
            act("accepted", "accept"),
            act("elsewhere", line="l2"),
            confirmation("seen"),
            confirmation("astray", bin="good"),
            outcome("escaped"),
            outcome("elsewhere", line="l2", outcome="missed"),
        )
        expected = {("unseen", "fail"), ("escaped", "fail"), ("astray", "fail")}
        assert set(self.gaps(setting, GapKind.NOT_CONFIRMED)) == expected

    def label(self, setting):
        """Five parts: a pass called good, a fail called good, a fail called a defect at last, and two not labelled."""
        setting.archive.save(
            [
                record("a", decision="pass", score=1.0, decided_at=NOW + 1),
                record("b", decision="fail", score=5.0, decided_at=NOW + 2),
                record("c", decision="review", score=4.0, line="l2", decided_at=NOW + 3),
                record("d", decision="pass", score=2.0, bank_version=OTHER_BANK, decided_at=NOW + 4),
                record("e", decision="pass", score=1.5, decided_at=NOW + 5),
                record("crashed", decision="error", score=None, memory_bank=None, bank_version=None),
                record("again", decision="fail", replay=True),
                record("late", decision="expired", score=3.0),
            ],
            [],
        )
        self.save(
            setting,
            judgement("a", "good"),
            judgement("b", "good"),
            judgement("c", "good", NOW + 1_500),
            judgement("c", "defect", NOW + 1_800, kind="scratch"),
            judgement("c", "unsure", NOW + 1_000),
            judgement("e", "unsure"),
            judgement("crashed", "good"),
            judgement("again", "good"),
            judgement("late", "good"),
        )

    def test_parts_are_counted_by_what_people_say_at_last(self, setting):
        self.label(setting)
        assert set(setting.archive.label_counts(LabelSearch())) == {
            Count("l1", "brick", VERSION, "pass", "good", 1),
            Count("l1", "brick", VERSION, "pass", "unsure", 1),
            Count("l1", "brick", VERSION, "fail", "good", 1),
            Count("l2", "brick", VERSION, "review", "defect", 1),
            Count("l1", "brick", OTHER_BANK, "pass", None, 1),
        }

    def test_labelled_scores_come_without_those_about_which_people_are_unsure(self, setting):
        self.label(setting)
        assert setting.archive.labelled_scores(LabelSearch()) == [
            LabelledScore(BANK, 1.0, "pass", "good"),
            LabelledScore(BANK, 4.0, "review", "defect"),
            LabelledScore(BANK, 5.0, "fail", "good"),
        ]

    @pytest.mark.parametrize(
        ("search", "scores"),
        [
            (LabelSearch(line="l2"), [4.0]),
            (LabelSearch(category="cup"), []),
            (LabelSearch(bank=VERSION[:6]), [1.0, 4.0, 5.0]),
            (LabelSearch(bank=OTHER_BANK), []),
            (LabelSearch(since=NOW + 2), [4.0, 5.0]),
            (LabelSearch(until=NOW + 3), [1.0, 5.0]),
        ],
    )
    def test_labels_are_restricted_to_what_is_named(self, setting, search, scores):
        self.label(setting)
        assert [found.score for found in setting.archive.labelled_scores(search)] == scores
        parts = {"l2": 1, "cup": 0}.get(search.line or search.category)
        if parts is not None:
            assert sum(count.parts for count in setting.archive.label_counts(search)) == parts

    def test_the_newest_judgement_of_each_job_is_found_and_one_that_was_taken_back_is_no_label(self, setting):
        self.label(setting)
        taken_back = entry(judgement("a", "withdrawn", NOW + 9_000), NOW + 9_001)
        setting.archive.save_ledger([taken_back], [])
        found = setting.archive.judgements_of(["a", "c", "nobody"])
        assert {job: (one.judgement, one.judged_by) for job, one in found.items()} == {
            "a": ("withdrawn", "anna"),
            "c": ("defect", "anna"),
        }
        assert setting.archive.judgements_of([]) == {}
        assert [one.score for one in setting.archive.labelled_scores(LabelSearch())] == [4.0, 5.0]

    def test_who_takes_a_judgement_back_takes_back_no_other_persons(self, setting):
        setting.archive.save([record(job, decision="pass") for job in ("a", "b", "c")], [])
        self.save(
            setting,
            *(judgement("a", said, NOW + at, by=by) for at, by, said in ((10, "anna", "good"), (20, "bert", "defect"))),
            judgement("a", "withdrawn", NOW + 30, by="bert"),
            judgement("b", "good", NOW + 10),
            judgement("b", "defect", NOW + 20, by="bert"),
            judgement("b", "withdrawn", NOW + 30),
            judgement("c", "good", NOW + 10),
            judgement("c", "withdrawn", NOW + 20),
            judgement("c", "unsure", NOW + 30),
        )
        found = setting.archive.judgements_of(["a", "b", "c"])
        assert [(found[job].judgement, found[job].judged_by) for job in "abc"] == [
            ("good", "anna"),
            ("defect", "bert"),
            ("unsure", "anna"),
        ]
        counted = {(count.judgement, count.parts) for count in setting.archive.label_counts(LabelSearch())}
        assert counted == {("good", 1), ("defect", 1), ("unsure", 1)}
        assert [one.judgement for one in setting.archive.labelled_scores(LabelSearch())] == ["good", "defect"]

    def test_a_clock_that_is_ahead_does_not_make_a_judgement_the_newest_for_long(self, setting):
        setting.archive.save([record("a", decision="pass")], [])
        ahead = entry(judgement("a", "defect", NOW + 10**9), NOW + 2_000)
        setting.archive.save_ledger([ahead, entry(judgement("a", "good", NOW + 2_500), NOW + 3_000)], [])
        assert [count.judgement for count in setting.archive.label_counts(LabelSearch())] == ["good"]

    def spread(self, setting):
        """Seven parts that count, in steps of 2 from 0 to 6 with a cut at 4.5, and some that do not count."""
        limits = {"review": 3.0, "fail": 5.0}
        rows = [
            ("a", "pass", 0.5, {}),
            ("b", "pass", 1.5, {}),
            ("c", "review", 2.0, {}),
            ("d", "review", 4.0, {}),
            ("e", "review", 4.5, {"bank_version": OTHER_BANK}),
            ("f", "fail", 6.0, {}),
            ("g", "fail", 900.0, {}),
            ("again", "fail", 6.0, {"replay": True}),
            ("late", "expired", 6.0, {}),
            ("other", "fail", 6.0, {"memory_bank": "brick@0000"}),
            ("cup", "fail", 6.0, {"category": "cup"}),
        ]
        setting.archive.save(
            [
                record(job, decision=decision, score=score, thresholds=limits, decided_at=NOW + number, **changes)
                for number, (job, decision, score, changes) in enumerate(rows)
            ],
            [],
        )
        self.save(
            setting,
            judgement("b", "good"),
            judgement("f", "good"),
            judgement("f", "defect", NOW + 1_500),
            judgement("g", "unsure"),
            judgement("again", "good"),
            judgement("other", "good"),
        )

    def scores(self, setting, **changes):
        values = {"category": "brick", "memory_bank": BANK, "since": NOW, "until": NOW + 100, "step": 2.0, "steps": 4}
        return setting.archive.score_counts(ScoreSearch(**values | {"cuts": (4.5,)} | changes))

    def test_scores_of_a_bank_are_counted_in_steps_by_decision_and_by_what_people_say_at_last(self, setting):
        self.spread(setting)
        found = self.scores(setting)
        assert found.since == NOW
        assert found.counts == [
            ScoreCount(0, 0, "pass", True, None, 1),
            ScoreCount(0, 0, "pass", True, "good", 1),
            ScoreCount(1, 0, "review", True, None, 1),
            ScoreCount(2, 0, "review", False, None, 1),
            ScoreCount(2, 1, "review", False, None, 1),
            ScoreCount(3, 1, "fail", False, "defect", 1),
            ScoreCount(3, 1, "fail", False, "unsure", 1),
        ]
        assert self.scores(setting, steps=1, cuts=(), category="cup").counts == [
            ScoreCount(0, 0, "fail", False, None, 1)
        ]
        assert self.scores(setting, memory_bank="brick@1111").counts == []

    def test_scores_of_a_span_are_counted_and_of_too_many_the_latest(self, setting):
        self.spread(setting)
        found = self.scores(setting, since=NOW + 2, until=NOW + 5)
        assert [(one.step, one.parts) for one in found.counts] == [(1, 1), (2, 1), (2, 1)]
        found = self.scores(setting, most=2)
        assert found.since == NOW + 5
        assert [one.judgement for one in found.counts] == ["defect", "unsure"]
        assert self.scores(setting, most=7).since == NOW

    def test_the_banks_of_a_category_come_with_their_latest_thresholds_the_latest_bank_first(self, setting):
        self.spread(setting)
        changed = {"bank_version": OTHER_BANK, "thresholds": {"review": 3.5, "fail": 5.5}}
        setting.archive.save([record("newest", decided_at=NOW + 50, **changed)], [])
        found = setting.archive.banks_of("brick", 9)
        assert [(one.memory_bank, one.last_at) for one in found] == [(BANK, NOW + 50), ("brick@0000", NOW + 9)]
        assert (found[0].bank_version, found[0].review_threshold, found[0].fail_threshold) == (OTHER_BANK, 3.5, 5.5)
        assert [one.memory_bank for one in setting.archive.banks_of("brick", 1)] == ["brick@0000"]
        assert setting.archive.banks_of("nothing", 9) == []

    def test_a_large_batch_is_stored(self, setting):
        batch = [entry(one) for number in range(2_000) for one in everything(f"job-{number}")]
        expected = Saved(announcements=2_000, acts=4_000, outcomes=2_000, judgements=2_000)
        assert setting.archive.save_ledger(batch, []) == expected
        assert setting.archive.save_ledger(batch, []) == Saved()
