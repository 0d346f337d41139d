"""The client inside a camera's program: what that program does wrong ends no thread of the client."""

import asyncio
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial

import pytest

from patchline.broker.base import Message, Outgoing
from patchline.broker.memory import MemoryBroker
from patchline.protocol import topology
from patchline.publisher import Client, client, pipelines
from patchline.publisher.client import NotAcceptedError
from patchline.publisher.pipelines import Pipelines
from patchline.publisher.publisher import Publisher
from patchline.publisher.replay import Replay
from patchline.publisher.spool import Spool
from patchline.publisher.window import Limits
from patchline.runtime import connections

IMAGE = b"\x89PNG\r\n\x1a\n pixels IEND\xaeB`\x82"
TIMEOUT_S = 10.0


class Plant:
    """A client whose broker is in memory. `open_gate` lets the thread that settles go on."""

    def __init__(self, tmp_path):
        self.broker = MemoryBroker()
        self.broker.declare(topology.plant(["c"], 100, 10**9, 100, 100))
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.path = tmp_path / "l.c.sqlite"
        self.fault = None

    @contextmanager
    def running(self, settings, line, category, metrics_port, on_state, stop):
        @contextmanager
        def start(_):
            spool = Spool(self.path, max_bytes=10**6, max_age_s=60.0)
            replay = Replay(self.broker, spool, on_state, stop, connections.now_ms)
            publisher = Publisher(
                self.broker, line, category, spool, replay, on_state, stop, connections.now_ms, Limits(window=2)
            )
            publisher._outcome = partial(self._outcome, publisher._outcome)
            with pipelines.in_background(publisher, stop):
                yield publisher
            spool.close()

        with Pipelines(category, start) as publishers:
            yield publishers

    def _outcome(self, outcome, item):
        assert self.open_gate.wait(TIMEOUT_S)
        if self.fault is not None:
            raise self.fault
        return outcome(item)

    def bodies(self):
        consumer, bodies = self.broker.consume(topology.category_queue(topology.JOBS, "c"), 100), []
        while (delivery := consumer.take(0)) is not None:
            delivery.ack()
            bodies.append(delivery.message.body)
        return bodies


@pytest.fixture
def plant(tmp_path, monkeypatch):
    plant = Plant(tmp_path)
    monkeypatch.setattr(client, "running", plant.running)
    return plant


def connect(**options):
    return Client.connect("config.yaml", line="l", category="c", **options)


@pytest.fixture(autouse=True)
def categories(monkeypatch):
    monkeypatch.setattr("patchline.config.Config.category", lambda *_: None)


def state(future):
    return future.result(TIMEOUT_S).state


def test_a_program_that_cancels_a_future_gets_the_results_of_the_later_ones(plant):
    plant.open_gate.clear()
    with connect() as camera:
        first, second = camera.send(IMAGE, "p1"), camera.send(IMAGE, "p2")
        assert first.cancel()
        plant.open_gate.set()
        assert state(second) == state(camera.send(IMAGE, "p3")) == "confirmed"
        with pytest.raises(CancelledError):
            first.result(0)
    assert len(plant.bodies()) == 3, "the image of a cancelled receipt is a job all the same"


def test_a_wait_of_asyncio_that_times_out_does_not_end_the_client(plant):
    plant.open_gate.clear()

    async def wait(future):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0)

    with connect() as camera:
        asyncio.run(wait(camera.send(IMAGE, "p1")))
        plant.open_gate.set()
        assert state(camera.send(IMAGE, "p2")) == "confirmed"


@pytest.mark.parametrize("error", [KeyError("a bug in the camera's program"), SystemExit(1)])
def test_a_callback_that_raises_is_logged_and_does_not_end_the_client(plant, error, caplog):
    def raise_it(*_):
        raise error

    with connect(on_state=raise_it) as camera:
        plant.open_gate.clear()
        future = camera.send(IMAGE, "p1")
        future.add_done_callback(raise_it)
        plant.open_gate.set()
        assert state(future) == state(camera.send(IMAGE, "p2")) == "confirmed"
    assert "a callback of the camera's program failed" in caplog.text


@pytest.mark.parametrize("kind", [bytearray, lambda image: memoryview(bytearray(image))])
def test_a_buffer_that_the_camera_uses_again_is_sent_as_it_was(plant, kind):
    with connect() as camera:
        plant.open_gate.clear()
        buffer = kind(IMAGE)
        future = camera.send(buffer, "p1")
        buffer[:] = bytes(len(IMAGE))
        plant.open_gate.set()
        assert state(future) == "confirmed"
    assert plant.bodies() == [IMAGE]


def test_an_image_that_is_not_bytes_is_refused_in_words(plant):
    with connect() as camera, pytest.raises(TypeError, match="of type str: give its encoded content as bytes"):
        camera.send("picture.png", "p1")


@pytest.mark.parametrize("by_on_state", [True, False])
def test_a_callback_that_sends_or_closes_is_told_so_and_does_not_wait_for_itself(plant, by_on_state):
    raised = []

    def send(*_):
        for act in (lambda: camera.send(IMAGE, "again"), camera.close):
            try:
                act()
            except RuntimeError as error:
                raised.append(str(error))

    with connect(**({"on_state": send} if by_on_state else {})) as camera:
        plant.open_gate.clear()
        futures = [camera.send(IMAGE, "p1"), camera.send(IMAGE, "p2")]
        if not by_on_state:
            futures[0].add_done_callback(send)
        plant.open_gate.set()
        assert state(futures[1]) == "confirmed"
    assert "send was called by on_state" in raised[0]
    assert "close was called" in raised[1]


def test_whatever_ends_the_sender_settles_every_future(plant):
    camera = connect()
    plant.open_gate.clear()
    futures = [camera.send(IMAGE, "p1"), camera.send(IMAGE, "p2")]
    plant.fault = MemoryError()
    plant.open_gate.set()
    for future in futures:
        with pytest.raises(NotAcceptedError, match="the publisher has ended"):
            future.result(TIMEOUT_S)
    with pytest.raises(NotAcceptedError, match="closed or has failed"):
        camera.send(IMAGE, "p3")
    with pytest.raises(MemoryError):
        camera.close()


def test_a_message_whose_body_is_not_bytes_is_refused_where_it_is_published(plant):
    with pytest.raises(TypeError, match="of type bytearray; it must be bytes"):
        plant.broker.publish_nowait([Outgoing("x", "l", Message(bytearray(b"pixels")))])
