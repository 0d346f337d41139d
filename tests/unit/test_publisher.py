import hashlib
import os
import re
import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest

from patchline.broker.base import BrokerError, NotConfirmed, Refused, Unroutable
from patchline.broker.memory import MemoryBroker
from patchline.protocol import image_files, messages, topology
from patchline.protocol.errors import SetupError
from patchline.publisher import pipelines, source
from patchline.publisher.metrics import Metrics
from patchline.publisher.publisher import Publisher
from patchline.publisher.replay import Replay
from patchline.publisher.spool import Spool

NOW = 1_800_000_000_000


@pytest.fixture
def broker():
    broker = MemoryBroker()
    broker.declare(topology.plant(["c"], 100, 10**9, 100, 100))
    broker.declare(topology.gate("l", ["g"]))
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
def clock():
    return SimpleNamespace(now_ms=NOW, boot_s=1000.0)


@pytest.fixture
def publisher(broker, tmp_path, states, clock):
    spool = Spool(tmp_path / "spool" / "l.c.sqlite", max_bytes=1000, max_age_s=60.0, boot_s=lambda: clock.boot_s)

    def on_state(job, state, reason):
        states.append((job.part_id, state))

    stop = threading.Event()
    replay = Replay(broker, spool, on_state, stop, lambda: clock.now_ms)
    yield Publisher(broker, "l", "c", spool, replay, on_state, stop, lambda: clock.now_ms)
    spool.close()


def job(number):
    return messages.Job(
        job_id=f"j{number}", line="l", category="c", part_id="p", captured_at=NOW, content_type="image/png"
    )


def captures(count, size=10):
    return [source.Capture(f"p{number}", "image/png", NOW, b"%d" % number * size) for number in range(count)]


def sent_parts(broker):
    consumer, parts = broker.consume(topology.category_queue(topology.JOBS, "c"), 100), []
    while (delivery := consumer.take(0)) is not None:
        delivery.ack()
        parts.append(delivery.message.headers["part_id"])
    return parts


def disconnect(broker, monkeypatch, fault=None):
    def refuse(_):
        confirmation = Future()
        confirmation.set_exception(fault or NotConfirmed("gone"))
        return confirmation

    monkeypatch.setattr(broker, "publish_nowait", refuse)


def accept(publisher, capture, deadline=None):
    """Accept a capture and settle the window."""
    job = publisher.accept(capture, deadline)
    while publisher.settle(0):
        pass
    return job


def is_replayed(publisher):
    """Replay until the spool is empty or an entry is not confirmed. Return True if it is empty."""
    while publisher.replay.step(0):
        pass
    return publisher.spool.oldest() is None


def test_a_part_is_announced_before_its_image_is_sent(publisher, broker, image):
    job = accept(publisher, source.read(image), NOW + 500)
    announced = broker.consume(topology.gate_queue("l", "g"), 1).take(0).message
    delivery = broker.consume(topology.category_queue(topology.JOBS, "c"), 1).take(0)
    assert messages.parse_announcement(announced) == job.announcement(announced_at=NOW)
    assert announced.body == b""
    assert messages.parse_job(delivery.message) == job
    assert (delivery.message.body, delivery.routing_key) == (b"pixels", "l.c")
    assert (job.part_id, job.captured_at, job.content_type) == (
        "cell-7-" + hashlib.blake2b(b"cell 7", digest_size=4).hexdigest(),
        NOW,
        "image/png",
    )


def test_a_part_that_is_announced_at_its_trigger_is_not_announced_again_with_its_image(publisher, broker):
    at_trigger = replace(captures(1)[0], image=b"", job_id="made-at-the-trigger")
    at_trigger = publisher.announce(at_trigger, NOW + 500)
    gate = broker.consume(topology.gate_queue("l", "g"), 10)
    announced = messages.parse_announcement(gate.take(0).message)
    job = accept(publisher, replace(at_trigger, image=b"pixels"), NOW + 500)
    assert (job.job_id, gate.take(0)) == ("made-at-the-trigger", None)
    assert announced == job.announcement(announced_at=NOW)


def test_a_part_whose_announcement_at_the_trigger_failed_is_announced_with_its_image(publisher, broker, monkeypatch):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        at_trigger = publisher.announce(replace(captures(1)[0], image=b"", job_id="j"), NOW + 500)
    accept(publisher, replace(at_trigger, no_image="the camera is gone"), NOW + 500)
    announced = broker.consume(topology.gate_queue("l", "g"), 10).take(0).message
    delivery = broker.consume(topology.category_queue(topology.JOBS, "c"), 1).take(0)
    assert messages.parse_announcement(announced).job_id == "j"
    assert messages.parse_job(delivery.message).no_image == "the camera is gone"


def test_in_an_alarm_no_more_parts_are_announced_at_their_triggers_than_the_window_holds(
    publisher, broker, monkeypatch
):
    sent = []
    monkeypatch.setattr(broker, "publish_nowait", lambda outgoing: sent.append(Future()) or sent[-1])
    at_trigger = replace(captures(1)[0], image=b"", job_id="j")
    announced = [publisher.announce(at_trigger, NOW + 500).announced for _ in range(40)]
    assert announced == [*sent, *[None] * 24]
    sent[0].set_result(None)
    assert publisher.announce(at_trigger, NOW + 500).announced is sent[16]


@pytest.mark.parametrize("seconds", [0, 5_000_000_000])
def test_an_implausible_file_time_is_replaced_by_the_time_of_arrival(publisher, image, seconds):
    os.utime(image, (seconds, seconds))
    job = accept(publisher, source.read(image), None)
    assert job.captured_at == image.stat().st_ctime_ns // 1_000_000


def test_the_same_file_becomes_the_same_job(publisher, image):
    first, second = (accept(publisher, source.read(image), NOW + 500) for _ in range(2))
    assert first.job_id == second.job_id


def test_a_capture_may_have_a_category_of_its_own(publisher):
    job = accept(publisher, replace(captures(1)[0], category="bottle"), None)
    assert (job.category, job.routing_key) == ("bottle", "l.bottle")


def test_a_source_is_told_when_its_capture_is_confirmed_or_spooled(publisher, broker, monkeypatch):
    accepted = []
    one, two = (replace(capture, on_accepted=lambda: accepted.append(1)) for capture in captures(2))
    accept(publisher, one, None)
    disconnect(broker, monkeypatch)
    accept(publisher, two, None)
    assert len(accepted) == 2


@pytest.mark.parametrize(
    "fault", [NotConfirmed("gone"), Refused("full"), Unroutable("no queue"), BrokerError("closed")]
)
def test_unconfirmed_jobs_are_spooled_and_replayed_in_order(publisher, broker, states, monkeypatch, fault):
    with monkeypatch.context() as patch:
        disconnect(broker, patch, fault)
        for capture in captures(3):
            accept(publisher, capture)
        assert not is_replayed(publisher)
    assert publisher.spool.depth() == 3
    accept(publisher, captures(4)[3], None)  # queued behind the spooled jobs
    assert sent_parts(broker) == []
    assert is_replayed(publisher)
    assert sent_parts(broker) == ["p0", "p1", "p2", "p3"]
    assert publisher.spool.depth() == 0
    assert states[:4] == [(f"p{number}", "spooled") for number in range(4)]
    assert states[4:] == [(f"p{number}", "confirmed") for number in range(4)]


def test_spooled_jobs_survive_the_publisher(publisher, broker, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        job = accept(publisher, captures(1)[0], NOW + 500)
    again = Spool(tmp_path / "spool" / "l.c.sqlite", max_bytes=1000, max_age_s=60.0)
    entry = again.oldest()
    assert (entry.job, entry.image) == (job, captures(1)[0].image)
    again.close()


def test_a_full_spool_makes_the_source_wait(publisher, broker, states, monkeypatch):
    disconnect(broker, monkeypatch)
    for capture in captures(2, size=500):
        assert accept(publisher, capture) is not None
    waits = []

    def wait(_):
        waits.append(1)
        if len(waits) == 3:
            publisher.stop.set()
        return publisher.stop.is_set()

    monkeypatch.setattr(publisher.stop, "wait", wait)
    accepted = []
    third = replace(captures(3)[2], on_accepted=lambda: accepted.append(1))
    accept(publisher, third)
    assert (len(waits), len(states), publisher.spool.depth(), accepted) == (3, 2, 2, [])
    assert accept(publisher, third) is None, "a stopped publisher accepts nothing"


def test_the_part_of_an_image_that_was_damaged_in_the_spool_is_announced_unless_it_is_late(
    publisher, broker, states, clock, monkeypatch
):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        for capture, deadline in zip(captures(3), (NOW + 5000, NOW + 500, NOW + 5000), strict=True):
            accept(publisher, capture, deadline)
    publisher.spool._file._synced.sqlite.execute("UPDATE entries SET image = NULL WHERE number < 3")
    clock.now_ms += 1000
    assert is_replayed(publisher)
    assert states[3:] == [("p0", "refused"), ("p1", "refused"), ("p2", "confirmed")]
    gate = broker.consume(topology.gate_queue("l", "g"), 10)
    assert [gate.take(0).message.headers["part_id"] for _ in range(2)] == ["p0", "p2"]
    assert gate.take(0) is None
    assert sent_parts(broker) == ["p2"]


@pytest.mark.parametrize("days", [-2, 2])
def test_a_clock_that_is_corrected_by_days_makes_no_image_too_old(publisher, broker, states, clock, monkeypatch, days):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        accept(publisher, captures(1)[0], NOW + 500)
    clock.now_ms += days * 86_400_000
    assert publisher.spool.oldest_age_s() == 0.0
    assert is_replayed(publisher)
    assert states[-1] == ("p0", "confirmed")


def test_a_job_that_waits_too_long_is_given_up_and_reported(publisher, broker, states, clock, monkeypatch):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        accept(publisher, captures(1)[0], None)
    clock.boot_s += 61
    assert publisher.spool.oldest_age_s() == 61.0
    assert is_replayed(publisher)
    assert sent_parts(broker) == []
    assert states[-1] == ("p0", "given_up")


def test_the_same_job_is_spooled_once(publisher, broker, monkeypatch):
    disconnect(broker, monkeypatch)
    for _ in range(2):
        accept(publisher, captures(1)[0], None)
    assert publisher.spool.depth() == 1


def test_a_capture_that_was_given_up_is_spooled_when_it_is_sent_again(publisher, broker, clock, monkeypatch):
    disconnect(broker, monkeypatch)
    accept(publisher, captures(1)[0], None)
    clock.boot_s += 61
    assert is_replayed(publisher)
    accept(publisher, captures(1)[0])
    assert publisher.spool.oldest().job.part_id == "p0"


def test_removed_entries_are_deleted_once_the_spool_can_be_written_again(publisher, broker, monkeypatch):
    with monkeypatch.context() as patch:
        disconnect(broker, patch)
        for capture in captures(2):
            accept(publisher, capture)
    sqlite = publisher.spool._file._unsynced.sqlite
    sqlite.execute("PRAGMA query_only=ON")  # no write succeeds, like on a full disk
    in_file = []

    def wait(_):
        in_file.append(sqlite.execute("SELECT count(*) FROM entries").fetchone()[0])
        sqlite.execute("PRAGMA query_only=OFF")
        return publisher.stop.set() if len(in_file) == 2 else False

    monkeypatch.setattr(publisher.stop, "wait", wait)
    publisher.replay.run()
    assert in_file == [2, 0]
    assert sent_parts(broker) == ["p0", "p1"], "an entry that could not be deleted is not sent again"


def test_a_failed_replay_stops_the_publisher_with_its_error():
    def broken():
        raise RuntimeError("a job of another version")

    stop = threading.Event()
    replay = SimpleNamespace(run=broken)
    publisher = SimpleNamespace(settle=lambda timeout_s: stop.wait(timeout_s) and False, replay=replay, abandon=print)
    with (
        pytest.raises(RuntimeError, match="another version"),
        pipelines.in_background(publisher, stop),
    ):
        assert stop.wait(5), "the captures end"


def test_the_source_waits_while_the_spool_cannot_be_written(publisher, broker, states, monkeypatch):
    disconnect(broker, monkeypatch)
    sqlite = publisher.spool._file._synced.sqlite
    sqlite.execute("PRAGMA query_only=ON")
    monkeypatch.setattr(publisher.stop, "wait", lambda _: sqlite.execute("PRAGMA query_only=OFF"))
    assert accept(publisher, captures(1)[0], None) is not None
    assert (states, publisher.spool.depth()) == ([("p0", "spooled")], 1)


def test_the_depth_and_age_of_the_spool_are_metrics(publisher, broker, clock, monkeypatch):
    metrics = Metrics("l", "c")
    metrics.show(publisher.spool)
    disconnect(broker, monkeypatch)
    accept(publisher, captures(1)[0], None)
    clock.boot_s += 5
    labels = {"line": "l", "category": "c"}
    assert metrics.registry.get_sample_value("patchline_spool_jobs", labels) == 1
    assert metrics.registry.get_sample_value("patchline_spool_oldest_age_seconds", labels) == 5.0


def test_no_more_of_a_file_is_read_than_rabbitmq_can_take(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_MAX_BYTES", 10)
    path = tmp_path / "disk-image.png"
    path.write_bytes(b"x" * 100)
    assert source.read(path).image == b"x" * 11


def test_folders_are_searched_in_order_and_each_file_is_listed_once(tmp_path):
    for name in ("b/2.jpg", "a/1.png", "a/.hidden.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    paths = image_files.find([tmp_path, tmp_path / "a" / "1.png", tmp_path / "a" / "notes.txt"])
    assert [path.name for path in paths] == ["1.png", "2.jpg", "notes.txt"]


def test_the_content_type_of_a_capture_is_that_of_its_content(tmp_path):
    png, unknown = tmp_path / "7.jpg", tmp_path / "8.jpg"
    png.write_bytes(b"\x89PNG\r\n\x1a\n")
    unknown.write_bytes(b"not an image")
    assert [source.read(path).content_type for path in (png, unknown)] == ["image/png", "image/jpeg"]


def test_an_unreadable_file_is_named_in_the_error(tmp_path):
    with pytest.raises(SetupError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        list(source.from_files([tmp_path / "gone.png"], None, threading.Event()))


def test_a_path_that_does_not_exist_is_named_in_the_error(tmp_path):
    with pytest.raises(SetupError, match=r"no such file or folder: .*gone"):
        image_files.find([tmp_path / "gone"])


def test_a_path_without_images_is_named_in_the_error(tmp_path):
    with pytest.raises(SetupError, match="no image found"):
        image_files.find([tmp_path])


@pytest.mark.parametrize(
    ("name", "part_id"),
    [
        ("cell0001.png", "cell0001"),
        ("_x.png", "part-_x"),
        ("ä b.png", "part---b-" + hashlib.blake2b("ä b".encode(), digest_size=4).hexdigest()),
        ("a" * 128, "a" * 128),
    ],
)
def test_a_file_name_becomes_a_part_id(name, part_id):
    assert source._part_id(source.Path(name)) == part_id


@pytest.mark.parametrize(("one", "other"), [("甲", "乙"), ("a b", "a-b"), ("x" * 140 + "1", "x" * 140 + "2")])
def test_different_file_names_become_different_part_ids_and_keep_their_number(tmp_path, one, other):
    paths = [tmp_path / f"{name} 7.png" for name in (one, other)]
    for path in paths:
        path.write_bytes(b"pixels")
    parts = [source.read(path) for path in paths]
    assert parts[0].part_id != parts[1].part_id
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", part.part_id) for part in parts)
    if len(one) < 100:
        assert [part.number for part in source.numbered(iter(parts), "([0-9]+)$")] == [7, 7], "not one of the hash"


def test_the_number_of_a_part_comes_from_its_id(tmp_path):
    captures = [source.Capture(name, "image/png", NOW, b"") for name in ("cell-0042", "cell", "cell-99999999999")]
    numbered = list(source.numbered(iter(captures), "([0-9]+)$"))
    assert [capture.number for capture in numbered] == [42, None, None]


@pytest.mark.parametrize(("pattern", "message"), [("(", "no regular expression"), ("[0-9]+$", "one pair")])
def test_a_pattern_for_numbers_that_has_none_is_refused(pattern, message):
    with pytest.raises(SetupError, match=message):
        source.numbered(iter([]), pattern)
