"""What a verdict's spans say, without a collector."""

from patchline.protocol.messages import Verdict
from patchline.tracing import spans

NOON = 1_795_000_000_000
VERDICT = Verdict(
    job_id="job-1",
    line="l1",
    category="brick",
    part_id="p",
    decision="pass",
    score=0.5,
    device="cpu:0",
    worker="w",
    attempt=1,
    captured_at=NOON + 1_000,
    received_at=NOON + 1_400,
    decided_at=NOON + 1_450,
    durations_ms={"decode": 10.0, "extract": 25.5},
)


def pieces(verdict):
    return [(each.name, each.start_ms, each.end_ms) for each in spans.inside(verdict)]


def test_the_wait_and_the_stages_follow_each_other():
    assert pieces(VERDICT) == [
        ("queue", NOON + 1_000, NOON + 1_400),
        ("decode", NOON + 1_400, NOON + 1_410),
        ("extract", NOON + 1_410, NOON + 1_435.5),
    ]
    job = spans.of_job(VERDICT)
    assert (job.name, job.start_ms, job.end_ms, job.failed) == ("inspect brick", NOON + 1_000, NOON + 1_450, False)
    assert job.attributes["patchline.decision"] == "pass"
    assert job.attributes["patchline.score"] == 0.5
    assert "patchline.reason" not in job.attributes


def test_without_a_time_of_capture_there_was_no_wait():
    assert pieces(VERDICT.model_copy(update={"captured_at": None}))[0] == ("queue", NOON + 1_400, NOON + 1_400)


def test_a_camera_whose_clock_is_ahead_makes_no_span_that_ends_before_it_begins():
    ahead = VERDICT.model_copy(update={"captured_at": NOON + 9_000})
    assert pieces(ahead)[0] == ("queue", NOON + 1_400, NOON + 1_400)
    assert spans.of_job(ahead).start_ms == NOON + 1_400


def test_what_was_not_judged_has_failed():
    for decision, failed in (("error", True), ("expired", True), ("review", False), ("fail", False)):
        assert spans.of_job(VERDICT.model_copy(update={"decision": decision})).failed is failed
