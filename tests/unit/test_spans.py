"""The spans of a verdict."""

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


def stages(verdict):
    return [(span.name, span.start_ms, span.end_ms) for span in spans.stage_spans(verdict)]


def test_the_queue_and_the_stages_follow_each_other():
    assert stages(VERDICT) == [
        ("queue", NOON + 1_000, NOON + 1_400),
        ("decode", NOON + 1_400, NOON + 1_410),
        ("extract", NOON + 1_410, NOON + 1_435.5),
    ]
    job = spans.job_span(VERDICT)
    assert (job.name, job.start_ms, job.end_ms, job.failed) == ("inspect brick", NOON + 1_000, NOON + 1_450, False)
    assert job.attributes["patchline.decision"] == "pass"
    assert job.attributes["patchline.score"] == 0.5
    assert "patchline.reason" not in job.attributes


def test_without_a_time_of_capture_the_time_in_the_queue_is_zero():
    assert stages(VERDICT.model_copy(update={"captured_at": None}))[0] == ("queue", NOON + 1_400, NOON + 1_400)


def test_a_span_does_not_start_after_its_end_if_the_clock_of_a_camera_is_ahead():
    ahead = VERDICT.model_copy(update={"captured_at": NOON + 9_000})
    assert stages(ahead)[0] == ("queue", NOON + 1_400, NOON + 1_400)
    assert spans.job_span(ahead).start_ms == NOON + 1_400


def test_the_span_of_an_error_or_expired_job_has_failed():
    for decision, failed in (("error", True), ("expired", True), ("review", False), ("fail", False)):
        assert spans.job_span(VERDICT.model_copy(update={"decision": decision})).failed is failed
