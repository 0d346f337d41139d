"""The figures of reports, against data that were counted by hand."""

import pytest

from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.period import Pause
from patchline.archive.period_memory import MemoryPeriods
from patchline.archive.pictures import MemoryPictures, PictureRow
from patchline.banks import store
from patchline.banks.folder_objects import FolderObjects
from patchline.banks.objects import StoreUnavailable
from patchline.banks.versions import Versions
from patchline.config.console import Console
from patchline.operations import line_report, report_changes, report_request
from patchline.operations.report_changes import Change, Changes
from patchline.protocol.errors import SetupError
from tests.archive_contract import NOW, VERSION, record
from tests.period_contract import MINUTE, fill

SECTION = Console(time_zone="Europe/Berlin", shifts={"early": "06:00-14:00"})
END = NOW + 60 * MINUTE


@pytest.fixture(scope="module")
def archive():
    archive = MemoryLedger()
    fill(archive)
    return archive


@pytest.fixture(scope="module")
def pictures():
    pictures = MemoryPictures()
    pictures.add([PictureRow("d", kind, kind * 8, "image/png", 1, NOW, "fail", "l1", "brick") for kind in "ih"])
    return pictures


def make(archive, pictures, now=END, **changes):
    request = {"kind": "span", "name": "", "since": NOW, "until": END} | changes
    request = line_report.Request(**request)
    return line_report.make(request, archive, MemoryPeriods(archive), pictures, Changes(), now)


def test_an_hour_of_a_line_has_the_figures_that_were_counted_by_hand(archive, pictures):
    report = make(archive, pictures, line="l1")
    assert (report.parts, report.replays, report.further) == (8, 1, 1)
    counted = {one.decision: (one.parts, one.share.value) for one in report.decisions}
    assert counted == {
        "pass": (3, 3 / 8),
        "review": (1, 1 / 8),
        "fail": (2, 2 / 8),
        "error": (1, 1 / 8),
        "expired": (1, 1 / 8),
    }
    # Clopper and Pearson for 3 of 8, by tables.
    passed = report.decisions[0].share
    assert (round(passed.low, 4), round(passed.high, 4)) == (0.0852, 0.7551)
    assert [(one.decision, one.reason, one.parts) for one in report.reasons] == [
        ("error", "crashed", 1),
        ("expired", "deadline_passed", 1),
    ]
    assert [(one.bank == VERSION, one.parts, one.counts) for one in report.banks] == [
        (False, 1, {"pass": 1}),
        (True, 5, {"fail": 2, "pass": 2, "review": 1}),
    ]
    assert report.banks[1].fail_from == (100.0, 100.0)
    assert report.gaps == {"no-act": 2, "opposite-acts": 0, "accepted-without-pass": 1, "not-confirmed": 2}
    assert [one.parts for one in report.acts] == [2, 1, 1]
    assert report.step_ms == 5 * MINUTE
    assert [sum(step.counts.values()) for step in report.steps] == [5, 1, *[0] * 4, 1, *[0] * 4, 1]


def test_labels_give_over_kill_and_misses_with_what_they_mean(archive, pictures):
    report = make(archive, pictures, line="l1")
    rates = {one.bank: one for one in report.labels}
    # Of five parts, two passes are called a defect, one fail good, and two rejects nobody has looked at.
    one = rates[VERSION]
    assert (one.passed.parts, one.passed.defects, one.rejected.parts, one.rejected.good) == (2, 2, 3, 1)
    assert (one.over_kill.value, one.miss.value) == (1.0, 1.0)
    assert any("sample" in sentence for sentence in one.meaning)
    assert len(rates) == 2


def test_the_worst_parts_come_with_what_is_known_of_them(archive, pictures):
    report = make(archive, pictures)
    assert [(one.job_id, one.judgement) for one in report.worst] == [("d", None), ("b", "good"), ("c", None)]
    assert report.worst[0].pictures == {"h": "h" * 8, "i": "i" * 8}
    assert [one.job_id for one in report.missed] == ["j", "a"]


def test_a_standstill_at_the_beginning_and_the_end_of_a_shift_is_found_too(archive, pictures):
    report = make(archive, pictures, since=NOW - 30 * MINUTE, until=NOW + 90 * MINUTE, now=NOW + 90 * MINUTE)
    assert [(one.line, one.since, one.until) for one in report.pauses] == [
        ("l1", NOW - 30 * MINUTE, NOW - MINUTE),
        ("l2", NOW - 30 * MINUTE, NOW + 31 * MINUTE),
        ("l1", NOW + 6 * MINUTE, NOW + 30 * MINUTE),
        ("l1", NOW + 30 * MINUTE, NOW + 59 * MINUTE),
        ("l2", NOW + 31 * MINUTE, NOW + 90 * MINUTE),
        ("l1", NOW + 60 * MINUTE, NOW + 90 * MINUTE),
    ]
    assert make(archive, pictures, line="l9").pauses == (Pause("l9", NOW, END),)


def test_a_batch_is_counted_from_its_first_to_its_last_verdict(archive, pictures):
    report = make(archive, pictures, kind="batch", name="B7-", since=NOW - 1000 * MINUTE)
    assert (report.parts, report.extent) == (3, (NOW + 2 * MINUTE, NOW + 59 * MINUTE))
    assert report.steps[0].since == NOW + 2 * MINUTE
    assert sum(sum(step.counts.values()) for step in report.steps) == 3
    assert (report.pauses, report.announcements.parts) == ((), 1)
    nothing = make(archive, pictures, kind="batch", name="B8-")
    assert (nothing.parts, nothing.extent, nothing.decisions, nothing.worst) == (0, None, (), ())


def test_a_shift_that_is_not_over_is_counted_until_now(archive, pictures):
    report = make(archive, pictures, now=NOW + 4 * MINUTE)
    assert (report.until, report.parts) == (NOW + 4 * MINUTE, 4)


def test_the_digest_is_that_of_the_figures(archive, pictures):
    report = make(archive, pictures)
    assert report.digest == make(archive, pictures).digest
    assert report.digest != make(archive, pictures, line="l1").digest


def test_changes_are_those_of_the_store_of_the_banks_and_others_in_the_order_of_time(tmp_path):
    clock = iter(range(NOW, NOW + 10_000, 1000))
    versions = Versions(FolderObjects(tmp_path), "store", lambda: next(clock))
    versions.make()
    state = versions.state("brick")
    versions._record("brick", state, "publish", VERSION, "anna", "a new light", {store.MANIFEST_FILE: VERSION})
    other = Change(at=NOW - 1, who="ben", what="thresholds set")
    later = other.model_copy(update={"at": NOW + MINUTE})
    found = report_changes.read(versions, NOW - 1, NOW + MINUTE, None, (later, other))
    assert [(one.who, one.what, one.of, one.detail) for one in found.known] == [
        ("ben", "thresholds set", "", ""),
        ("anna", "publish", "brick", "a new light"),
    ]
    assert report_changes.read(versions, NOW, NOW + MINUTE, "cup").known == ()
    assert not report_changes.read(None, NOW, NOW + 1, None).has_store


def test_a_store_of_banks_that_does_not_answer_is_said_and_the_report_is_made(tmp_path):
    class Away(FolderObjects):
        def read(self, key):
            raise StoreUnavailable("the share is away")

    found = report_changes.read(Versions(Away(tmp_path), "store", lambda: NOW), NOW, NOW + 1, None)
    assert (found.known, found.problem) == ((), "the share is away")


DAY = 86_400_000


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({}, "name a shift, a batch, or the time"),
        ({"shift": "early", "since": "8h"}, "a shift has its own time"),
        ({"shift": "early", "batch": "B7-"}, "a shift has its own time"),
        ({"batch": "B 7"}, "'B 7' is no name of a batch"),
        ({"since": "8h", "line": "l/1"}, "'l/1' is no name of a line"),
        ({"since": "8h", "category": "../x"}, "is no name of a category"),
        ({"since": "soon"}, "'soon' is no time"),
        ({"since": "2h", "until": "3h"}, "begins after its end"),
        ({"since": "2030-01-01"}, "begins after its end, or in the future"),
        ({"since": "40d"}, "31 days at most"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(words, reason):
    with pytest.raises(SetupError, match=reason):
        report_request.make(SECTION, NOW, **words)


def test_times_without_an_offset_are_those_of_the_plant():
    request = report_request.make(SECTION, NOW, since="2023-11-14T06:00", until="2023-11-14T07:00+00:00")
    assert (request.since, request.until) == (1_699_938_000_000, 1_699_945_200_000)  # 05:00 and 07:00 of UTC
    batch = report_request.make(SECTION, NOW, batch="B7-")
    assert (batch.kind, NOW - batch.since, batch.until) == ("batch", 30 * DAY, NOW)
    shift = report_request.make(SECTION, NOW, shift="early", line="l1")
    assert (shift.name, shift.line) == ("early@2023-11-14", "l1")


def test_a_bank_that_is_a_trial_is_named_so_with_its_parts():
    archive, limits = MemoryLedger(), {"review": 900.0, "fail": 1000.0, "trial": True}
    version = "cd" * 32
    trial = {"decision": "review", "thresholds": limits, "bank_version": version}
    archive.save([record("a"), record("b", **trial), record("c", **trial, decided_at=NOW + 1)], [])
    report = make(archive, MemoryPictures())
    assert {one.bank: one.trial for one in report.banks} == {VERSION: False, version: True}
    assert {one.job_id: one.trial for one in report.worst} == {"a": False, "b": True, "c": True}
