import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchline.broker.base import Message
from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Decision, Job, Verdict

NOW = 1_800_000_000_000


def make_job(**changes):
    fields = {
        "job_id": "j1",
        "line": "press-3",
        "category": "bottle",
        "part_id": "p:1",
        "captured_at": NOW,
        "deadline": NOW + 1000,
        "content_type": "image/png",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    return Job(**(fields | changes))


def message_of(job, **headers):
    return Message(b"image", job.job_id, messages.JOB_TYPE, job.content_type, {**job.headers(), **headers})


def test_a_job_is_unchanged_after_serialization():
    job = make_job()
    assert messages.parse_job(message_of(job)) == job
    assert job.routing_key == "press-3.bottle"


def test_optional_headers_may_be_missing_and_broker_headers_are_ignored():
    job = make_job(deadline=None, traceparent=None)
    assert messages.parse_job(message_of(job, **{"x-delivery-count": 3, "x-death": [{}]})) == job


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"line": None}, "line"),
        ({"line": "a.b"}, "line"),
        ({"line": ""}, "line"),
        ({"category": "../etc"}, "category"),
        ({"category": "x" * 64}, "category"),
        ({"part_id": "with space"}, "part_id"),
        ({"part_id": 7}, "part_id"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"captured_at": 1_800_000_000}, "captured_at"),
        ({"captured_at": 1.8e12}, "captured_at"),
        ({"deadline": True}, "deadline"),
        ({"traceparent": "00-zz"}, "traceparent"),
        ({"job_id": "smuggled"}, "job_id"),
        ({"content_type": "image/png"}, "content_type"),
    ],
)
def test_the_error_names_the_invalid_header(changes, field):
    with pytest.raises(Unusable) as caught:
        messages.parse_job(message_of(make_job(), **changes))
    assert caught.value.reason is Reason.MALFORMED_MESSAGE
    assert field in caught.value.detail


def test_unknown_headers_and_fields_of_a_later_build_are_ignored():
    job = make_job()
    assert messages.parse_job(message_of(job, colour="red", **{"x-later": 1})) == job
    announced = messages.parse_announcement(message_of(job, colour="red"))
    assert announced.model_dump(exclude={"announced_at"}) == job.model_dump(exclude={"content_type", "no_image"})
    verdict = {
        "job_id": "j1",
        "line": "l",
        "category": "c",
        "part_id": "p",
        "worker": "w",
        "device": "cpu:0",
        "decision": "error",
        "reason": "a_later_reason",
        "attempt": 1,
        "received_at": NOW,
        "decided_at": NOW,
        "scores": {"max": 1.0, "topk10": 0.5, "mean": 0.1},
        "colour": "red",
        "regions": [{"x": 1, "y": 2, "width": 3, "height": 4, "score": 1.25, "kind": "scratch"}],
    }
    parsed = messages.parse_verdict(Message(json.dumps(verdict).encode()))
    assert (parsed.reason, parsed.scores.topk10, parsed.regions[0].height) == ("a_later_reason", 0.5, 4)
    with pytest.raises(Unusable, match="decision"):
        messages.parse_verdict(Message(json.dumps(verdict | {"decision": "maybe"}).encode()))


def test_a_message_of_another_type_is_refused():
    with pytest.raises(Unusable, match=r"patchline\.job\.v1"):
        messages.parse_job(Message(b"", "j1", "patchline.job.v2"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["line", "category", "part_id", "captured_at", "deadline", "traceparent"]) | st.text()


@given(st.binary(), st.none() | st.text(), st.none() | st.text(), st.dictionaries(names, anything))
def test_any_message_is_a_job_or_gets_an_error_verdict(body, message_id, content_type, headers):
    envelope = Message(body, message_id, messages.JOB_TYPE, content_type, headers)
    try:
        messages.parse_job(envelope)
    except Unusable:
        fields = messages.salvage(envelope)
        assert messages.salvage(envelope) == fields
        Verdict(
            **fields,
            decision=Decision.ERROR,
            reason=Reason.MALFORMED_MESSAGE,
            worker="w",
            device="cpu:0",
            attempt=1,
            received_at=NOW,
            decided_at=NOW,
        ).to_json()


@given(st.binary())
def test_arbitrary_bytes_are_not_a_verdict(body):
    with pytest.raises(Unusable):
        messages.parse_verdict(Message(body))


def test_salvage_keeps_the_valid_fields():
    fields = messages.salvage(Message(b"x", "j9", None, None, {"line": "press-3", "category": 5}))
    assert fields == {"job_id": "j9", "line": "press-3", "category": "unknown", "part_id": "unknown"}


def test_messages_without_an_id_get_one_from_their_content():
    first, second = (messages.salvage(Message(body))["job_id"] for body in (b"x", b"y"))
    assert first != second
    assert first.startswith("unidentified-")


def test_a_verdict_is_unchanged_after_serialization():
    verdict = Verdict(
        job_id="j1",
        line="l",
        category="c",
        part_id="p",
        decision=Decision.FAIL,
        score=1.5,
        regions=(messages.Region(x=1, y=2, width=3, height=4, score=1.25),),
        worker="w",
        device="cpu:0",
        attempt=2,
        received_at=NOW,
        decided_at=NOW,
    )
    assert messages.parse_verdict(Message(verdict.to_json())) == verdict
    assert verdict.routing_key == "l.c.fail"
    assert "reason" not in json.loads(verdict.to_json())


def test_the_job_id_depends_on_every_property_of_the_capture():
    base = ("line", "category", "part", NOW, b"image")
    others = [
        ("line2", *base[1:]),
        (*base[:3], NOW + 1, b"image"),
        (*base[:4], b"imagE"),
        (*base[:2], "part2", *base[3:]),
    ]
    assert messages.job_id_for(*base) == messages.job_id_for(*base)
    assert len({messages.job_id_for(*capture) for capture in [base, *others]}) == 5


def test_the_job_id_at_a_trigger_depends_on_line_category_series_and_number():
    base = ("line", "category", NOW, 1)
    others = [("line2", *base[1:]), ("line", "category2", NOW, 1), (*base[:2], NOW + 1, 1), (*base[:3], 2)]
    assert messages.job_id_at_trigger(*base) == messages.job_id_at_trigger(*base)
    assert len({messages.job_id_at_trigger(*trigger) for trigger in [base, *others]}) == 5


def test_only_the_job_says_why_there_is_no_image():
    job = make_job(no_image="no frame within 250 ms")
    assert messages.parse_job(message_of(job)) == job
    assert "no_image" not in job.announcement(NOW).headers()
