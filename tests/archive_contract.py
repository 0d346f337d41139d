"""The contract of an archive. The same tests run on the one in memory, on SQLite and on PostgreSQL."""

import hashlib
import json
from dataclasses import dataclass, replace

import pytest

from patchline.archive import rows
from patchline.archive.base import Saved, Search
from patchline.broker.base import Message
from patchline.protocol.messages import VERDICT_TYPE

NOW = 1_700_000_000_000
BANK = "brick@" + hashlib.sha256(b"index").hexdigest()[:12]  # as workers name it
VERSION = hashlib.sha256(b"manifest").hexdigest()


@dataclass
class Setting:
    """An archive that can be opened again with the same content."""

    archive: object
    reopen: object


def message(job_id="job-1", **changes):
    """A verdict as the message of a worker."""
    values = {
        "job_id": job_id,
        "line": "l1",
        "category": "brick",
        "part_id": f"part-of-{job_id}",
        "decision": "fail",
        "score": 1200.5,
        "thresholds": {"review": 900.0, "fail": 1000.0},
        "backbone": "net",
        "memory_bank": BANK,
        "bank_version": VERSION,
        "device": "cpu:0",
        "worker": "w",
        "attempt": 1,
        "captured_at": NOW - 50,
        "received_at": NOW - 20,
        "decided_at": NOW,
        "number": 7,
        "durations_ms": {"decode": 1.5},
    }
    document = {name: value for name, value in (values | changes).items() if value is not None}
    return Message(json.dumps(document, separators=(",", ":")).encode(), job_id, VERDICT_TYPE)


def record(job_id="job-1", **changes):
    return rows.record(message(job_id, **changes), NOW + 5)


def unreadable(body, message_id="id"):
    return rows.unreadable(Message(body, message_id), "l1.brick.fail", "no JSON", NOW)


class ArchiveContract:
    """A subclass has the fixture `setting`."""

    def test_a_verdict_is_read_as_it_was_stored(self, setting):
        stored = record()
        assert setting.archive.save([stored], []) == Saved(verdicts=1)
        assert setting.archive.get("job-1") == stored
        assert setting.archive.get("job-2") is None

    def test_a_verdict_without_optional_values_is_read_as_it_was_stored(self, setting):
        names = ("score", "thresholds", "backbone", "memory_bank", "bank_version", "captured_at", "number")
        stored = record(decision="error", reason="crashed", detail="it did", **dict.fromkeys(names))
        setting.archive.save([stored], [])
        assert setting.archive.get("job-1") == stored

    def test_what_is_stored_is_there_after_a_restart(self, setting):
        stored = [record(f"job-{number}") for number in range(50)]
        setting.archive.save(stored, [unreadable(b"x")])
        archive = setting.reopen()
        assert {found.job_id for found in archive.find(Search())} == {row.job_id for row in stored}
        assert len(archive.unreadable(10)) == 1

    def test_the_same_verdict_is_stored_once_however_often_it_comes(self, setting):
        stored = record()
        assert setting.archive.save([stored, stored], []) == Saved(verdicts=1)
        assert setting.archive.save([stored], []) == Saved()
        assert list(setting.archive.find(Search())) == [stored]
        assert setting.archive.further("job-1") == []

    def test_a_redelivery_that_arrives_later_changes_nothing(self, setting):
        first, again = rows.record(message(), NOW + 5), rows.record(message(), NOW + 9_000)
        setting.archive.save([first], [])
        assert setting.archive.save([again], []) == Saved()
        assert setting.archive.get("job-1") == first

    def test_another_verdict_on_a_job_is_kept_beside_the_first(self, setting):
        first, second = record(), record(decision="pass", decided_at=NOW + 10)
        third = record(decision="review", decided_at=NOW + 20)
        assert setting.archive.save([first, second], []) == Saved(verdicts=1, further=1)
        assert setting.archive.save([third, second, first], []) == Saved(further=1)
        assert setting.archive.get("job-1") == first
        assert setting.archive.further("job-1") == [second, third]
        assert list(setting.archive.find(Search())) == [first]

    def test_what_a_later_build_has_added_is_kept(self, setting):
        setting.archive.save([record(colour={"hue": [1, 2.5]})], [])
        document = json.loads(setting.archive.get("job-1").document)
        assert document["colour"] == {"hue": [1, 2.5]}

    @pytest.mark.parametrize("text", ["nul \0 in it", "é ü 漢 \U0001f600", "'; DROP TABLE verdicts; --", "x" * 100_000])
    def test_any_text_can_be_stored(self, setting, text):
        setting.archive.save([record(detail=text)], [])
        assert setting.archive.get("job-1").detail == text.replace("\0", "\ufffd")
        assert json.loads(setting.archive.get("job-1").document)["detail"] == text

    @pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity"])
    def test_a_score_that_is_no_number_is_none(self, setting, score):
        setting.archive.save([record(score=float(score))], [])
        assert setting.archive.get("job-1").score is None

    @pytest.mark.parametrize("number", [0, 2**32 - 1])
    def test_every_part_number_fits(self, setting, number):
        setting.archive.save([record(number=number)], [])
        assert setting.archive.get("job-1").number == number

    def test_an_unreadable_message_is_kept_once_with_its_bytes(self, setting):
        body = bytes(range(256))
        assert setting.archive.save([], [unreadable(body), unreadable(body)]) == Saved(unreadable=1)
        assert setting.archive.save([record()], [unreadable(body)]) == Saved(verdicts=1)
        (found,) = setting.archive.unreadable(10)
        assert (found.body, found.reason, found.routing_key) == (body, "no JSON", "l1.brick.fail")

    def test_the_latest_unreadable_messages_come_first(self, setting):
        for number in range(3):
            row = rows.unreadable(Message(b"x", str(number)), "key", "no JSON", NOW + number)
            setting.archive.save([], [row])
        assert [found.message_id for found in setting.archive.unreadable(2)] == ["2", "1"]

    def test_an_empty_batch_is_stored(self, setting):
        assert setting.archive.save([], []) == Saved()

    def test_a_large_batch_is_stored(self, setting):
        stored = [record(f"job-{number}") for number in range(10_000)]
        assert setting.archive.save(stored, []) == Saved(verdicts=10_000)
        assert setting.archive.save(stored, []) == Saved()

    def test_the_latest_decision_is_found_first(self, setting):
        times = {"a": NOW + 1, "b": NOW + 3, "c": NOW + 2, "d": NOW + 3}
        setting.archive.save([record(job_id, decided_at=time) for job_id, time in times.items()], [])
        assert [found.job_id for found in setting.archive.find(Search())] == ["b", "d", "c", "a"]
        assert [found.job_id for found in setting.archive.find(Search(most=2))] == ["b", "d"]

    def test_the_latest_of_several_decisions_are_found_in_the_order_of_all(self, setting):
        decisions = ("fail", "review", "pass", "fail", "review")
        rows = [record(str(number), decision=one, decided_at=NOW + number) for number, one in enumerate(decisions)]
        setting.archive.save(rows, [])
        found = setting.archive.find(Search(decisions=("review", "fail", "review"), most=3))
        assert list(found) == [rows[4], rows[3], rows[1]]

    def test_a_search_goes_on_after_any_verdict_also_among_those_of_the_same_time(self, setting):
        times = {"a": NOW + 1, "b": NOW + 3, "c": NOW + 3, "d": NOW + 3, "e": NOW + 2}
        setting.archive.save([record(job_id, decided_at=time) for job_id, time in times.items()], [])
        for number, last in enumerate(order := ["b", "c", "d", "e", "a"], 1):
            found = setting.archive.find(Search(before=(times[last], last)))
            assert [one.job_id for one in found] == order[number:]

    @pytest.mark.parametrize(
        ("search", "expected"),
        [
            (Search(part="p2"), {"b"}),
            (Search(line="l2"), {"b"}),
            (Search(category="cup"), {"c"}),
            (Search(decisions=("fail",)), {"a"}),
            (Search(decisions=("fail", "review")), {"a", "b"}),
            (Search(bank="feed"), {"c"}),  # the digits of its index
            (Search(bank="cup@fe"), {"c"}),
            (Search(bank=VERSION[:6]), {"a", "b"}),
            (Search(bank=VERSION[:6].upper()), {"a", "b"}),
            (Search(bank=VERSION), {"a", "b"}),
            (Search(bank=BANK), {"a", "b"}),
            (Search(bank="@"), set()),
            (Search(bank="%"), set()),
            (Search(bank="_"), set()),
            (Search(since=NOW + 2), {"b", "c", "d"}),
            (Search(until=NOW + 2), {"a"}),
            (Search(since=NOW + 2, until=NOW + 3), {"b"}),
            (Search(min_score=20.0), {"b", "c"}),
            (Search(max_score=20.0), {"a", "b"}),
            (Search(min_score=15.0, max_score=25.0, category="brick"), {"b"}),
            (Search(part="p2", line="l1"), set()),
            (Search(part="' OR 1=1 --"), set()),
        ],
    )
    def test_a_search_finds_what_it_names(self, setting, search, expected):
        setting.archive.save(
            [
                record("a", part_id="p1", score=10.0, decided_at=NOW + 1),
                record("b", part_id="p2", line="l2", decision="review", score=20.0, decided_at=NOW + 2),
                record(
                    "c",
                    category="cup",
                    decision="pass",
                    score=30.0,
                    memory_bank="cup@feed5",
                    bank_version=None,
                    decided_at=NOW + 3,
                ),
                record("d", decision="error", score=None, memory_bank=None, bank_version=None, decided_at=NOW + 4),
            ],
            [],
        )
        assert {found.job_id for found in setting.archive.find(search)} == expected

    def test_a_verdict_that_was_archived_without_the_version_of_its_bank_is_found_by_it(self, setting):
        setting.archive.save([replace(record("a"), bank_version=None), record("b", bank_version="0" * 64)], [])
        assert [found.job_id for found in setting.archive.find(Search(bank=VERSION[:6]))] == ["a"]

    def test_a_search_that_is_not_read_to_its_end_holds_nothing(self, setting):
        setting.archive.save([record(f"job-{number}") for number in range(3_000)], [])
        found = setting.archive.find(Search())
        next(found)
        found.close()
        assert setting.archive.save([record("another")], []) == Saved(verdicts=1)
