"""The path of a verdict into the archive: on the broker and the archive in memory."""

import threading

import pytest
from prometheus_client import generate_latest

from patchline.archive import process
from patchline.archive.base import Search, Unavailable, Unstorable
from patchline.archive.memory import MemoryArchive
from patchline.archive.metrics import Metrics
from patchline.archive.writer import Writer, verdict
from patchline.broker.base import Message
from patchline.broker.memory import MemoryBroker
from patchline.protocol import topology
from patchline.protocol.messages import VERDICT_TYPE
from tests.archive_contract import NOW, message
from tests.own_logs import capture_own_logs

KEY = "l1.brick.fail"


class Scene:
    """A queue of verdicts, an archive, and their writer. The clock stands unless the test moves it."""

    def __init__(self, archive=None, most=100):
        self.broker, self.archive = MemoryBroker(), archive or MemoryArchive()
        self.broker.declare(topology.plant([], 1, 1, 1_000_000, 1))
        self.now = 0.0
        self.metrics = Metrics(lambda: NOW + 2_000)
        self.queue = self.broker.consume(topology.VERDICTS, prefetch=1000)
        self.writer = Writer(
            self.queue, verdict, self.archive, self.metrics, most, 0.001, lambda: NOW + 5, lambda: self.now
        )

    def send(self, *sent):
        for one in sent:
            self.broker.publish(topology.VERDICTS, KEY, one)

    def jobs(self):
        return {record.job_id for record in self.archive.find(Search())}

    def waiting(self):
        """The number of messages that are not acknowledged."""
        self.broker.cut()
        return len(self.broker._queues[topology.VERDICTS].ready)

    def metric(self, name):
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def test_verdicts_are_stored_then_acknowledged():
    scene = Scene()
    scene.send(*(message(f"job-{number}") for number in range(10)))
    assert scene.writer.step() == 0.0
    assert scene.jobs() == {f"job-{number}" for number in range(10)}
    assert scene.waiting() == 0
    assert scene.metric("patchline_archive_verdicts_total") == 10
    assert scene.metric("patchline_archive_behind_seconds") == 2.0


def test_a_batch_is_no_larger_than_it_may_be():
    sizes = []

    class Counting(MemoryArchive):
        def save(self, records, unreadable):
            sizes.append(len(records))
            return super().save(records, unreadable)

    scene = Scene(Counting(), most=4)
    scene.send(*(message(f"job-{number}") for number in range(10)))
    for _ in range(3):
        scene.writer.step()
    assert sizes == [4, 4, 2]


def test_an_empty_queue_stores_nothing():
    scene = Scene()
    scene.writer._queue = type("Empty", (), {"take": lambda *_: None})()
    assert scene.writer.step() == 0.0
    assert scene.metric("patchline_archive_batch_seconds_count") == 0


def test_a_database_that_goes_away_on_an_idle_line_is_noticed_and_so_is_its_return():
    scene = Scene()
    scene.writer._queue = type("Empty", (), {"take": lambda *_: None})()
    assert scene.writer.step() == 0.0
    scene.archive.away = True
    scene.now += 4.9
    assert (scene.writer.step(), scene.writer.is_storing) == (0.0, True)
    scene.now += 0.1
    assert (scene.writer.step(), scene.writer.is_storing) == (0.5, False)
    assert (scene.writer.step(), scene.writer.is_storing) == (1.0, False)
    scene.archive.away = False
    assert (scene.writer.step(), scene.writer.is_storing) == (0.0, True)


def test_nothing_is_acknowledged_while_the_database_is_away():
    scene = Scene()
    scene.archive.away = True
    scene.send(message("a"), message("b"))
    assert scene.writer.step() > 0
    assert (scene.writer.pending, scene.writer.is_storing) == (2, False)
    assert scene.waiting() == 2


def test_the_pauses_grow_to_ten_seconds_and_end_with_the_failure():
    scene = Scene()
    scene.archive.away = True
    scene.send(message("a"))
    pauses = [scene.writer.step() for _ in range(7)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    scene.archive.away = False
    assert scene.writer.step() == 0.0
    assert (scene.jobs(), scene.writer.is_storing, scene.waiting()) == ({"a"}, True, 0)
    scene.archive.away = True
    scene.send(message("b"))
    assert scene.writer.step() == 0.5


def test_a_batch_that_rabbitmq_has_taken_back_is_dropped_and_taken_again():
    scene = Scene()
    scene.archive.away = True
    scene.send(message("a"), message("b"))
    scene.writer.step()
    scene.broker.cut()
    scene.archive.away = False
    scene.writer.step()
    assert scene.jobs() == {"a", "b"}
    assert scene.metric("patchline_archive_verdicts_total") == 2


def test_a_crash_between_the_commit_and_the_acknowledgement_stores_each_verdict_once():
    scene = Scene()
    scene.send(message("a"), message("b"))
    scene.archive.save(*scene.writer._parse(scene.writer._take()))
    scene.broker.cut()  # the process is killed here
    scene.writer.step()
    assert scene.jobs() == {"a", "b"}
    assert scene.archive.further("a") == []
    assert scene.waiting() == 0


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff\xfe\x00", b"[]", b"{}", b'{"job_id": "../x"}', b"[" * 9_000])
def test_an_unreadable_verdict_is_set_aside_and_blocks_nothing(body):
    scene = Scene()
    scene.send(message("a"), Message(body, "poison", VERDICT_TYPE), message("b"))
    scene.writer.step()
    assert (scene.jobs(), scene.waiting()) == ({"a", "b"}, 0)
    (kept,) = scene.archive.unreadable(10)
    assert (kept.message_id, kept.routing_key, kept.body) == ("poison", KEY, body)
    assert kept.reason
    assert scene.metric("patchline_archive_rows_total") == 3


def test_a_verdict_that_the_database_refuses_is_set_aside_and_the_others_are_stored():
    class Particular(MemoryArchive):
        def save(self, records, unreadable):
            if any(record.job_id == "bad" for record in records):
                raise Unstorable("value out of range")
            return super().save(records, unreadable)

    scene = Scene(Particular())
    scene.send(message("a"), message("bad"), message("b"))
    scene.writer.step()
    assert (scene.jobs(), scene.waiting()) == ({"a", "b"}, 0)
    (kept,) = scene.archive.unreadable(10)
    assert kept.message_id == "bad"
    assert "value out of range" in kept.reason
    assert scene.metric("patchline_archive_verdicts_total") == 2


def test_another_verdict_on_a_job_is_counted():
    scene = Scene()
    scene.send(message("a"), message("a", decision="pass"), message("a"))
    scene.writer.step()
    assert scene.archive.get("a").decision == "fail"
    assert [record.decision for record in scene.archive.further("a")] == ["pass"]
    assert scene.metric("patchline_archive_rows_total") == 2


def test_an_archive_that_waits_for_days_says_each_reason_once(monkeypatch):
    monkeypatch.setattr(process, "_RETRY_S", 0.0)
    reasons = iter([*["disk full"] * 100, *["read-only"] * 100])

    def attempt():
        reason = next(reasons, None)
        if reason is not None:
            raise Unavailable(reason)

    with capture_own_logs() as logged:
        process._until_stopped(attempt, Unavailable, "waiting", threading.Event())
    assert [(line["event"], line["reason"]) for line in logged] == [("waiting", "disk full"), ("waiting", "read-only")]
