"""The path of a job, one step at a time, on the in-memory broker: no threads, no sleeps."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from patchline.broker.base import Message, NotConfirmed, Refused
from patchline.broker.memory import MemoryBroker
from patchline.inspection.inspector import Inspection
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason, Retry, Unusable
from patchline.protocol.messages import Decision, Job, Scores, Thresholds
from patchline.worker import shared_exclusive_lock
from patchline.worker.heartbeats import Heartbeats
from patchline.worker.lane import Lane, SuspectLane
from patchline.worker.metrics import Metrics
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock
from patchline.worker.verdict_cache import DisabledVerdictCache
from patchline.worker.verdict_factory import VerdictFactory

NOW = 1_800_000_000_000
ATTEMPTS = 3


class FakeInspector:
    """Answers or raises what it is told, and counts."""

    def __init__(self):
        self.outcome = Inspection(Decision.PASS, 1.0, Scores(max=2.0, topk10=1.0), (), None)
        self.inspected = 0
        self.thresholds = Thresholds(review=5.0, fail=9.0)
        self.backbone = SimpleNamespace(manifest=SimpleNamespace(name="fake"))
        self.bank = SimpleNamespace(version="bottle@123")
        self.during = lambda: None

    def inspect(self, image, content_type, stage, look=False):
        self.inspected += 1
        with stage("decode"):
            self.during()
            if isinstance(self.outcome, Exception):
                raise self.outcome
        return self.outcome


class DictCache(DisabledVerdictCache):
    """Remembers verdicts in a dictionary."""

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
    """A lane with its surroundings."""

    def __init__(self):
        self.now = NOW
        self.broker = MemoryBroker()
        self.broker.declare(topology.plant(100, 10**9, 100, 100))
        self.inspector = FakeInspector()
        self.cache = DictCache()
        self.metrics = Metrics("cpu:0", ["bottle"])
        self.stop = threading.Event()
        surroundings = {
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
        self.lane = Lane(self.broker.consume(topology.JOBS, prefetch=2), **surroundings)
        self.suspect_lane = SuspectLane(self.broker.consume(topology.SUSPECTS, prefetch=1), **surroundings)

    def send(self, job_id="j1", category="bottle", deadline=NOW + 1000, **headers):
        job = Job(
            job_id=job_id,
            line="l",
            category=category,
            part_id="p",
            captured_at=NOW - 50,
            deadline=deadline,
            content_type="image/png",
        )
        outgoing = Message(b"image", job_id, messages.JOB_TYPE, job.content_type, {**job.headers(), **headers})
        self.broker.publish(topology.JOBS, job.routing_key, outgoing)

    def step(self):
        """One job: of the suspects, where there are some."""
        (self.suspect_lane if self.suspect_lane.jobs._queue.ready else self.lane).step(0)

    def lose(self, lane=None):
        """A worker takes a job and dies."""
        assert (lane or self.lane).jobs.take(0) is not None
        self.broker.cut()

    def messages(self, queue):
        consumer, found = self.broker.consume(queue, prefetch=100), []
        while (delivery := consumer.take(0)) is not None:
            delivery.ack()
            found.append(delivery)
        return found

    def verdicts(self):
        return [messages.parse_verdict(each.message) for each in self.messages(topology.VERDICTS)]

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
    assert "decode" in verdict.durations_ms
    line.broker.cut()
    line.step()
    assert line.inspector.inspected == 1
    assert line.cache.get_verdict("j1") == verdict
    assert line.value("patchline_images_total", line="l", category="bottle", decision="pass") == 1


@pytest.mark.parametrize(("pictures", "kept"), [("doubtful", True), ("none", False)])
def test_a_doubtful_part_leaves_a_picture_behind(line, pictures, kept):
    image, heat = np.full((600, 900, 3), 90, np.uint8), np.full((600, 900), 1.5, np.float32)
    line.inspector.outcome = Inspection(Decision.FAIL, 9.5, Scores(max=10.0, topk10=9.5), (), heat, image)
    line.lane = replace(line.lane, pictures=pictures)
    line.send()
    line.step()
    assert ("j1" in line.cache.pictures) == kept
    if kept:
        drawn = cv2.imdecode(np.frombuffer(line.cache.pictures["j1"], np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape == (341, 512, 3)


def test_the_verdict_is_published_before_the_job_is_acknowledged(line):
    line.send()
    publish, stored = line.broker.publish, line.lane.jobs._queue

    def watch(exchange, routing_key, outgoing, **options):
        assert len(line.lane.jobs._unsettled) == 1
        publish(exchange, routing_key, outgoing, **options)

    line.broker.publish = watch
    line.step()
    assert not line.lane.jobs._unsettled
    assert not stored.ready


def test_an_unusable_job_is_answered_with_error_and_dead_lettered(line):
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


def test_a_message_that_is_no_job_is_answered_too(line):
    line.broker.publish(topology.JOBS, "l.bottle", Message(b"?", None, None, None, {"line": "l"}))
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.line, verdict.category) == (Decision.ERROR, "l", "unknown")
    assert verdict.reason is Reason.MALFORMED_MESSAGE
    assert len(line.messages(topology.DEAD)) == 1


def test_a_category_that_is_not_served_is_an_error(line):
    line.send(category="can")
    line.step()
    (verdict,) = line.verdicts()
    assert verdict.reason is Reason.UNKNOWN_CATEGORY
    assert "bottle" in verdict.detail
    assert line.value("patchline_images_total", line="l", category="unknown", decision="error") == 1


@pytest.mark.parametrize("fault", [Retry(Reason.DEVICE_FAILED, "hiccup"), ZeroDivisionError("surprise")])
def test_a_passing_fault_sends_the_job_back_until_its_last_attempt_answers(line, fault):
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


def test_a_job_that_ends_every_worker_is_tried_alone_and_answered_in_the_end(line):
    line.send()
    line.lose()
    line.step()
    for _ in range(ATTEMPTS - 1):
        line.lose(line.suspect_lane)
        line.step()
    line.step()
    (verdict,), (dead,) = line.verdicts(), line.messages(topology.DEAD)
    assert (verdict.decision, verdict.reason, line.inspector.inspected) == (Decision.ERROR, Reason.CRASHED, 0)
    assert dead.message.headers["x-patchline-attempts"] == ATTEMPTS + 1


def test_a_job_that_lay_beside_a_crash_any_number_of_times_is_judged(line):
    line.send()
    for _ in range(5 * ATTEMPTS):
        line.lose()
    line.step()
    assert (line.inspector.inspected, line.verdicts()) == (0, [])
    line.step()
    assert [(each.decision, each.attempt) for each in line.verdicts()] == [(Decision.PASS, 2)]


def test_a_suspect_is_not_judged_before_it_is_acknowledged_where_it_came_from(line):
    """It may end the worker: were it judged between the two, it would be there twice, and end twice as many."""
    line.send()
    line.lose()
    publish, jobs, lock, seen = line.broker.publish, line.lane.jobs, line.lane.lock, []

    def watch(exchange, *rest, **options):
        seen.append((exchange, lock._shared_holders, len(jobs._unsettled)))
        publish(exchange, *rest, **options)

    line.broker.publish = watch
    jobs.flush = lambda: seen.append(("flushed", lock._shared_holders, len(jobs._unsettled)))
    line.step()
    assert seen == [(topology.SUSPECTS, 1, 1), ("flushed", 1, 0)]
    assert lock._shared_holders == 0


def test_a_job_whose_device_failed_is_not_judged_anew_before_it_is_acknowledged(line):
    flushed = []
    line.send()
    line.inspector.outcome = Retry(Reason.DEVICE_FAILED, "busy")
    line.lane.jobs.flush = lambda: flushed.append(line.lane.lock._shared_holders)
    line.step()
    assert flushed == [1]


def test_a_lane_that_waits_for_its_turn_is_not_stuck(monkeypatch):
    monkeypatch.setattr(shared_exclusive_lock, "_WAIT_INTERVAL_S", 0.0)
    waited = threading.Event()
    lock, judged = SharedExclusiveLock(1, waited.set), []

    def judge():
        with lock.shared():
            judged.append(1)

    waiting = threading.Thread(target=judge)
    with lock.shared():
        waiting.start()
        assert waited.wait(5)
    waiting.join(5)
    assert judged


def test_a_suspect_is_judged_while_nobody_else_is():
    lock, order = SharedExclusiveLock(2), []
    judging, may_end = threading.Event(), threading.Event()

    def together():
        with lock.shared():
            judging.set()
            may_end.wait(5)
            order.append("together")

    def alone():
        with lock.exclusive():
            order.append("alone")

    threads = [threading.Thread(target=together), threading.Thread(target=alone)]
    threads[0].start()
    judging.wait(5)
    threads[1].start()
    may_end.set()
    for thread in threads:
        thread.join(5)
    with lock.shared():
        order.append("together")
    assert order == ["together", "alone", "together"]


def test_no_more_are_judged_at_once_than_there_is_room_for():
    lock, most, judged, pair = SharedExclusiveLock(2), [], [], threading.Barrier(2)

    def judge():
        for _ in range(50):
            with lock.shared():
                pair.wait(10)
                most.append(lock._shared_holders)
            judged.append(1)

    threads = [threading.Thread(target=judge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(judged), max(most)) == (300, 2)


@pytest.mark.timeout(20)
def test_a_lane_that_waits_for_the_broker_keeps_no_other_from_judging(line):
    line.send("j1")
    line.send("j2")
    lane = replace(line.lane, lock=SharedExclusiveLock(1))
    publish, waits, goes_on = line.broker.publish, threading.Event(), threading.Event()

    def slow(exchange, routing_key, answer, **options):
        if answer.message_id == "j1":
            waits.set()
            goes_on.wait(15)
        publish(exchange, routing_key, answer, **options)

    line.broker.publish = slow
    first = threading.Thread(target=lane.step, args=(0,))
    first.start()
    assert waits.wait(15)
    lane.step(0)
    assert [each.job_id for each in line.verdicts()] == ["j2"]
    goes_on.set()
    first.join(15)
    assert [each.job_id for each in line.verdicts()] == ["j1"]


def test_a_worker_gets_on_when_all_its_lanes_do(line):
    assert not line.lane.heartbeats.all_received()
    line.lane.step(0)
    assert not line.lane.heartbeats.all_received()
    thread = threading.Thread(target=line.suspect_lane.step, args=(0,))
    thread.start()
    thread.join(5)
    assert line.lane.heartbeats.all_received()
    assert not line.lane.heartbeats.all_received()


def test_a_fault_that_passes_ends_in_an_ordinary_verdict(line):
    line.inspector.outcome, ordinary = Retry(Reason.DEVICE_FAILED, "hiccup"), line.inspector.outcome
    line.send()
    line.step()
    line.inspector.outcome = ordinary
    line.step()
    assert [(each.decision, each.attempt) for each in line.verdicts()] == [(Decision.PASS, 2)]


def test_a_late_job_is_expired_without_being_looked_at(line):
    line.send(deadline=NOW - 1)
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.reason) == (Decision.EXPIRED, Reason.DEADLINE_PASSED)
    assert line.inspector.inspected == 0


def test_a_job_that_becomes_late_during_its_inspection_is_expired(line):
    def slow():
        line.now += 2000

    line.inspector.during = slow
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.score) == (Decision.EXPIRED, None)


def test_a_job_that_comes_again_gets_the_verdict_it_had(line):
    line.send()
    line.step()
    (verdict,) = line.verdicts()
    line.send()
    line.lose()
    line.step()
    assert line.verdicts() == [verdict]
    assert line.inspector.inspected == 1


def test_a_replayed_job_is_judged_anew_whatever_is_remembered(line):
    line.send(**{messages.REPLAY_HEADER: 1})
    line.cache.save_verdict(line.lane.verdicts.error(line.lane.jobs.take(0), NOW, Unusable(Reason.CRASHED, "before")))
    line.broker.cut()
    line.step()
    line.step()
    (verdict,) = line.verdicts()
    assert (verdict.decision, verdict.attempt) == (Decision.PASS, 2)


def test_a_capture_that_is_sent_again_on_purpose_is_judged_anew(line):
    for _ in range(2):
        line.send()
        line.step()
    assert line.inspector.inspected == 2


def test_a_verdict_that_is_refused_is_held_until_it_is_confirmed(line, monkeypatch):
    line.send()
    publish, refusals = line.broker.publish, iter([Refused("full"), NotConfirmed("cut"), None])

    def reluctant(*arguments, **options):
        refusal = next(refusals)
        if refusal is not None:
            raise refusal
        publish(*arguments, **options)

    monkeypatch.setattr("patchline.worker.lane._RETRY_PAUSE_S", 0)
    line.broker.publish = reluctant
    line.step()
    assert len(line.verdicts()) == 1
    assert line.inspector.inspected == 1


def test_a_job_whose_verdict_is_refused_goes_back_when_the_worker_stops(line):
    line.send()

    def refuse(*_, **__):
        line.stop.set()
        raise Refused("full")

    line.broker.publish = refuse
    line.step()
    again = line.lane.jobs.take(0)
    assert (again.message.message_id, again.attempt) == ("j1", 2)
    assert line.cache.verdicts == {}


def test_a_stale_job_is_left_to_the_broker(line):
    line.send()

    def cut(*_, **__):
        line.broker.cut()
        raise NotConfirmed("the connection is gone")

    publish, line.broker.publish = line.broker.publish, cut
    line.step()
    line.broker.publish = publish
    line.step()
    line.step()
    assert [(each.job_id, each.attempt) for each in line.verdicts()] == [("j1", 2)]
