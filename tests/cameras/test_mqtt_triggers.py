"""A camera that messages of an MQTT broker trigger, with mosquitto and the process of the camera."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from patchline.protocol import messages
from tests.queues import JOBS_QUEUE
from tests.system.cameras import CAMERA, configure
from tests.system.conftest import wait_for
from tests.system.mqtt_brokers import MOSQUITTO, Mosquitto
from tests.system.mqtt_line import Peer
from tests.system.test_camera import announced

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which(MOSQUITTO) is None, reason="Debian's mosquitto is missing"),
]
LATE_MS, FROZEN_S = 1500, 2.5
GENEROUS_MS = 60_000  # for a busy machine


class Camera:
    """The process of a camera, its broker, and whoever triggers it."""

    def __init__(self, line, folder, source, **rules):
        self.topic = "patchline/l1/trigger"
        self.line, self.broker, self.log = line, Mosquitto(folder / "mosquitto"), folder / "camera.log"
        configure(line, folder / "line", frame_timeout_ms=GENEROUS_MS, **rules)
        options = ("--deadline-ms", str(GENEROUS_MS), "--triggers", self.broker.url)
        options = (*options, "--config", str(line.folder / "config.yaml"))
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "patchline", *CAMERA, *options, source],
                env=os.environ | line.environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        line.on_exit(process)
        self.numbers = itertools.count(1)
        self.connect()
        wait_for(lambda: "camera open" in self.log.read_text() and self.hears_its_broker())

    def hears_its_broker(self):
        """Return True if the log's last word on it is that the camera hears its broker."""
        log = self.log.read_text()
        return log.rfind("the MQTT broker is heard") > log.rfind("the MQTT broker gives no triggers")

    def connect(self):
        """Connect a light barrier that speaks MQTT."""
        self.barrier = Peer(self.broker.url)

    def trigger(self, **said):
        """Let a part pass the light barrier. Return its number."""
        number = next(self.numbers)
        self.barrier.client.publish(self.topic, json.dumps({"number": number, **said}), 1)
        return number

    def job(self):
        """Return the next job. It comes whether there is an image or not."""
        (message,) = self.line.messages(JOBS_QUEUE, 1)
        return messages.parse_job(message)

    def takes_pictures(self):
        """Trigger a part. Return True if it has an image."""
        number, job = self.trigger(part_id="p:7", encoder_count=-5), self.job()
        assert (job.number, job.part_id, job.encoder_count) == (number, "p:7", -5)
        return job.no_image is None


@pytest.fixture
def start(line, tmp_path):
    started = []

    def start(source, **rules):
        started.append(Camera(line, tmp_path, source, **rules))
        return started[-1]

    yield start
    for camera in started:
        camera.broker.stop()


def test_messages_trigger_a_camera_and_what_a_broker_delivers_late_has_no_image(start):
    camera = start("simulated:frame_s=0.001", trigger_late_ms=LATE_MS)
    wait_for(camera.takes_pictures)
    camera.broker.freeze()
    number = camera.trigger()
    time.sleep(FROZEN_S)
    camera.broker.thaw()
    late = camera.job()
    assert late.number == number
    assert f"camera.trigger_late_ms is {LATE_MS}" in str(late.no_image)
    wait_for(camera.takes_pictures)
    camera.broker.stop()
    wait_for(lambda: "the MQTT broker gives no triggers" in camera.log.read_text())
    camera.broker.start()
    camera.connect()
    wait_for(camera.hears_its_broker)
    wait_for(camera.takes_pictures)


def test_a_part_is_announced_at_its_message_and_one_that_comes_before_the_frame_has_no_image(start):
    camera = start("simulated:frame_s=8", trigger_late_ms=GENEROUS_MS, trigger_topic="plant/eye")
    camera.topic = "plant/eye"
    first = camera.trigger()
    (part,) = announced(camera.line, 1)
    assert part.number == first
    second = camera.trigger()
    merged, pictured = camera.job(), camera.job()
    assert (merged.number, merged.no_image) == (second, "the trigger before still waited for its frame")
    assert (pictured.number, pictured.no_image, pictured.job_id) == (first, None, part.job_id)
