"""What devices send by MQTT: topics, parts, their age, and what becomes of a message that cannot be used."""

import re
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from patchline.broker.base import Message, TooLarge
from patchline.broker.memory import MemoryBroker
from patchline.camera.codes import NoCodeError
from patchline.camera.mqtt_marks import MARK_TYPE, Marks
from patchline.camera.mqtt_message import Arrival, Rules
from patchline.camera.mqtt_metrics import MqttMetrics
from patchline.camera.mqtt_source import MqttSource
from patchline.camera.mqtt_topic import TopicPattern
from patchline.cli import main
from patchline.operations import dead_letters
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason, SetupError, Unusable
from patchline.runtime.metrics import Registry

NOW = 1_800_000_000_000
IMAGE = b"\x89PNG\r\n\x1a\n pixels"
TOPIC = "cameras/{line}/{category}/{part_id}/{captured_at}"
PATTERN = TopicPattern(TOPIC, "l1")
RULES = Rules("l1", None, PATTERN, ("brick", "cup"), 1000, 64)
ARRIVAL = Arrival(NOW, NOW - 300)
QUEUE = topology.mqtt_queue("l1")


def read(key=f"cameras.l1.brick.p7.{NOW - 40}", body=IMAGE, rules=RULES, arrival=ARRIVAL, **headers):
    return rules.read(Message(body, headers=headers), key, arrival)


def rules(topic, category=None):
    return replace(RULES, topic=TopicPattern(topic, "l1"), category=category)


def test_the_topic_says_which_part_an_image_shows():
    capture = read()
    assert (capture.category, capture.part_id, capture.captured_at) == ("brick", "p7", NOW - 40)
    assert (capture.deadline, capture.image, capture.content_type) == (NOW + 960, IMAGE, "image/png")
    assert capture.job_id == messages.job_id_of_device(
        "l1", "brick", f"cameras.l1.brick.p7.{NOW - 40}", "p7", NOW - 40, b""
    )


def test_user_properties_say_it_too_and_must_not_contradict():
    capture = read("cam", rules=rules("cam"), category="cup", number="7", encoder_count="-5", captured_at=str(NOW))
    assert (capture.category, capture.part_id, capture.number, capture.encoder_count) == ("cup", "7", 7, -5)
    assert read(part_id="p7", line="l1") == read()
    for headers in ({"part_id": "p8"}, {"line": "l2"}, {"category": "cup"}):
        with pytest.raises(Unusable, match=f"{next(iter(headers))} is "):
            read(**headers)


@pytest.mark.parametrize(
    ("key", "reason", "text"),
    [
        ("cameras.l1.brick", Reason.MALFORMED_MESSAGE, "does not fit the pattern"),
        (f"cameras.l1.brick.p.7.{NOW}", Reason.MALFORMED_MESSAGE, "does not fit the pattern"),
        (f"cameras.l2.brick.p7.{NOW}", Reason.MALFORMED_MESSAGE, "does not fit the pattern"),
        (f"cameras.l1.vase.p7.{NOW}", Reason.UNKNOWN_CATEGORY, "'vase' is not configured"),
        (f"cameras.l1.brick.*.{NOW}", Reason.MALFORMED_MESSAGE, "part_id: "),
        ("cameras.l1.brick.p7.1800000000", Reason.MALFORMED_MESSAGE, "captured_at: "),
        ("cameras.l1.brick.p7.noon", Reason.MALFORMED_MESSAGE, "captured_at: "),
    ],
)
def test_a_message_without_a_valid_part_is_refused_with_the_reason(key, reason, text):
    with pytest.raises(Unusable, match=re.escape(text)) as caught:
        read(key)
    assert caught.value.reason is reason


def test_a_message_without_a_category_is_refused():
    with pytest.raises(Unusable, match="category: Field required"):
        read("cam", rules=rules("cam"))


def test_an_image_that_comes_twice_is_one_job_and_another_image_is_another():
    named = read(), read(arrival=Arrival(NOW + 5000, None)), read(body=IMAGE + b"2")
    assert len({capture.job_id for capture in named}) == 1
    unnamed = [read("cam", body, rules("cam", "brick")) for body in (IMAGE, IMAGE, IMAGE + b"2")]
    assert unnamed[0] == unnamed[1] != unnamed[2]
    assert unnamed[0].part_id.startswith("mqtt-")
    counted = [read("cam", body, rules("cam", "brick"), part_id="7") for body in (IMAGE, IMAGE + b"2")]
    assert counted[0].job_id != counted[1].job_id, "a counter that began again must not hide an image"


def test_two_cameras_that_see_one_part_at_one_time_have_two_jobs():
    pattern = rules("cameras/+/{part_id}/{captured_at}", "brick")
    assert read(f"cameras.left.7.{NOW}", rules=pattern).job_id != read(f"cameras.right.7.{NOW}", rules=pattern).job_id


def test_a_part_whose_age_nobody_knows_is_late():
    pattern = rules("cam", "brick")
    known = read("cam", rules=pattern)
    assert (known.captured_at, known.deadline) == (NOW - 300, NOW + 700), "as old as the mark before it"
    unknown = read("cam", rules=pattern, arrival=Arrival(NOW, None))
    assert (unknown.captured_at, unknown.deadline) == (NOW, NOW)
    assert read(arrival=Arrival(NOW, None)).deadline == NOW + 960, "the device says when"


def test_a_part_whose_device_has_a_clock_of_the_future_is_late_and_that_is_said():
    said = []
    careful = replace(RULES, on_ahead=lambda *values: said.append(values))
    assert read(f"cameras.l1.brick.p7.{NOW + 1900}", rules=careful).deadline == NOW + 2900
    assert said == []
    assert read(f"cameras.l1.brick.p7.{NOW + 60_000}", rules=careful).deadline == NOW
    assert said == [("p7", 60_000)]


def test_an_image_that_is_too_large_is_a_part_without_an_image():
    capture = read(body=b"\x89PNG\r\n\x1a\n" + bytes(57))
    assert capture.no_image == "the image has 65 bytes, and images.max_bytes is 64"
    assert (capture.image, capture.content_type) == (b"", messages.NO_CONTENT)
    assert capture.job_id == read().job_id


def test_an_empty_message_announces_a_part_and_names_its_time():
    assert read(body=b"").job_id == read().job_id
    with pytest.raises(Unusable, match="an announcement names part and time"):
        read("cam", b"", rules("cam", "brick"), part_id="7")


def test_a_pattern_says_binding_and_permission():
    assert (PATTERN.key, PATTERN.binding) == ("cameras.l1", "cameras.l1.#")
    allowed = re.compile(PATTERN.permission)
    assert allowed.search(f"cameras.l1.brick.p7.{NOW}")
    for key in ("cameras.l1.brick.p7", f"cameras.l1.brick.{'p' * 25}.{NOW}", "cameras.l10.a.b.c", "x.cameras.l1.a.b.c"):
        assert not allowed.search(key)
    assert len("cameras." + "l" * 63 + 5 * ("." + "x" * 24)) < 255, "AMQP takes no longer routing key"
    fixed = TopicPattern("press/cam-1", "l1")
    assert (fixed.key, fixed.binding, fixed.fields("press.cam-1")) == ("press.cam-1", "press.cam-1.#", {})


@pytest.mark.parametrize(
    "text", ["", "{category}/x", "+/x", "cams//x", "cams/a.b", "cams/#", "cams/{part}", "c/{number}/{number}", "c/x{y}"]
)
def test_a_pattern_that_cannot_be_used_is_refused_with_an_example(text):
    with pytest.raises(SetupError, match=re.escape("such as cameras/{line}/{part_id}")):
        TopicPattern(text, "l1")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["mqtt:cams", "--rate", "5"], "an MQTT camera sends"),
        (["mqtt:cams", "--test"], "an MQTT camera sends"),
        (["mqtt:{part_id}"], "must begin with a word"),
        (["mqtt:cams", "--category", "vase"], "'vase' is not configured"),
        (["folder:."], "say the category"),
    ],
)
def test_a_camera_that_makes_no_sense_is_refused_before_it_connects(options, reason):
    result = CliRunner().invoke(main.app, ["camera", "--line", "l1", *options])
    assert isinstance(result.exception, SetupError)
    assert reason in str(result.exception)


class Devices:
    """A source on a broker in memory, whose publishers accept at once."""

    def __init__(self, max_message_size=None, rules=RULES, read_id=lambda *_: None):
        self.broker = MemoryBroker(max_message_size)
        self.broker.declare(topology.mqtt("l1", PATTERN.binding, 10**6) | topology.plant(["brick"], 9, 9**9, 9, 9))
        self.registry, self.now, self.announcement = Registry(), 0.0, Future()
        self.accepted, self.announced = [], []
        self.marks = Marks(self.broker, PATTERN.key, lambda: NOW, lambda: self.now)
        consumer = self.broker.consume(QUEUE, 4)
        self.source = MqttSource(
            rules,
            consumer,
            self.marks,
            self.broker,
            lambda capture: self.accepted.append(capture) or True,
            lambda capture, _: self.announced.append(capture) or replace(capture, announced=self.announcement),
            MqttMetrics("l1", self.registry),
            lambda: NOW,
            {"brick": read_id, "vase": None},
            threading.Event(),
        )

    def send(self, key=f"cameras.l1.brick.p7.{NOW}", body=IMAGE, type_=None, **headers):
        self.broker.publish(topology.MQTT_EXCHANGE, key, Message(body, None, type_, headers=headers))

    def steps(self, count):
        for _ in range(count):
            self.source.step(0)

    def waiting(self, queue=QUEUE):
        return [item.message for item in self.broker._queues[queue].ready]

    def count(self, name, **labels):
        return self.registry.get_sample_value(f"patchline_mqtt_{name}", {"line": "l1", **labels})


def test_a_message_stays_in_its_queue_until_its_job_is_safe():
    devices = Devices()
    devices.send()
    devices.steps(2)  # the first one may find the message, the other one the mark
    (capture,) = devices.accepted
    devices.broker.cut()  # the process is killed
    assert len(devices.waiting()) == 1
    devices.steps(2)
    assert [again.job_id for again in devices.accepted] == [capture.job_id] * 2
    devices.accepted[-1].on_accepted()
    devices.broker.cut()
    assert devices.waiting() == []
    assert devices.count("messages_total") == 2


def test_a_mark_says_how_old_the_messages_behind_it_may_be():
    devices = Devices(rules=rules("cameras/{line}", "brick"))
    devices.send("cameras.l1")
    devices.steps(2)
    assert devices.accepted[0].deadline == NOW, "nothing is known of what lay there before"
    devices.send("cameras.l1", IMAGE + b"2")
    devices.steps(1)
    assert devices.accepted[1].deadline == NOW + 1000
    devices.send("cameras.l1", IMAGE + b"3", **{"x-mqtt-dup": True})
    devices.steps(1)
    assert devices.accepted[2].deadline == NOW, "the device has sent it before"
    devices.now = 20.0
    assert devices.marks.behind_s == 20.0
    devices.steps(1)
    assert devices.marks.behind_s == 0.0


def test_a_device_cannot_send_a_mark_by_mistake():
    devices = Devices()
    devices.send(body=b"", type_=MARK_TYPE)
    devices.send(body=b"", sent_at=NOW)
    devices.steps(3)
    assert devices.count("messages_total") == 2


def test_a_binding_that_is_gone_is_said_and_so_is_its_return():
    devices = Devices()
    queue = devices.broker._queues.pop(QUEUE)
    devices.steps(1)
    devices.now = 1.0
    devices.steps(1)
    assert not devices.marks.is_bound
    devices.broker._queues[QUEUE] = queue
    for devices.now in (2.0, 3.0):
        devices.steps(1)
    assert devices.marks.is_bound


def test_what_names_no_part_becomes_a_dead_letter_with_the_reason():
    devices = Devices()
    devices.send("cameras.l1.brick", b"hello", category="cup")
    devices.steps(2)
    devices.broker.cut()
    assert devices.waiting() == []
    (letter,) = map(dead_letters.described, devices.waiting(topology.DEAD))
    assert (letter.line, letter.category, letter.reason, letter.stage) == ("l1", "cup", "malformed_message", "mqtt")
    assert letter.error == "the topic 'cameras.l1.brick' does not fit the pattern"
    assert letter.bytes == 5
    assert devices.count("refused_total", cause="unusable") == 1


@pytest.mark.parametrize(("size", "limit"), [(65, None), (60, 50)])
def test_a_dead_letter_that_is_too_large_is_kept_without_its_content(size, limit):
    devices = Devices(limit)
    devices.broker._max_message_size = None
    devices.send("cameras.l1.brick", bytes(size))
    devices.broker._max_message_size = limit
    devices.steps(2)
    (message,) = devices.waiting(topology.DEAD)
    assert (message.body, message.headers["x-patchline-image-bytes"]) == (b"", size)


def test_a_message_that_is_no_image_goes_to_a_worker_and_is_counted():
    devices = Devices()
    devices.send(body=b'{"status": "ok"}')
    devices.send(body=bytes(65))
    devices.steps(3)
    assert [(bool(capture.image), capture.no_image is None) for capture in devices.accepted] == [
        (True, True),
        (False, False),
    ]
    assert devices.count("refused_total", cause="not_an_image") == 1
    assert devices.count("refused_total", cause="too_large") == 1


def test_the_code_in_the_picture_of_a_device_is_the_id_of_its_part_and_one_that_is_required_must_be_there():
    def read_id(image, content_type):
        assert content_type == "image/png"
        if image.endswith(b"bare"):
            raise NoCodeError("no Data Matrix can be read")
        return "SN-7"

    devices = Devices(read_id=read_id)
    devices.send()
    devices.send(f"cameras.l1.brick.p8.{NOW}", IMAGE + b"bare")
    devices.send(body=b"text")
    devices.steps(4)
    seen = [(part.part_id, part.image, part.no_image) for part in devices.accepted]
    assert seen == [("SN-7", IMAGE, None), ("p8", b"", "no Data Matrix can be read"), ("p7", b"text", None)]
    assert devices.accepted[1].content_type == messages.NO_CONTENT
    assert devices.count("refused_total", cause="no_code") == 1


def test_an_announcement_is_acknowledged_when_it_is_confirmed():
    devices = Devices()
    devices.send(body=b"")
    devices.steps(2)
    (announced,) = devices.announced
    assert (announced.job_id, announced.part_id) == (read(f"cameras.l1.brick.p7.{NOW}").job_id, "p7")
    devices.announcement.set_exception(TooLarge("not now"))
    devices.announcement = Future()
    assert len(devices.waiting()) == 1, "it comes again"
    devices.steps(1)
    devices.announcement.set_result(None)
    devices.broker.cut()
    assert devices.waiting() == []


def test_a_late_announcement_is_dropped():
    devices = Devices()
    devices.send(f"cameras.l1.brick.p7.{NOW - 1000}", b"")
    devices.steps(2)
    devices.broker.cut()
    assert (devices.announced, devices.waiting()) == ([], [])
