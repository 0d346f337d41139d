import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from patchline.broker.base import BrokerError, NotConfirmed, Refused, Unroutable
from patchline.broker.memory import MemoryBroker
from patchline.protocol import image_files, messages, topology
from patchline.protocol.errors import SetupError
from patchline.publisher import process, source
from patchline.publisher.metrics import Metrics
from patchline.publisher.publisher import Publisher
from patchline.publisher.spool import Spool, SpoolFullError

NOW = 1_800_000_000_000


@pytest.fixture
def broker():
    broker = MemoryBroker()
    broker.declare(topology.plant(100, 10**9, 100, 100))
    broker.declare(topology.gate("l"))
    return broker


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cell 7.PNG"
    path.write_bytes(b"pixels")
    os.utime(path, (1_800_000_000, 1_800_000_000))
    return path


@pytest.fixture
def states():
    """Part id and state of every change, in order."""
    return []


@pytest.fixture
def publisher(broker, tmp_path, states):
    spool = Spool(tmp_path / "spool" / "l.c.sqlite", max_bytes=1000, max_age_s=60.0)

    def on_state(job, state):
        states.append((job.part_id, state))

    yield Publisher(broker, "l", "c", spool, lambda: NOW, on_state, threading.Event())
    spool.close()


def job(number):
    return messages.Job(
        job_id=f"j{number}", line="l", category="c", part_id="p", captured_at=NOW, content_type="image/png"
    )


def captures(count, size=10):
    return [source.Capture(f"p{number}", "image/png", NOW, b"%d" % number * size) for number in range(count)]


def sent_parts(broker):
    consumer, parts = broker.consume(topology.JOBS, 100), []
    while (delivery := consumer.take(0)) is not None:
        delivery.ack()
        parts.append(delivery.message.headers["part_id"])
    return parts


def disconnect(broker, monkeypatch, fault=None):
    def refuse(*_, **__):
        raise fault or NotConfirmed("gone")

    monkeypatch.setattr(broker, "publish_all", refuse)


def test_a_part_is_announced_before_its_image_is_sent(publisher, broker, image):
    job = publisher.accept(source.read(image), NOW + 500)
    announced = broker.consume(topology.gate_queue("l"), 1).take(0).message
    delivery = broker.consume(topology.JOBS, 1).take(0)
    assert messages.parse_announcement(announced) == job.announcement()
    assert announced.body == b""
    assert messages.parse_job(delivery.message) == job
    assert (delivery.message.body, delivery.routing_key) == (b"pixels", "l.c")
    assert (job.part_id, job.captured_at, job.content_type) == ("cell-7", NOW, "image/png")


@pytest.mark.parametrize("seconds", [0, 5_000_000_000])
def test_an_implausible_file_time_is_replaced_by_the_time_of_arrival(publisher, image, seconds):
    os.utime(image, (seconds, seconds))
    job = publisher.accept(source.read(image), None)
    assert job.captured_at == image.stat().st_ctime_ns // 1_000_000


def test_the_same_file_becomes_the_same_job(publisher, image):
    first, second = (publisher.accept(source.read(image), NOW + 500) for _ in range(2))
    assert first.job_id == second.job_id


def test_a_capture_may_have_a_category_of_its_own(publisher):
    job = publisher.accept(replace(captures(1)[0], category="bottle"), None)
    assert (job.category, job.routing_key) == ("bottle", "l.bottle")


def test_a_source_is_told_when_its_capture_is_confirmed_or_spooled(publisher, broker, monkeypatch):
    accepted = []
    one, two = (replace(capture, on_accepted=lambda: accepted.append(1)) for capture in captures(2))
    publisher.accept(one, None)
    disconnect(broker, monkeypatch)
    publisher.accept(two, None)
    assert len(accepted) == 2


@pytest.mark.parametrize(
    "fault", [NotConfirmed("gone"), Refused("full"), Unroutable("no queue"), BrokerError("closed")]
)
def test_unconfirmed_jobs_are_spooled_and_replayed_in_order(publisher, broker, states, monkeypatch, fault):
    with monkeypatch.context() as patch:
        disconnect(broker, patch, fault)
        for capture in captures(3):
            publisher.accept(capture, None)
        assert not publisher.replay()
    assert publisher.spool.depth() == 3
    publisher.accept(captures(4)[3], None)  # queued behind the spooled jobs
    assert sent_parts(broker) == []
    assert publisher.replay()
    assert sent_parts(broker) == ["p0", "p1", "p2", "p3"]
    assert publisher.spool.depth() == 0
    assert states[:4] == [(f"p{number}", "spooled") for number in range(4)]
    assert states[4:] == [(f"p{number}", "confirmed") for number in range(4)]


def test_spooled_jobs_survive_the_publisher(publisher, broker, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        job = publisher.accept(captures(1)[0], NOW + 500)
    again = Spool(tmp_path / "spool" / "l.c.sqlite", max_bytes=1000, max_age_s=60.0)
    entry = again.oldest()
    assert (entry.job, entry.image) == (job, captures(1)[0].image)
    again.close()


def test_a_full_spool_makes_the_source_wait(publisher, broker, states, monkeypatch):
    disconnect(broker, monkeypatch)
    monkeypatch.setattr("patchline.publisher.publisher._RETRY_S", 0)
    accepted = [publisher.accept(capture, None) for capture in captures(2, size=500)]
    assert all(accepted)
    waits = []

    def wait(_):
        waits.append(1)
        return publisher.stop.set() if len(waits) == 3 else False

    monkeypatch.setattr(publisher.stop, "wait", wait)
    assert publisher.accept(captures(3)[2], None) is None
    assert (len(waits), len(states), publisher.spool.depth()) == (3, 2, 2)


def test_a_job_that_waits_too_long_is_given_up_and_reported(publisher, broker, states, monkeypatch):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        publisher.accept(captures(1)[0], None)
    late = replace(publisher, clock_ms=lambda: NOW + 61_000)
    assert late.spool.oldest_age_s(late.clock_ms()) == 61.0
    assert late.replay()
    assert sent_parts(broker) == []
    assert states[-1] == ("p0", "given_up")


def test_the_same_job_is_spooled_once(publisher, broker, monkeypatch):
    disconnect(broker, monkeypatch)
    for _ in range(2):
        publisher.accept(captures(1)[0], None)
    assert publisher.spool.depth() == 1


def test_a_capture_that_was_given_up_is_spooled_when_it_is_sent_again(publisher, broker, monkeypatch):
    disconnect(broker, monkeypatch)
    publisher.accept(captures(1)[0], None)
    late = replace(publisher, clock_ms=lambda: NOW + 61_000)
    assert late.replay()
    late.accept(captures(1)[0], None)
    assert late.spool.oldest().job.part_id == "p0"


def test_removed_entries_do_not_reappear_after_the_spool_was_closed(tmp_path):
    first = Spool(tmp_path / "s.sqlite", 10**9, 60.0)
    for number in range(3):
        first.put(job(number), b"pixels", NOW)
    for _ in range(2):
        first.remove(first.oldest())
    assert first.depth() == 1
    first.close()
    second = Spool(tmp_path / "s.sqlite", 10**9, 60.0)
    assert (second.depth(), second.oldest().job.job_id) == (1, "j2")
    second.close()


def test_a_file_that_is_not_a_spool_is_refused(tmp_path):
    (tmp_path / "broken.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(SetupError, match="move a damaged spool to another folder"):
        Spool(tmp_path / "broken.sqlite", 1000, 60.0)


def test_a_spool_reports_its_size_and_age_without_reading_its_images(tmp_path):
    path, size = tmp_path / "deep.sqlite", 100_000
    deep = Spool(path, 10**9, 60.0)
    for number in range(100):
        deep.put(job(number), bytes(size), NOW)
    deep.close()
    again = Spool(path, 10**9, 60.0)
    before = psutil.Process().io_counters().read_chars
    again.put(job(100), bytes(size), NOW)
    assert (again.depth(), again.oldest_age_s(NOW + 1000)) == (101, 1.0)
    assert psutil.Process().io_counters().read_chars - before < 10 * size
    again.close()


def test_a_spool_leaves_free_space_on_its_disk(tmp_path, monkeypatch):
    small = Spool(tmp_path / "small.sqlite", 10**9, 60.0, min_free_bytes=2000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2100))
    small.put(job(0), bytes(100), NOW)
    with pytest.raises(SpoolFullError, match=r"has 2100 bytes free, and publisher.spool_min_free_bytes is 2000"):
        small.put(job(1), bytes(101), NOW)
    assert small.depth() == 1
    small.close()


def test_an_empty_spool_gives_its_disk_space_back(tmp_path):
    deep = Spool(tmp_path / "deep.sqlite", 10**9, 60.0)
    for number in range(50):
        deep.put(job(number), bytes(100_000), NOW)
    while (entry := deep.oldest()) is not None:
        deep.remove(entry)
    assert sum(path.stat().st_size for path in tmp_path.glob("deep.sqlite*")) < 200_000
    deep.close()


def test_removed_entries_are_deleted_once_the_spool_can_be_written_again(publisher, broker, monkeypatch):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        for capture in captures(2):
            publisher.accept(capture, None)
    sqlite = publisher.spool._unsynced.sqlite
    sqlite.execute("PRAGMA query_only=ON")  # no write succeeds, like on a full disk
    in_file = []

    def wait(_):
        in_file.append(sqlite.execute("SELECT count(*) FROM entries").fetchone()[0])
        sqlite.execute("PRAGMA query_only=OFF")
        return publisher.stop.set() if len(in_file) == 2 else False

    monkeypatch.setattr(publisher.stop, "wait", wait)
    publisher.replay_until_stopped()
    assert in_file == [2, 0]
    assert sent_parts(broker) == ["p0", "p1"], "an entry that could not be deleted is not sent again"


def test_a_failed_replay_stops_the_publisher_with_its_error():
    def broken():
        raise RuntimeError("a job of another version")

    stop = threading.Event()
    with (
        pytest.raises(RuntimeError, match="another version"),
        process._replay_in_background(SimpleNamespace(replay_until_stopped=broken), stop),
    ):
        assert stop.wait(5), "the captures end"


def test_the_source_waits_while_the_spool_cannot_be_written(publisher, broker, states, monkeypatch):
    disconnect(broker, monkeypatch)
    sqlite = publisher.spool._synced.sqlite
    sqlite.execute("PRAGMA query_only=ON")
    monkeypatch.setattr(publisher.stop, "wait", lambda _: sqlite.execute("PRAGMA query_only=OFF"))
    assert publisher.accept(captures(1)[0], None) is not None
    assert (states, publisher.spool.depth()) == ([("p0", "spooled")], 1)


def test_the_depth_and_age_of_the_spool_are_metrics(publisher, broker, monkeypatch):
    metrics = Metrics("l", "c", publisher.spool, lambda: NOW + 5000)
    disconnect(broker, monkeypatch)
    publisher.accept(captures(1)[0], None)
    labels = {"line": "l", "category": "c"}
    assert metrics.registry.get_sample_value("patchline_spool_jobs", labels) == 1
    assert metrics.registry.get_sample_value("patchline_spool_oldest_age_seconds", labels) == 5.0


def test_folders_are_searched_in_order_and_each_file_is_listed_once(tmp_path):
    for name in ("b/2.jpg", "a/1.png", "a/.hidden.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    paths = image_files.find([tmp_path, tmp_path / "a" / "1.png", tmp_path / "a" / "notes.txt"])
    assert [path.name for path in paths] == ["1.png", "2.jpg", "notes.txt"]


def test_an_unreadable_file_is_named_in_the_error(tmp_path):
    with pytest.raises(SetupError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        list(source.from_files([tmp_path / "gone.png"], None, threading.Event()))


def test_a_path_without_images_is_named_in_the_error(tmp_path):
    with pytest.raises(SetupError, match="no image found"):
        image_files.find([tmp_path])


@pytest.mark.parametrize(
    ("name", "part_id"),
    [("cell0001.png", "cell0001"), ("ä b.png", "part---b"), ("_x.png", "part-_x"), ("a" * 200, "a" * 128)],
)
def test_a_file_name_becomes_a_part_id(name, part_id):
    assert source._part_id(source.Path(name)) == part_id
