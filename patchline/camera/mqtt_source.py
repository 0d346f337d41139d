"""Takes what devices have sent by MQTT from its queue, and hands it to the publishers.

A message is acknowledged when its job is confirmed, in the spool, or refused for good; so it survives the end of this
process and of RabbitMQ. A message that comes twice becomes the same job.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from patchline.broker.base import Broker, BrokerError, Consumer, Delivery, TooLarge
from patchline.camera.base import CameraError
from patchline.camera.codes import ReadId
from patchline.camera.mqtt_marks import Marks
from patchline.camera.mqtt_message import Arrival, Rules, is_image
from patchline.camera.mqtt_metrics import MqttMetrics
from patchline.protocol import messages, topology
from patchline.protocol.errors import Unusable
from patchline.publisher.source import Capture
from patchline.runtime.dead_letter import dead_letter, without_image

_log = structlog.get_logger(__name__)
_TAKE_S = 0.1
_RETRY_S = 1.0
_DUPLICATE = "x-mqtt-dup"  # header: the device sends the message again


@dataclass(eq=False)
class MqttSource:
    """The messages of the devices of one line.

    Attributes:
        rules: how a message is read.
        consumer: of their queue.
        marks: say how old a message may be.
        broker: takes the dead letters.
        accept: hands a capture to the publishers; waits while there is no room, and returns False at the end.
        announce: announces a part, and returns its capture with the announcement.
        metrics: of the messages.
        now_ms: the wall clock.
        read_ids: for each category, what finds the id of a part in its image.
        stop: ends `run`.
    """

    rules: Rules
    consumer: Consumer
    marks: Marks
    broker: Broker
    accept: Callable[[Capture], bool]
    announce: Callable[[Capture, int | None], Capture]
    metrics: MqttMetrics
    now_ms: Callable[[], int]
    read_ids: Mapping[str, ReadId]
    stop: threading.Event

    def run(self) -> None:
        """Take messages until the stop event is set."""
        while not self.stop.is_set():
            self.step(_TAKE_S)

    def step(self, timeout_s: float) -> None:
        """Send a mark if one is due, and take one message if there is any within the timeout."""
        self.marks.send()
        delivery = self.consumer.take(timeout_s)
        if delivery is None:
            return
        if self.marks.read(delivery.message):
            _ack(delivery)
            return
        self.metrics.count()
        try:
            capture = self.rules.read(delivery.message, delivery.routing_key, self._arrival(delivery))
        except Unusable as error:
            self._set_aside(delivery, error)
            return
        if delivery.message.body:
            self._forward(delivery, capture)
        else:
            self._announce(delivery, capture)

    def _arrival(self, delivery: Delivery) -> Arrival:
        """What comes again may be older than the marks before it."""
        again = delivery.redelivered or bool(delivery.message.headers.get(_DUPLICATE))
        return Arrival(self.now_ms(), None if again else self.marks.newest)

    def _forward(self, delivery: Delivery, capture: Capture) -> None:
        known = {"part_id": capture.part_id, "job_id": capture.job_id, "topic": delivery.routing_key}
        if capture.no_image is not None:
            self.metrics.refused("too_large")
            _log.error("image of a device is too large, its part is rejected", **known, reason=capture.no_image)
        elif is_image(capture):
            capture = self._named(capture)
        else:  # its worker says so, and keeps it as a dead letter
            self.metrics.refused("not_an_image")
            _log.error("a device sends what is no image, its part is rejected", **known, first=capture.image[:16])
        self.accept(replace(capture, on_accepted=lambda: _ack(delivery)))

    def _named(self, capture: Capture) -> Capture:
        """Return the part with the id that its image shows, or without the image if it must show one."""
        try:
            found = self.read_ids[str(capture.category)](capture.image, capture.content_type)
        except CameraError as error:
            self.metrics.refused(error.cause)
            _log.error("part without an image", part_id=capture.part_id, job_id=capture.job_id, reason=str(error))
            return replace(capture, image=b"", content_type=messages.NO_CONTENT, no_image=str(error)[:500])
        return replace(capture, part_id=found or capture.part_id)

    def _announce(self, delivery: Delivery, capture: Capture) -> None:
        """Announce a part. An announcement that comes too late is of no use."""
        if capture.deadline is not None and capture.deadline > self.now_ms():
            announced = self.announce(replace(capture, content_type=messages.NO_CONTENT), capture.deadline).announced
            if announced is not None:
                announced.add_done_callback(lambda done: _settle(delivery, done))
                return
        _ack(delivery)

    def _set_aside(self, delivery: Delivery, error: Unusable) -> None:
        """Make a dead letter of a message. It stays in its queue until RabbitMQ has confirmed that."""
        self.metrics.refused("unusable")
        _log.error("message of a device cannot be used", topic=delivery.routing_key, reason=error.detail)
        message = delivery.message
        said = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
        said |= self.rules.topic.fields(delivery.routing_key) or {}
        message = replace(message, headers=said | {"line": self.rules.line, "topic": delivery.routing_key})
        message = replace(message, message_id=messages.salvage(message)["job_id"])
        letter = dead_letter(message, error, delivery.attempt, f"mqtt {socket.gethostname()}")
        if len(letter.body) > self.rules.max_bytes:
            letter = without_image(letter)
        while not self.stop.is_set():
            try:
                self.broker.publish(topology.DEAD, delivery.routing_key, letter)
            except TooLarge:
                letter = without_image(letter)
            except BrokerError as reason:
                _log.warning("dead letter not confirmed, trying again", reason=str(reason))
                self.stop.wait(_RETRY_S)
            else:
                _ack(delivery)
                return


def _ack(delivery: Delivery) -> None:
    with suppress(BrokerError):  # it is closed, and the message comes again
        delivery.ack()


def _settle(delivery: Delivery, announced: Future[None]) -> None:
    with suppress(BrokerError):
        if announced.cancelled() or announced.exception() is not None:
            delivery.requeue()
        else:
            delivery.ack()
