"""The path of a picture into the archive, and out of it again: in memory, and its rows in SQLite."""

import sqlite3
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from patchline import config
from patchline.archive import opening
from patchline.archive.base import Unstorable
from patchline.archive.database import Database
from patchline.archive.metrics import PictureMetrics
from patchline.archive.picture_table import PictureTable
from patchline.archive.picture_thread import PictureThread
from patchline.archive.picture_writer import PictureWriter
from patchline.archive.pictures import MemoryPictures
from patchline.archive.retention import Retention
from patchline.archive.store import MemoryStore, StoreUnavailable
from patchline.broker.base import Message
from patchline.broker.memory import MemoryBroker
from patchline.protocol import topology
from patchline.protocol.errors import DamagedError
from tests.picture_contract import NOW, PictureContract, picture, row

KEY = "l1.brick.fail"
DAY_MS = 86_400_000
CATEGORIES = {"brick": {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}}
NEVER = dict.fromkeys(("pass", "review", "fail", "expired", "error"))


class TestMemory(PictureContract):
    @pytest.fixture
    def index(self):
        return MemoryPictures()


class TestSQLite(PictureContract):
    @pytest.fixture
    def index(self, tmp_path):
        with closing(Database(tmp_path / "archive.sqlite")) as database:
            database.prepare()
            yield PictureTable(database)


class Scene:
    """A queue of pictures, a store, rows, and what writes and deletes. The clocks stand unless the test moves them."""

    def __init__(self, most=100, **rules):
        self.broker, self.store, self.index = MemoryBroker(), MemoryStore(), MemoryPictures()
        self.broker.declare(topology.plant([], 1, 1, 1, 1))
        self.now_s, self.registry = 0.0, CollectorRegistry()
        metrics = PictureMetrics(self.registry)
        self.queue = self.broker.consume(topology.PICTURES, prefetch=1000)
        settings = config.Pictures(**{"keep_days": NEVER} | rules)
        self.ahead_ms = 0
        clocks = (lambda: NOW + self.ahead_ms, lambda: self.now_s)
        self.retention = Retention(self.index, self.store, settings, metrics, *clocks)
        self.writer = PictureWriter(self.queue, self.index, self.store, self.retention, metrics, most, *clocks)

    def send(self, *sent):
        for one in sent:
            self.broker.publish(topology.PICTURES, KEY, one)

    def keep(self, *rows):
        """Put pictures into the archive whose bodies are their job ids."""
        for one in rows:
            self.store.put(one.digest, b"x" * one.bytes)
        self.index.add(rows)

    def delete(self):
        """Delete all that is to be deleted. Return the steps."""
        steps = []
        while not steps or steps[-1]:
            steps.append(self.retention.step())
        return steps[:-1]

    def waiting(self):
        """The number of messages that are not acknowledged."""
        self.broker.cut()
        return len(self.broker._queues[topology.PICTURES].ready)

    def value(self, name, **labels):
        return self.registry.get_sample_value(name, labels)


def test_a_damaged_table_of_pictures_ends_the_archive_and_no_stack_trace_is_logged(tmp_path):
    settings = config.Config.model_validate({"categories": CATEGORIES, "paths": {"archive": tmp_path}})
    file, broker = opening.target(settings), MemoryBroker()
    with closing(Database(file)) as database:
        database.prepare()
    with closing(sqlite3.connect(file)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'pictures'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as opened:
        opened.seek((root - 1) * size)
        opened.write(b"\xa5" * size)
    broker.declare(topology.plant([], 1, 1, 1, 1))
    broker.publish(topology.PICTURES, KEY, picture())
    with closing(Database(file)) as database, capture_logs() as logged:
        with PictureThread(settings, database, broker, PictureMetrics(CollectorRegistry())) as thread:
            thread._thread.join(30)
        with pytest.raises(DamagedError, match="restore a backup"):
            thread.check()
    assert not thread.is_ready()
    assert "exc_info" not in str(logged)


def jobs(scene, count=100):
    return {f"job-{number}" for number in range(count) if scene.index.of_job(f"job-{number}")}


def test_pictures_are_stored_then_acknowledged():
    scene = Scene()
    scene.send(picture(), picture(kind="heat_map", body=b"heat"), picture("job-2", body=b"other"))
    assert scene.writer.step() == 0.0
    (heat, image) = scene.index.of_job("job-1")
    assert (scene.store.get(image.digest), scene.store.get(heat.digest)) == (b"image", b"heat")
    assert (image.bytes, image.stored_at, image.decision, image.hold) == (5, NOW, "fail", None)
    assert scene.waiting() == 0
    assert scene.value("patchline_archive_pictures_total", state="stored") == 3


def test_a_picture_that_comes_again_and_again_is_one_row():
    scene = Scene()
    scene.send(picture(), picture())
    scene.writer.step()
    scene.send(picture(), picture(body=b"another image of the same job"))
    scene.writer.step()
    assert [one.bytes for one in scene.index.of_job("job-1")] == [5]
    assert len(list(scene.store.list())) == 1  # no bytes without a row
    assert scene.waiting() == 0
    assert scene.value("patchline_archive_pictures_total", state="known") == 3


@pytest.mark.parametrize("away", ["store", "index"])
def test_while_the_store_or_the_database_is_away_nothing_is_acknowledged(away):
    scene = Scene(most=1)
    scene.send(picture(), picture("job-2"))
    getattr(scene, away).away = True
    pauses = [scene.writer.step() for _ in range(6)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert (scene.writer.is_storing, scene.writer.pending) == (False, 1)
    getattr(scene, away).away = False
    scene.now_s = 6.0
    assert [scene.writer.step() for _ in range(2)] == [0.0, 0.0]
    assert (scene.writer.is_storing, jobs(scene), scene.waiting()) == (True, {"job-1", "job-2"}, 0)


def test_a_store_that_goes_away_while_no_picture_comes_is_noticed_and_so_is_its_return():
    scene = Scene()
    scene.queue.take = lambda timeout_s: None
    scene.writer.step()
    scene.store.away = True
    assert scene.writer.step() == 0.0  # it was asked a moment ago
    scene.now_s = 6.0
    assert scene.writer.step() > 0
    assert not scene.writer.is_storing
    scene.store.away = False
    scene.writer.step()
    assert scene.writer.is_storing


@pytest.mark.parametrize(
    "message",
    [
        Message(b"x", "job-9", "patchline.job.v1", "image/png"),
        picture(kind="image", sha256="0" * 64),
        picture(kind="image", line="no line"),
        Message(b"", None, None),
    ],
)
def test_a_message_that_is_no_picture_is_counted_and_holds_up_nothing(message):
    scene = Scene()
    scene.send(message, picture("job-2"))
    scene.writer.step()
    assert (jobs(scene), scene.waiting()) == ({"job-2"}, 0)
    assert scene.value("patchline_archive_pictures_total", state="refused") == 1


def test_a_picture_that_the_database_refuses_leaves_no_bytes_and_holds_up_no_other():
    scene = Scene()
    add = scene.index.add

    def refuse(rows):
        if any(one.job_id == "bad" for one in rows):
            raise Unstorable("no")
        return add(rows)

    scene.index.add = refuse
    scene.send(picture("bad", body=b"bad"), picture("job-2"))
    scene.writer.step()
    assert (jobs(scene), scene.waiting(), len(list(scene.store.list()))) == ({"job-2"}, 0, 1)


def test_pictures_are_deleted_when_they_are_as_old_as_their_decision_allows():
    scene = Scene(keep_days=NEVER | {"pass": 1.0, "fail": 10.0})
    at = NOW - 5 * DAY_MS
    scene.keep(row("job-1", body=b"1", at=at, decision="pass"), row("job-2", body=b"2", at=at))
    scene.keep(row("job-3", body=b"3", at=NOW - 11 * DAY_MS), row("job-4", body=b"4", at=0, decision="review"))
    assert scene.delete() == [1, 1]
    assert jobs(scene) == {"job-2", "job-4"}
    assert sorted(scene.store.list()) == sorted(row(body=body).digest for body in (b"2", b"4"))
    assert scene.value("patchline_archive_pictures_deleted_total", decision="pass") == 1


def test_of_too_many_bytes_those_of_passes_go_first_then_the_oldest_and_no_more_than_needed():
    scene = Scene(max_bytes=25)
    scene.keep(*(row(f"job-{number}", body=bytes([number]) * 10, at=NOW + number) for number in range(3)))
    scene.keep(row("job-9", body=b"9" * 10, at=NOW + 9, decision="pass"))
    assert scene.delete() == [1, 1]
    assert jobs(scene) == {"job-1", "job-2"}
    assert scene.value("patchline_archive_picture_bytes", decision="fail") == 20


def test_the_first_pictures_are_counted_before_the_minute_is_over():
    scene = Scene()
    scene.delete()
    scene.keep(row("job-1", body=b"1" * 10))
    scene.now_s = 6.0
    scene.delete()
    assert scene.value("patchline_archive_picture_bytes", decision="fail") == 10
    scene.keep(row("job-2", body=b"2" * 10))
    scene.now_s = 12.0
    scene.delete()
    assert scene.value("patchline_archive_picture_bytes", decision="fail") == 10  # as of the last minute


def test_what_is_held_is_never_deleted():
    scene = Scene(max_bytes=1, keep_days=dict.fromkeys(NEVER, 1.0))
    scene.keep(*(row(f"job-{number}", body=bytes([number]), at=0) for number in range(120)))
    scene.index.hold("job-7", "claim")
    assert scene.delete() == [50, 50, 19]
    assert jobs(scene, 120) == {"job-7"}
    scene.index.hold("job-7", None)
    scene.now_s += 61
    assert scene.delete() == [1]
    assert list(scene.store.list()) == []


def test_bytes_that_another_picture_has_too_stay():
    scene = Scene(keep_days=NEVER | {"pass": 1.0})
    scene.keep(row("job-1", at=0, decision="pass"), row("job-2"))
    scene.delete()
    assert jobs(scene) == {"job-2"}
    assert list(scene.store.list()) == [row().digest]


def test_a_removal_that_was_interrupted_is_finished_first():
    scene = Scene(keep_days=NEVER | {"fail": 1.0})
    scene.keep(row("job-1", body=b"1", at=0), row("job-2", body=b"2", at=0))
    scene.index.begin_removal([row("job-1", body=b"1", at=0)])
    scene.store.away = True
    with pytest.raises(Exception, match="away"):
        scene.retention.step()
    scene.store.away = False
    assert scene.delete() == []  # not at once
    scene.now_s = 6.0
    assert scene.delete() == [1, 1]
    assert (list(scene.store.list()), scene.index.leaving(9)) == ([], [])


def test_old_pictures_make_place_on_a_disk_that_takes_no_more():
    scene = Scene(keep_days=NEVER | {"fail": 1.0})
    scene.keep(row("job-1", at=0))
    scene.send(picture("job-2", body=b"new"))
    put = scene.store.put

    def put_if_empty(digest, body):
        if list(scene.store.list()):
            raise StoreUnavailable("the disk is full")
        put(digest, body)

    scene.store.put = put_if_empty
    assert scene.writer.step() > 0
    assert not scene.writer.is_storing
    assert scene.writer.step() == 0.0
    assert (jobs(scene), scene.writer.is_storing) == ({"job-2"}, True)


def test_pictures_that_cannot_be_deleted_are_said_and_others_are_stored():
    scene = Scene(keep_days=NEVER | {"fail": 1.0})
    scene.keep(row("job-1", at=0))
    scene.store.delete = lambda digest: (_ for _ in ()).throw(StoreUnavailable("access denied"))
    scene.send(picture("job-2", body=b"new"))
    assert scene.writer.step() == 0.0
    assert (scene.waiting(), scene.writer.is_storing) == (0, False)
    del scene.store.delete
    scene.now_s = 6.0
    scene.queue.take = lambda timeout_s: None
    scene.writer.step()
    assert (jobs(scene), scene.writer.is_storing) == ({"job-2"}, True)


def test_nothing_is_deleted_by_an_archive_that_does_not_have_the_queue():
    scene = Scene(keep_days=NEVER | {"fail": 1.0})
    scene.keep(row("job-1", at=0))
    scene.queue.stop()
    scene.writer.step()
    assert jobs(scene) == {"job-1"}


def test_a_clock_that_jumps_ahead_deletes_no_picture_by_its_age():
    scene = Scene(keep_days={"fail": 30.0})
    scene.keep(row("old", stored_at=NOW - 31 * DAY_MS), row("new", stored_at=NOW - DAY_MS))
    scene.ahead_ms = 400 * DAY_MS
    assert scene.delete() == []
    scene.ahead_ms, scene.now_s = 0, 100.0
    assert scene.delete() == [1]
    assert scene.index.of_job("new")
    scene.ahead_ms, scene.now_s = 40 * DAY_MS, 40 * DAY_MS / 1000  # time that has passed
    assert scene.delete() == [1]


def test_the_age_of_the_oldest_picture_is_shown_until_it_is_deleted():
    scene = Scene(keep_days={"fail": 30.0})
    scene.keep(row("old", stored_at=NOW - 29 * DAY_MS), row("new", stored_at=NOW))

    def shown():
        name = "patchline_archive_oldest_picture_timestamp_seconds"
        return scene.registry.get_sample_value(name, {"decision": "fail"})

    scene.delete()
    assert shown() == (NOW - 29 * DAY_MS) / 1000
    scene.ahead_ms, scene.now_s = 2 * DAY_MS, 2 * DAY_MS / 1000
    scene.delete()
    scene.now_s += 100
    scene.delete()
    assert shown() == NOW / 1000
