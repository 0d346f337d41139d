"""A camera that messages of an MQTT broker trigger: which parts are photographed, and which are only announced."""

import json
import threading

import pytest

from patchline import config
from patchline.camera import mqtt_triggers
from patchline.camera.metrics import PlcMetrics
from patchline.camera.mqtt_triggers import MqttTriggers
from patchline.camera.triggers import Trigger
from patchline.plc.mqtt import MqttError, Received
from patchline.protocol.errors import SetupError
from patchline.runtime.metrics import Registry

TOPIC, MARKS = "patchline/l/trigger", "patchline/l/trigger/marks/me"
WALL_MS = 1_800_000_000_000
LATE_S = 0.1


class Broker:
    """A broker in memory: one queue for its only client, and a clock that goes on when nothing comes."""

    def __init__(self):
        self.now, self.queue, self.held = 100.0, [], []
        self.is_up, self.is_connected, self.is_frozen = True, False, False

    def open(self, deadline):
        if not self.is_up:
            self.is_connected = False
            raise MqttError("the MQTT broker cannot be reached")
        is_new, self.is_connected = not self.is_connected, True
        if is_new:
            self.queue.clear()
        return is_new

    def publish(self, publication):
        self.send(publication.topic, publication.payload)

    def send(self, topic, payload, retained=False):
        (self.held if self.is_frozen else self.queue).append(Received(topic, payload, retained))

    def thaw(self, marks_first):
        """Go on. A broker reads its connections in any order."""
        self.is_frozen = False
        self.held.sort(key=lambda message: (message.topic == MARKS) is not marks_first)
        self.queue, self.held = self.queue + self.held, []

    def receive(self, deadline):
        if not self.is_up:
            raise MqttError("the MQTT broker is lost")
        if not self.queue:
            self.now = max(self.now, deadline)
            return None
        return self.queue.pop(0)

    def close(self):
        self.is_connected = False


class Camera:
    """The triggers of a broker in memory, which hears its own marks."""

    def __init__(self):
        self.broker, self.registry = Broker(), Registry()
        metrics = PlcMetrics("l", "c", self.registry)
        self.triggers = MqttTriggers(
            self.broker, TOPIC, MARKS, LATE_S, metrics, lambda: self.broker.now, lambda: WALL_MS
        )

    def step(self):
        return self.triggers.step()

    def trigger(self, **said):
        self.broker.send(TOPIC, json.dumps(said).encode() if said else b"")

    @property
    def is_silent(self):
        return self.registry.get_sample_value("patchline_camera_plc_silent", {"line": "l", "category": "c"})


@pytest.fixture
def camera():
    camera = Camera()
    for _ in range(3):
        assert camera.step() == []
    return camera


def age(camera, sighting):
    return camera.broker.now - sighting.since


def test_each_message_is_a_trigger_with_what_it_says_of_the_part(camera):
    for said in ({"number": 7, "encoder_count": -5, "part_id": "p:7"}, {}):
        camera.trigger(**said)
        (sighting,) = camera.step()
        assert sighting.trigger == Trigger(**said)
        assert sighting.objection is None
        assert age(camera, sighting) <= LATE_S
    camera.broker.send(TOPIC, b"{torn")  # something passed
    (sighting,) = camera.step()
    assert sighting.trigger == Trigger()
    assert camera.is_silent == 0


def test_a_sender_whose_clock_is_ahead_is_named_once_and_makes_no_part_younger(camera, capsys):
    for ahead_ms in (60_000, 60_000, 0, 60_000):
        camera.trigger(triggered_at=WALL_MS + ahead_ms)
        (sighting,) = camera.step()
        assert age(camera, sighting) >= 0
    assert capsys.readouterr().out.count("triggers come from the future") == 2


def test_of_messages_that_come_together_only_the_last_part_can_be_before_the_camera(camera):
    for number in (1, 2, 3):
        camera.trigger(number=number)
    sightings = camera.step()
    assert [sighting.trigger.number for sighting in sightings] == [1, 2, 3]
    assert [sighting.objection and sighting.objection.cause for sighting in sightings] == [*["late_trigger"] * 2, None]


@pytest.mark.parametrize("marks_first", [True, False])
def test_what_a_broker_that_stood_delivers_is_as_old_as_it_may_be(camera, marks_first):
    camera.broker.is_frozen = True
    camera.trigger(number=1)
    stood_from = camera.broker.now
    while camera.broker.now < stood_from + 0.8:
        assert camera.step() == []
    assert camera.is_silent == 1
    camera.broker.thaw(marks_first)
    (sighting,) = camera.step()
    assert age(camera, sighting) >= 0.8
    for _ in range(5):
        camera.step()
    camera.trigger(number=2)
    (sighting,) = camera.step()
    assert age(camera, sighting) <= LATE_S
    assert camera.is_silent == 0


def test_a_message_that_waited_with_its_sender_is_as_old_as_it_says(camera):
    camera.trigger(number=1, triggered_at=WALL_MS - 500)
    (sighting,) = camera.step()
    assert age(camera, sighting) >= 0.5
    camera.trigger(number=2, triggered_at=WALL_MS + 60_000)  # a wrong clock makes no part younger
    (sighting,) = camera.step()
    assert 0 <= age(camera, sighting) <= LATE_S


def test_nothing_is_known_of_the_age_of_what_comes_before_the_first_mark():
    camera = Camera()
    camera.broker.is_connected = True
    camera.trigger(number=1)
    (sighting,) = camera.step()
    assert sighting.since == float("-inf")


def test_a_retained_message_is_no_trigger(camera):
    camera.broker.send(TOPIC, b"{}", retained=True)
    assert camera.step() == []


def test_marks_of_a_connection_before_say_nothing_about_this_one(camera):
    camera.broker.is_frozen = True
    for _ in range(3):
        camera.step()
    (old, *_) = camera.broker.held
    camera.broker.held.clear()
    camera.broker.is_up = camera.broker.is_frozen = False
    with pytest.raises(MqttError):
        camera.step()
    camera.broker.is_up = True
    camera.broker.now += 5.0
    camera.step()
    camera.broker.queue = [old]
    camera.step()
    assert camera.triggers._heard_until == float("-inf")
    for _ in range(3):
        camera.step()
    camera.trigger(number=1)
    (sighting,) = camera.step()
    assert age(camera, sighting) <= LATE_S


def test_a_broker_that_is_away_is_said_and_connected_anew(camera):
    put, stop, came = [], threading.Event(), threading.Event()
    camera.broker.is_up = False

    def take(sighting):
        put.append(sighting)
        came.set()

    class Waits(threading.Event):
        def wait(self, timeout=None):
            assert camera.is_silent == 1
            camera.broker.is_up = True
            camera.broker.open(0)
            camera.trigger(number=4)
            return stop.is_set()

    waits = Waits()
    camera.triggers.run(take, waits)
    assert came.wait(30)
    waits.set()
    deadline = threading.Event()
    while put[-1] is not None:
        deadline.wait(0.001)
    assert put[0].trigger.number == 4


@pytest.mark.parametrize(
    ("address", "error"),
    [("mqtt:", "names no broker"), ("mqtt://u:secret@h", "contains a password"), ("mqtt://h:x", "port|url")],
)
def test_an_address_that_cannot_be_used_is_refused(monkeypatch, address, error):
    monkeypatch.delenv("PATCHLINE_MQTT_URL", raising=False)
    metrics = PlcMetrics("l", "c", Registry())
    with pytest.raises(SetupError, match=error):
        mqtt_triggers.open_triggers(address, "l", config.CameraRules(), config.PlcRules(), metrics)


def test_the_topic_is_that_of_the_line_or_of_the_configuration():
    assert mqtt_triggers.topic_of("press-3", config.CameraRules()) == "patchline/press-3/trigger"
    assert mqtt_triggers.topic_of("press-3", config.CameraRules(trigger_topic="plant/eye")) == "plant/eye"
    for topic in ("plant/+", "#", "$SYS/x", ""):
        with pytest.raises(ValueError, match="trigger_topic"):
            config.CameraRules(trigger_topic=topic)
