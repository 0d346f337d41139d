"""The path of a job through a lane, step by step, with the broker in memory."""

import hashlib
import threading
import weakref
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from patchline.broker.base import Message, NotConfirmed, Refused, TooLarge, Unanswered
from patchline.broker.memory import MemoryBroker
from patchline.inspection.inspector import Inspection
from patchline.inspection.score import HeatMap
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason, Retry, Unusable
from patchline.protocol.messages import Decision, Job, Scores, Thresholds
from patchline.worker.heartbeats import Heartbeats
from patchline.worker.lane import Lane, SuspectLane
from patchline.worker.metrics import Metrics
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock
from patchline.worker.verdict_cache import DisabledVerdictCache
from patchline.worker.verdict_factory import VerdictFactory

NOW = 1_800_000_000_000
ATTEMPTS = 3
JOBS_QUEUE, SUSPECTS_QUEUE = (topology.category_queue(name, "bottle") for name in (topology.JOBS, topology.SUSPECTS))


class FakeInspector:
    """Returns or raises `outcome`, and counts its calls."""

    def __init__(self):
        self.outcome = Inspection(Decision.PASS, 1.0, Scores(max=2.0, topk10=1.0), (), None)
        self.inspected = 0
        self.thresholds = Thresholds(review=5.0, fail=9.0)
        self.backbone = SimpleNamespace(manifest=SimpleNamespace(name="fake"), model_sha256="6" * 64, precision="f32")
        self.bank = SimpleNamespace(name="bottle@123", digest="5" * 64)
        self.during = lambda: None

    def inspect(self, image, content_type, stage, with_heat_map=False):
        self.inspected += 1
        with stage("decode"):
            self.during()
            if isinstance(self.outcome, Exception):
                raise self.outcome
        return self.outcome


class DictCache(DisabledVerdictCache):
    """A cache in dictionaries."""

    def __init__(self):
        self.verdicts = {}
        self.pictures = {}

    def get_verdict(self, job_id):
        return self.verdicts.get(job_id)

    def save_verdict(self, verdict):
        self.verdicts[verdict.job_id] = verdict

    def save_picture(self, job_id, jpeg):
        self.pictures[job_id] = jpeg


class Line:
    """A lane and a suspect lane with everything they need."""

    def __init__(self):
        self.now = NOW
        self.broker = MemoryBroker()
        self.broker.declare(topology.plant(["bottle"], 100, 10**9, 100, 100))
        self.inspector = FakeInspector()
        self.cache = DictCache()
        self.metrics = Metrics("cpu:0", ["bottle"])
        self.stop = threading.Event()
        dependencies = {
            "verdicts": VerdictFactory("w", "cpu:0", lambda: self.now),
            "inspectors": {"bottle": self.inspector},
            "broker": self.broker,
            "cache": self.cache,
            "metrics": self.metrics,
            "heartbeats": Heartbeats(2),
            "lock": SharedExclusiveLock(2),
            "max_attempts": ATTEMPTS,
            "stop": self.stop,
        }
        self.lane = Lane(self.broker.consume(JOBS_QUEUE, prefetch=2), **dependencies)
        self.suspect_lane = SuspectLane(self.broker.consume(SUSPECTS_QUEUE, prefetch=1), **dependencies)

    def send(self, job_id="j1", category="bottle", deadline=NOW + 1000, image=b"image", key=None, **headers):
        job = Job(
            job_id=job_id,
            line="l",
            category=category,
            part_id="p",
            captured_at=NOW - 50,
            deadline=deadline,
            content_type="image/png",
        )
        outgoing = Message(image, job_id, messages.JOB_TYPE, job.content_type, {**job.headers(), **headers})
        self.broker.publish(topology.JOBS, key or job.routing_key, outgoing)

    def step(self):
        """Process one job; suspects come first."""
        lane = self.suspect_lane if self.suspect_lane.jobs._queue.ready else self.lane
        lane.step(0)

    def crash(self, lane=None):
        """Let a worker take a job and crash."""
        assert (lane or self.lane).jobs.take(0) is not None
        self.broker.cut()

    def messages(self, queue):
        consumer, deliveries = self.broker.consume(queue, prefetch=100), []
        while (delivery := consumer.take(0)) is not None:
            delivery.ack()
            deliveries.append(delivery)
        return deliveries

    def verdicts(self):
        return [messages.parse_verdict(delivery.message) for delivery in self.messages(topology.VERDICTS)]

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def line():
    return Line()


def test_a_job_becomes_a_verdict_and_is_acknowledged(line):
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.job_id, verdict.decision, verdict.score, verdict.attempt) == ("j1", Decision.PASS, 1.0, 1)
    assert (verdict.backbone, verdict.memory_bank, verdict.worker) == ("fake", "bottle@123", "w")
    assert verdict.bank_version == "5" * 64
    assert (verdict.judged_with.model_sha256, verdict.judged_with.precision) == ("6" * 64, "f32")
    assert "decode" in verdict.durations_ms
    line.broker.cut()
    line.step()
    assert line.inspector.inspected == 1
    assert line.cache.get_verdict("j1") == verdict
    assert line.value("patchline_images_total", line="l", category="bottle", decision="pass") == 1


def test_a_job_is_judged_by_one_bank_although_it_is_switched_meanwhile_and_the_old_one_is_freed(line):
    old, new = line.inspector, FakeInspector()
    old.bank.digest, new.bank.digest = "1" * 64, "2" * 64
    old.during = lambda: line.lane.inspectors.update(bottle=new)
    line.send("j1")
    line.send("j2")
    line.step()
    line.step()
    assert [verdict.bank_version for verdict in line.verdicts()] == ["1" * 64, "2" * 64]
    freed = weakref.ref(old)
    line.inspector = old.during = None
    del old
    assert freed() is None


@pytest.mark.parametrize(("pictures", "saved"), [("doubtful", True), ("none", False)])
def test_the_heat_map_of_a_failed_part_is_saved_unless_switched_off(line, pictures, saved):
    image = np.full((600, 900, 3), 90, np.uint8)
    heat = HeatMap(np.full((32, 32), 1.5, np.float32), (600, 900), (slice(0, 600), slice(0, 900)))
    line.inspector.outcome = Inspection(Decision.FAIL, 9.5, Scores(max=10.0, topk10=9.5), (), heat, image)
    line.lane = replace(line.lane, pictures=pictures)
    line.send()
    line.step()
    assert ("j1" in line.cache.pictures) == saved
    if saved:
        picture = cv2.imdecode(np.frombuffer(line.cache.pictures["j1"], np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (341, 512, 3)


def test_the_verdict_is_published_before_the_job_is_acknowledged(line):
    line.send()
    publish, queue = line.broker.publish, line.lane.jobs._queue

    def watch(exchange, routing_key, outgoing, **options):
        assert len(line.lane.jobs._unsettled) == 1
        publish(exchange, routing_key, outgoing, **options)

    line.broker.publish = watch
    line.step()
    assert not line.lane.jobs._unsettled
    assert not queue.ready


def test_an_unusable_job_gets_the_decision_error_and_is_dead_lettered(line):
    line.inspector.outcome = Unusable(Reason.UNREADABLE_IMAGE, "truncated")
    line.send()
    line.step()
    (verdict,), (dead,) = line.verdicts(), line.messages(topology.DEAD)
    assert (verdict.decision, verdict.reason, verdict.detail) == (Decision.ERROR, Reason.UNREADABLE_IMAGE, "truncated")
    assert (dead.message.body, dead.message.message_id) == (b"image", "j1")
    assert dead.message.headers["x-patchline-reason"] == "unreadable_image"
    assert dead.message.headers["x-patchline-stage"] == "decode"
    assert dead.message.headers["part_id"] == "p"
    assert line.value("patchline_errors_total", reason="unreadable_image") == 1


@pytest.mark.parametrize("deadline", [NOW + 1000, NOW - 1000], ids=["in time", "late"])
def test_an_announced_part_without_an_image_is_an_error_with_its_cause_and_no_dead_letter(line, deadline):
    line.send(image=b"", deadline=deadline, no_image="no frame within 250 ms", number=7, encoder_count=-3)
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.reason) == (Decision.ERROR, Reason.NO_IMAGE)
    assert (verdict.detail, verdict.number, verdict.encoder_count) == ("no frame within 250 ms", 7, -3)
    assert line.messages(topology.DEAD) == []
    assert line.inspector.inspected == 0
    assert line.value("patchline_errors_total", reason="no_image") == 1


def test_a_part_whose_image_was_judged_before_keeps_its_verdict_if_a_camera_then_reports_no_image(line):
    line.send()
    line.step()
    line.send(image=b"", no_image="the camera's process ended")
    line.step()
    assert [verdict.decision for verdict in line.verdicts()] == [Decision.PASS, Decision.PASS]
    assert line.inspector.inspected == 1


def test_a_malformed_message_gets_the_decision_error(line):
    line.broker.publish(topology.JOBS, "l.bottle", Message(b"?", None, None, None, {"line": "l"}))
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.line, verdict.category) == (Decision.ERROR, "l", "unknown")
    assert verdict.reason is Reason.MALFORMED_MESSAGE
    assert len(line.messages(topology.DEAD)) == 1


def test_an_unknown_category_gets_the_decision_error(line):
    line.send(category="can", key="l.bottle")
    line.step()
    (verdict,) = line.verdicts()
    assert verdict.reason is Reason.UNKNOWN_CATEGORY
    assert "bottle" in verdict.detail
    assert line.value("patchline_images_total", line="l", category="unknown", decision="error") == 1


@pytest.mark.parametrize("fault", [Retry(Reason.DEVICE_FAILED, "busy"), ZeroDivisionError("surprise")])
def test_a_failing_job_is_retried_up_to_the_maximum_number_of_attempts(line, fault):
    line.inspector.outcome = fault
    line.send()
    for _ in range(ATTEMPTS):
        assert line.verdicts() == []
        line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.attempt) == (Decision.ERROR, ATTEMPTS)
    assert line.inspector.inspected == ATTEMPTS
    assert len(line.messages(topology.DEAD)) == 1
    assert line.value("patchline_jobs_set_apart_total") == ATTEMPTS - 1


def test_a_job_that_crashes_every_worker_gets_the_decision_error(line):
    line.send()
    line.crash()
    line.step()
    for _ in range(ATTEMPTS - 1):
        line.crash(line.suspect_lane)
        line.step()
    line.step()
    (verdict,), (dead,) = line.verdicts(), line.messages(topology.DEAD)
    assert (verdict.decision, verdict.reason, line.inspector.inspected) == (Decision.ERROR, Reason.CRASHED, 0)
    assert dead.message.headers["x-patchline-attempts"] == ATTEMPTS + 1


def test_a_job_that_was_only_prefetched_by_crashed_workers_is_inspected(line):
    line.send()
    for _ in range(5 * ATTEMPTS):
        line.crash()
    line.step()
    assert (line.inspector.inspected, line.verdicts()) == (0, [])
    line.step()
    assert [(verdict.decision, verdict.attempt) for verdict in line.verdicts()] == [(Decision.PASS, 2)]


def test_a_suspect_is_acknowledged_before_it_can_be_inspected(line):
    """Otherwise it could crash this worker while both queues hold it."""
    line.send()
    line.crash()
    publish, jobs, lock, events = line.broker.publish, line.lane.jobs, line.lane.lock, []

    def watch(exchange, *rest, **options):
        events.append((exchange, lock._shared_holders, len(jobs._unsettled)))
        publish(exchange, *rest, **options)

    line.broker.publish = watch
    jobs.flush = lambda: events.append(("flushed", lock._shared_holders, len(jobs._unsettled)))
    line.step()
    assert events == [(topology.SUSPECTS, 1, 1), ("flushed", 1, 0)]
    assert lock._shared_holders == 0


def test_a_retried_job_is_acknowledged_before_it_can_be_inspected_again(line):
    flushed = []
    line.send()
    line.inspector.outcome = Retry(Reason.DEVICE_FAILED, "busy")
    line.lane.jobs.flush = lambda: flushed.append(line.lane.lock._shared_holders)
    line.step()
    assert flushed == [1]


@pytest.mark.timeout(20)
def test_a_lane_that_waits_for_the_broker_does_not_block_the_others(line):
    line.send("j1")
    line.send("j2")
    lane = replace(line.lane, lock=SharedExclusiveLock(1))
    publish, waiting, confirm = line.broker.publish, threading.Event(), threading.Event()

    def slow(exchange, routing_key, message, **options):
        if message.message_id == "j1":
            waiting.set()
            confirm.wait(15)
        publish(exchange, routing_key, message, **options)

    line.broker.publish = slow
    first = threading.Thread(target=lane.step, args=(0,))
    first.start()
    assert waiting.wait(15)
    lane.step(0)
    assert [verdict.job_id for verdict in line.verdicts()] == ["j2"]
    confirm.set()
    first.join(15)
    assert [verdict.job_id for verdict in line.verdicts()] == ["j1"]


def test_a_worker_makes_progress_when_all_its_lanes_do(line):
    assert not line.lane.heartbeats.all_received()
    line.lane.step(0)
    assert not line.lane.heartbeats.all_received()
    thread = threading.Thread(target=line.suspect_lane.step, args=(0,))
    thread.start()
    thread.join(5)
    assert line.lane.heartbeats.all_received()
    assert not line.lane.heartbeats.all_received()


def test_a_job_that_succeeds_when_retried_gets_an_ordinary_verdict(line):
    line.inspector.outcome, success = Retry(Reason.DEVICE_FAILED, "busy"), line.inspector.outcome
    line.send()
    line.step()
    line.inspector.outcome = success
    line.step()
    assert [(verdict.decision, verdict.attempt) for verdict in line.verdicts()] == [(Decision.PASS, 2)]


def test_an_expired_job_is_not_inspected(line):
    line.send(deadline=NOW - 1)
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.reason) == (Decision.EXPIRED, Reason.DEADLINE_PASSED)
    assert line.inspector.inspected == 0


def test_a_job_whose_deadline_passes_during_its_inspection_is_expired(line):
    def slow():
        line.now += 2000

    line.inspector.during = slow
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.score) == (Decision.EXPIRED, None)


def test_a_redelivered_job_gets_its_cached_verdict(line):
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    line.send()
    line.crash()
    line.step()
    assert line.verdicts() == [verdict]
    assert line.inspector.inspected == 1


def test_a_replayed_job_is_inspected_again_despite_its_cached_verdict(line):
    line.send(**{messages.REPLAY_HEADER: 1})
    line.cache.save_verdict(line.lane.verdicts.error(line.lane.jobs.take(0), NOW, Unusable(Reason.CRASHED, "before")))
    line.broker.cut()
    line.step()
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.attempt) == (Decision.PASS, 2)


def test_a_capture_that_is_sent_again_is_inspected_again(line):
    for _ in range(2):
        line.send()
        line.step()
    assert line.inspector.inspected == 2


def test_a_refused_verdict_is_published_again_until_it_is_confirmed(line, monkeypatch):
    line.send()
    publish, refusals = line.broker.publish, iter([Refused("full"), NotConfirmed("cut"), None])

    waiting = []

    def refuse_twice(*arguments, **options):
        waiting.append(line.metrics.backpressure.waiting)
        refusal = next(refusals)
        if refusal is not None:
            raise refusal
        publish(*arguments, **options)

    monkeypatch.setattr("patchline.worker.lane._RETRY_PAUSE_S", 0)
    line.broker.publish = refuse_twice
    line.step()
    assert len(line.verdicts()) == 1
    assert line.inspector.inspected == 1
    assert (waiting, line.metrics.backpressure.waiting) == ([0, 1, 1], 0)


def test_a_verdict_whose_confirmation_is_late_is_sent_once(line, monkeypatch):
    line.send()
    publish, confirmation = line.broker.publish, Future()
    confirmation.set_running_or_notify_cancel()

    def confirm_late(*arguments):
        publish(*arguments)
        raise Unanswered(confirmation, 0.0)

    def confirm():
        if not confirmation.done():
            confirmation.set_result(None)

    monkeypatch.setattr("patchline.worker.lane._RETRY_PAUSE_S", 0)
    monkeypatch.setattr(line.lane.heartbeats, "beat", confirm)
    line.broker.publish = confirm_late
    line.step()
    assert len(line.verdicts()) == 1
    assert line.cache.verdicts.keys() == {"j1"}


def test_a_verdict_that_is_lost_with_its_channel_is_sent_again(line, monkeypatch):
    line.send()
    publish, lost = line.broker.publish, Future()

    def lose_first(*arguments):
        if not lost.done():
            lost.set_exception(NotConfirmed("the channel closed"))
            raise Unanswered(lost, 0.0)
        publish(*arguments)

    monkeypatch.setattr("patchline.worker.lane._RETRY_PAUSE_S", 0)
    line.broker.publish = lose_first
    line.step()
    assert len(line.verdicts()) == 1


@pytest.mark.parametrize(("copy_is_refused", "attempt"), [(False, 1), (True, 2)])
def test_a_job_whose_verdict_is_refused_is_given_back_when_the_worker_stops(line, copy_is_refused, attempt):
    """As a copy, which counts no attempt; if that is refused too, by requeueing it."""
    line.send()

    def refuse(*_, **__):
        line.stop.set()
        raise Refused("full")

    line.broker.publish = refuse
    if copy_is_refused:
        line.broker.publish_nowait = refuse
    line.step()
    again = line.lane.jobs.take(0)
    assert (again.message.message_id, again.attempt, again.redelivered) == ("j1", attempt, copy_is_refused)
    assert line.cache.verdicts == {}


def limit_message_size(line, exchanges, most=1000):
    """Let the broker refuse large messages to some exchanges, as after a lowered max_message_size."""
    publish = line.broker.publish

    def limited(exchange, routing_key, message, **options):
        if exchange in exchanges and len(message.body) > most:
            raise TooLarge("larger than 1000 bytes")
        publish(exchange, routing_key, message, **options)

    line.broker.publish = limited


IMAGE = b"image" * 1000


def test_a_job_too_large_for_a_dead_letter_gets_its_verdict_and_a_dead_letter_that_identifies_its_image(line):
    limit_message_size(line, [topology.DEAD])
    line.inspector.outcome = Unusable(Reason.UNREADABLE_IMAGE, "truncated")
    line.send(image=IMAGE)
    line.step()
    (verdict,), (dead,) = line.verdicts(), line.messages(topology.DEAD)
    assert (verdict.decision, verdict.reason) == (Decision.ERROR, Reason.UNREADABLE_IMAGE)
    assert (dead.message.body, dead.message.message_id) == (b"", "j1")
    assert dead.message.headers["x-patchline-image-bytes"] == len(IMAGE)
    assert dead.message.headers["x-patchline-image-sha256"] == hashlib.sha256(IMAGE).hexdigest()
    assert dead.message.headers["x-patchline-reason"] == "unreadable_image"
    assert line.value("patchline_dead_letters_incomplete_total") == 1
    assert not line.lane.jobs._unsettled


@pytest.mark.parametrize("outcome", [Retry(Reason.DEVICE_FAILED, "busy"), None])
def test_a_job_too_large_for_the_suspects_gets_a_verdict(line, outcome):
    limit_message_size(line, [topology.SUSPECTS, topology.DEAD])
    line.send(image=IMAGE)
    if outcome is None:
        line.crash()
    line.inspector.outcome = outcome
    line.step()
    (verdict,), (dead,) = line.verdicts(), line.messages(topology.DEAD)
    assert (verdict.decision, verdict.reason) == (Decision.ERROR, Reason.IMAGE_OVER_LIMIT)
    assert dead.message.body == b""
    assert line.lane.lock._shared_holders == 0
    assert not line.lane.jobs._unsettled


def test_a_verdict_does_not_wait_for_a_missing_queue_of_dead_letters(line):
    del line.broker._queues[topology.DEAD]
    line.inspector.outcome = Unusable(Reason.UNREADABLE_IMAGE, "truncated")
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    assert verdict.reason is Reason.UNREADABLE_IMAGE
    assert line.value("patchline_dead_letters_incomplete_total") == 1


def test_a_stale_job_is_neither_published_nor_acknowledged(line):
    line.send()

    def cut(*_, **__):
        line.broker.cut()
        raise NotConfirmed("the connection is gone")

    publish, line.broker.publish = line.broker.publish, cut
    line.step()
    line.broker.publish = publish
    line.step()
    line.step()
    assert [(verdict.job_id, verdict.attempt) for verdict in line.verdicts()] == [("j1", 2)]
