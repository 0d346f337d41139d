import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchline.broker.base import Message
from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Decision, Job, Verdict

NOW = 1_800_000_000_000


def a_job(**changes):
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


def sent(job, **headers):
    return Message(b"image", job.job_id, messages.JOB_TYPE, job.content_type, {**job.headers(), **headers})


def test_a_job_survives_its_way_through_message_properties():
    job = a_job()
    assert messages.parse_job(sent(job)) == job
    assert job.routing_key == "press-3.bottle"


def test_optional_headers_may_be_missing_and_broker_headers_are_passed_over():
    job = a_job(deadline=None, traceparent=None)
    assert messages.parse_job(sent(job, **{"x-delivery-count": 3, "x-death": [{}]})) == job


@pytest.mark.parametrize(
    ("changes", "named"),
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
        ({"colour": "red"}, "colour"),
        ({"job_id": "smuggled"}, "job_id"),
        ({"content_type": "image/png"}, "content_type"),
    ],
)
def test_a_wrong_header_is_named(changes, named):
    with pytest.raises(Unusable) as caught:
        messages.parse_job(sent(a_job(), **changes))
    assert caught.value.reason is Reason.MALFORMED_MESSAGE
    assert named in caught.value.detail


def test_another_type_of_message_is_no_job():
    with pytest.raises(Unusable, match=r"patchline\.job\.v1"):
        messages.parse_job(Message(b"", "j1", "patchline.job.v2"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["line", "category", "part_id", "captured_at", "deadline", "traceparent"]) | st.text()


@given(st.binary(), st.none() | st.text(), st.none() | st.text(), st.dictionaries(names, anything))
def test_any_message_is_a_job_or_unusable_and_its_verdict_can_be_written(body, message_id, content_type, headers):
    envelope = Message(body, message_id, messages.JOB_TYPE, content_type, headers)
    try:
        messages.parse_job(envelope)
    except Unusable:
        known = messages.salvage(envelope)
        assert messages.salvage(envelope) == known
        Verdict(
            **known,
            decision=Decision.ERROR,
            reason=Reason.MALFORMED_MESSAGE,
            worker="w",
            device="cpu:0",
            attempt=1,
            received_at=NOW,
            decided_at=NOW,
        ).to_json()


@given(st.binary())
def test_any_bytes_are_a_verdict_or_unusable(body):
    with pytest.raises(Unusable):
        messages.parse_verdict(Message(body))


def test_salvage_keeps_what_is_usable():
    known = messages.salvage(Message(b"x", "j9", None, None, {"line": "press-3", "category": 5}))
    assert known == {"job_id": "j9", "line": "press-3", "category": "unknown", "part_id": "unknown"}


def test_messages_without_an_id_differ_by_their_content():
    first, second = (messages.salvage(Message(body))["job_id"] for body in (b"x", b"y"))
    assert first != second
    assert first.startswith("unidentified-")


def test_a_verdict_survives_json():
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


def test_the_same_capture_has_the_same_id_and_any_difference_another():
    base = ("line", "category", "part", NOW, b"image")
    others = [
        ("line2", *base[1:]),
        (*base[:3], NOW + 1, b"image"),
        (*base[:4], b"imagE"),
        (*base[:2], "part2", *base[3:]),
    ]
    assert messages.job_id_for(*base) == messages.job_id_for(*base)
    assert len({messages.job_id_for(*each) for each in [base, *others]}) == 5
