import os
import threading

import pytest

from broker import topology
from broker.base import NotConfirmed
from broker.memory import MemoryBroker
from inspection import image_files, message
from inspection.errors import SetupError
from publisher import source
from publisher.publisher import Publisher

NOW = 1_800_000_000_000


@pytest.fixture
def broker():
    broker = MemoryBroker()
    broker.declare(topology.plant(3, 100, 10**9, 100, 100))
    broker.declare(topology.gate("l"))
    return broker


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cell 7.PNG"
    path.write_bytes(b"pixels")
    os.utime(path, (1_800_000_000, 1_800_000_000))
    return path


def test_a_part_is_announced_before_its_image_is_sent(broker, image):
    job = Publisher(broker, "l", "c", threading.Event()).publish(source.read(image), NOW + 500)
    announced = broker.consume(topology.gate_queue("l"), 1).take(0).message
    sent = broker.consume(topology.JOBS, 1).take(0)
    assert message.parse_announcement(announced) == job.announcement()
    assert announced.body == b""
    assert message.parse_job(sent.message) == job
    assert (sent.message.body, sent.routing_key) == (b"pixels", "l.c")
    assert (job.part_id, job.captured_at, job.content_type) == ("cell-7", NOW, "image/png")


def test_the_same_file_is_the_same_job(broker, image):
    publisher = Publisher(broker, "l", "c", threading.Event())
    first, second = (publisher.publish(source.read(image), NOW + 500) for _ in range(2))
    assert first.job_id == second.job_id


def test_it_sends_until_the_broker_has_confirmed(broker, image, monkeypatch):
    monkeypatch.setattr("publisher.publisher._PAUSE_S", 0)
    publish, faults = broker.publish, iter([NotConfirmed("a"), None, NotConfirmed("b"), NotConfirmed("c"), None])

    def flaky(*arguments, **options):
        fault = next(faults)
        if fault:
            raise fault
        publish(*arguments, **options)

    broker.publish = flaky
    assert Publisher(broker, "l", "c", threading.Event()).publish(source.read(image), None) is not None
    assert broker.consume(topology.JOBS, 1).take(0) is not None


def test_a_job_that_was_not_confirmed_is_not_said_to_be_accepted(broker, image):
    stop = threading.Event()

    def dead(*_, **__):
        stop.set()
        raise NotConfirmed("gone")

    broker.publish = dead
    assert Publisher(broker, "l", "c", stop).publish(source.read(image), None) is None


def test_folders_are_searched_in_order_and_files_taken_once(tmp_path):
    for name in ("b/2.jpg", "a/1.png", "a/.hidden.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = image_files.find([tmp_path, tmp_path / "a" / "1.png", tmp_path / "a" / "notes.txt"])
    assert [path.name for path in found] == ["1.png", "2.jpg", "notes.txt"]


def test_a_path_without_images_is_named(tmp_path):
    with pytest.raises(SetupError, match="there is no image here"):
        image_files.find([tmp_path])


@pytest.mark.parametrize(
    ("name", "part_id"),
    [("cell0001.png", "cell0001"), ("ä b.png", "part---b"), ("_x.png", "part-_x"), ("a" * 200, "a" * 128)],
)
def test_a_file_name_becomes_a_part_id(name, part_id):
    assert source._part_id(source.Path(name)) == part_id
