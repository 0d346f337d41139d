"""The pictures of a lane: which are sent, and that nothing waits for them."""

from concurrent.futures import Future
from dataclasses import replace

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.broker.base import BrokerError, Refused
from patchline.inspection.inspector import Inspection
from patchline.inspection.score import HeatMap
from patchline.protocol import messages, picture_message, topology
from patchline.protocol.errors import Reason, Retry, Unusable
from patchline.protocol.messages import Decision, Scores
from patchline.worker import pictures
from patchline.worker.pictures import PictureMetrics, PictureSender, is_sampled
from tests.unit.test_lane import NOW, Line

ALL = ("review", "fail", "expired", "error")


class Scene(Line):
    """A lane that sends pictures, over the broker of its verdicts."""

    def __init__(self, most=1, **rules):
        super().__init__()
        settings = config.Pictures(**{"decisions": ALL} | rules)
        self.sender = PictureSender(self.broker, settings, most, PictureMetrics(self.metrics.registry))
        self.lane = replace(self.lane, archive=self.sender)
        self.suspect_lane = replace(self.suspect_lane, archive=self.sender)

    def decide(self, decision, heat=True):
        image = np.full((60, 90, 3), 90, np.uint8)
        heat_map = HeatMap(np.full((8, 8), 1.5, np.float32), (60, 90), (slice(0, 60), slice(0, 90)))
        scores = Scores(max=10.0, topk10=9.5)
        shown = (heat_map, image) if heat else (None, None)
        self.inspector.outcome = Inspection(decision, 9.5, scores, (), *shown)

    def pictures(self):
        return {
            (one.job_id, one.kind): (one, delivery.message.body)
            for delivery in self.messages(topology.PICTURES)
            for one in [picture_message.parse(delivery.message)]
        }

    def lost(self):
        return {
            reason: count
            for reason in pictures.Loss
            if (count := self.value("patchline_pictures_lost_total", reason=reason))
        }


@pytest.mark.parametrize("decision", [Decision.FAIL, Decision.REVIEW])
@pytest.mark.parametrize("cached", ["doubtful", "none"])
def test_a_rejected_part_has_its_image_and_its_heat_map_sent(decision, cached):
    scene = Scene()
    scene.lane = replace(scene.lane, pictures=cached)
    scene.decide(decision)
    scene.send(image=b"the very bytes")
    scene.step()
    found = scene.pictures()
    fields, body = found["j1", "image"]
    assert (body, fields.line, fields.category, fields.decision) == (b"the very bytes", "l", "bottle", decision)
    heat = cv2.imdecode(np.frombuffer(found["j1", "heat_map"][1], np.uint8), cv2.IMREAD_COLOR)
    assert heat.shape == (60, 90, 3)
    assert scene.value("patchline_pictures_sent_total") == 2


def test_pictures_are_sent_after_the_verdict_and_before_the_acknowledgement():
    scene = Scene()
    scene.decide(Decision.FAIL)
    order, nowait, publish = [], scene.broker.publish_nowait, scene.broker.publish

    def watch(outgoing):
        order.append((outgoing[0].exchange, len(scene.lane.jobs._unsettled)))
        return nowait(outgoing)

    scene.send()
    scene.broker.publish_nowait = watch
    scene.step()
    assert order == [(topology.VERDICTS, 1), (topology.PICTURES, 1)]
    assert not scene.lane.jobs._unsettled
    assert publish


def test_a_pass_is_sent_if_it_is_sampled_and_without_a_heat_map_if_it_has_none():
    for share, expected in ((0.0, set()), (1.0, {("j1", "image")})):
        scene = Scene(pass_share=share)
        scene.decide(Decision.PASS, heat=False)
        scene.send()
        scene.step()
        assert scene.pictures().keys() == expected


def test_the_sample_is_the_same_each_time_and_has_the_configured_share():
    ids = [f"job-{number}" for number in range(20_000)]
    sampled = [job for job in ids if is_sampled(job, 0.05)]
    assert sampled == [job for job in ids if is_sampled(job, 0.05)]
    assert 900 < len(sampled) < 1100
    assert all(is_sampled(job, 0.1) for job in sampled)
    assert (any(is_sampled(job, 0.0) for job in ids), all(is_sampled(job, 1.0) for job in ids)) == (False, True)


@pytest.mark.parametrize(
    ("decision", "outcome", "sent"),
    [
        ("error", Unusable(Reason.UNREADABLE_IMAGE, "truncated"), {"deadline": NOW + 1000}),
        ("expired", None, {"deadline": NOW - 1000}),
    ],
)
def test_a_job_with_an_image_that_was_not_judged_has_its_image_sent(decision, outcome, sent):
    scene = Scene()
    scene.inspector.outcome = outcome or scene.inspector.outcome
    scene.send(**sent)
    scene.step()
    ((fields, body),) = scene.pictures().values()
    assert (fields.kind, fields.decision, body) == ("image", decision, b"image")


def test_a_part_without_an_image_and_a_decision_that_is_not_configured_send_nothing():
    scene = Scene(decisions=("review", "error"))
    scene.send(image=b"", no_image="no frame")
    scene.step()
    scene.decide(Decision.FAIL)
    scene.send("j2")
    scene.step()
    assert (scene.pictures(), scene.lost()) == ({}, {})


def test_a_redelivered_job_whose_verdict_is_cached_has_its_image_sent():
    scene = Scene()
    scene.decide(Decision.FAIL)
    scene.send()
    scene.step()
    (verdict,) = scene.verdicts()
    scene.pictures()
    scene.send()
    scene.crash()
    scene.step()
    assert scene.verdicts() == [verdict]
    assert scene.pictures().keys() == {("j1", "image")}


def test_a_job_whose_content_type_is_invalid_is_an_error_with_its_image():
    scene = Scene()
    job = messages.Job(job_id="j1", line="l", category="bottle", part_id="p", captured_at=NOW, content_type="x")
    message = pictures.Message(b"image", "j1", messages.JOB_TYPE, "no type\n", job.headers())
    scene.inspector.outcome = Unusable(Reason.UNREADABLE_IMAGE, "no such type")
    scene.broker.publish(topology.JOBS, job.routing_key, message)
    scene.step()
    ((fields, _),) = scene.pictures().values()
    assert (fields.content_type, fields.decision) == ("application/octet-stream", "error")


def test_a_full_queue_of_pictures_is_counted_and_holds_up_nothing():
    scene = Scene()
    publish_nowait = scene.broker.publish_nowait

    def full(outgoing):
        if outgoing[0].exchange != topology.PICTURES:
            return publish_nowait(outgoing)
        confirmation = Future()
        confirmation.set_exception(Refused("full"))
        return confirmation

    scene.broker.publish_nowait = full
    scene.decide(Decision.FAIL)
    scene.send()
    scene.step()
    assert len(scene.verdicts()) == 1
    assert not scene.lane.jobs._unsettled
    assert scene.lost() == {"full": 1}


def test_an_image_that_rabbitmq_does_not_take_any_more_is_counted():
    scene = Scene()
    scene.decide(Decision.FAIL)
    scene.send(image=b"x" * 2000)
    scene.broker._max_message_size = 1000
    scene.step()
    assert (len(scene.verdicts()), scene.lost()) == (1, {"too_large": 1})


class Silent:
    """A broker that takes pictures and does not answer. The answers are set by the test."""

    def __init__(self, scene, monkeypatch):
        monkeypatch.setattr(pictures, "_USUAL_S", 0.01)
        self.answers, publish_nowait = [], scene.broker.publish_nowait

        def hang(outgoing):
            if outgoing[0].exchange != topology.PICTURES:
                return publish_nowait(outgoing)
            self.answers.append(Future())
            return self.answers[-1]

        scene.broker.publish_nowait = hang
        scene.decide(Decision.FAIL)


def test_a_lane_goes_on_and_acknowledges_a_job_once_its_pictures_are_confirmed(monkeypatch):
    scene = Scene(most=2)
    silent = Silent(scene, monkeypatch)
    for job in ("j1", "j2"):
        scene.send(job)
        scene.step()
    assert {verdict.job_id for verdict in scene.verdicts()} == {"j1", "j2"}
    assert len(scene.lane.jobs._unsettled) == 2
    silent.answers[0].set_result(None)
    scene.step()
    assert len(scene.lane.jobs._unsettled) == 1
    silent.answers[1].set_result(None)
    scene.step()
    assert (len(scene.lane.jobs._unsettled), scene.lost()) == (0, {})
    assert scene.value("patchline_pictures_sent_total") == 4


def test_pictures_are_given_up_after_a_while_and_left_out_if_too_many_wait(monkeypatch):
    scene = Scene(most=1)
    silent = Silent(scene, monkeypatch)
    for job in ("j1", "j2"):
        scene.send(job)
        scene.step()
    assert (scene.lost(), len(scene.lane.jobs._unsettled)) == ({"skipped": 1}, 1)
    scene.sender._waiting[0].until = 0.0
    scene.step()
    assert (scene.lost(), len(scene.lane.jobs._unsettled)) == ({"skipped": 1, "unanswered": 1}, 0)
    assert silent.answers[0].cancelled(), "without a connection they would stay in the memory"


def test_at_the_end_of_an_outage_pictures_wait_for_room(monkeypatch):
    scene = Scene(most=1)
    silent = Silent(scene, monkeypatch)
    scene.send("j1")
    scene.step()
    monkeypatch.setattr(pictures, "_USUAL_S", 5.0)
    scene.lane = replace(scene.lane, heartbeats=Answers(silent))
    scene.send("j2")
    scene.step()
    assert (scene.lost(), len(silent.answers)) == ({}, 2)


class Answers:
    """Answers all pictures while a lane waits."""

    def __init__(self, silent):
        self._silent = silent

    def beat(self):
        for answer in self._silent.answers:
            if not answer.done():
                answer.set_result(None)


def test_a_worker_without_room_for_more_jobs_acknowledges_each_at_once(monkeypatch):
    scene = Scene(most=0)
    silent = Silent(scene, monkeypatch)
    scene.send()
    scene.step()
    assert (scene.lost(), len(scene.lane.jobs._unsettled)) == ({"unanswered": 1}, 0)
    assert silent.answers[0].cancelled()


def test_pictures_that_were_on_a_lost_connection_are_sent_again(monkeypatch):
    scene = Scene(most=1)
    silent = Silent(scene, monkeypatch)
    scene.send()
    scene.step()
    silent.answers[0].set_exception(BrokerError("the connection is lost"))
    scene.step()
    assert (len(silent.answers), len(scene.lane.jobs._unsettled)) == (2, 1)
    silent.answers[1].set_result(None)
    scene.step()
    assert (scene.lost(), len(scene.lane.jobs._unsettled)) == ({}, 0)


def test_a_worker_that_is_killed_before_its_pictures_are_confirmed_leaves_them_to_the_next(monkeypatch):
    scene = Scene(most=1)
    publish_nowait = scene.broker.publish_nowait
    silent = Silent(scene, monkeypatch)
    scene.send()
    scene.step()
    scene.broker.cut()
    scene.sender.settle()  # nothing is left to be acknowledged
    assert (scene.lost(), silent.answers[0].cancelled()) == ({}, True)
    scene.broker.publish_nowait = publish_nowait
    scene.step()
    assert ("j1", "image") in scene.pictures()
    assert {verdict.job_id for verdict in scene.verdicts()} == {"j1"}


def test_pictures_of_a_job_that_rabbitmq_has_taken_back_are_not_lost(monkeypatch):
    monkeypatch.setattr(pictures, "_USUAL_S", 5.0)
    scene = Scene()
    publish_nowait = scene.broker.publish_nowait

    def cut(outgoing):
        if outgoing[0].exchange != topology.PICTURES:
            return publish_nowait(outgoing)
        scene.broker.cut()
        return Future()

    scene.broker.publish_nowait = cut
    scene.decide(Decision.FAIL)
    scene.send()
    scene.step()
    assert scene.lost() == {}
    scene.broker.publish_nowait = publish_nowait
    scene.step()
    assert ("j1", "image") in scene.pictures()


def test_a_job_that_is_tried_again_sends_no_picture_before_its_verdict():
    scene = Scene()
    scene.inspector.outcome = Retry(Reason.DEVICE_FAILED, "later")
    scene.send()
    scene.step()
    assert (scene.verdicts(), scene.pictures()) == ([], {})


def test_a_worker_sends_nothing_unless_the_configuration_asks_for_it():
    settings = config.Config.model_validate(
        {"categories": {"c": {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}}}
    )
    assert pictures.of_worker(settings, lambda _: pytest.fail("connected"), 3, None) is None
