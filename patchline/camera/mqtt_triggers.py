"""Messages of an MQTT broker trigger a camera: each one on the topic of the line is a part, with what it says of it.

A message has no time of its own. So this process sends marks to a topic beside it, and hears them again, one after the
other. A broker that has stood reads what waits on all its connections before it gives back a second mark: what comes
after two marks was sent after the first of them. A part that may have moved on is announced, and has no image.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import structlog

from patchline import config
from patchline.camera import triggers
from patchline.camera.metrics import PlcMetrics
from patchline.camera.mqtt_message import AHEAD_MS
from patchline.camera.triggers import Sighting, Trigger
from patchline.plc import mqtt_url
from patchline.plc.mqtt import MqttConnection, MqttError, Publication, Received
from patchline.protocol.messages import EpochMs
from patchline.protocol.tls import Certificates

_log = structlog.get_logger(__name__)
_OPEN_S = 2.0
_RETRY_S = 0.5
_SILENT_S = 0.5  # a broker that gives back no mark for this long gives no triggers either
_MIN_MARK_S, _MARKS = 0.01, 4  # marks within `camera.trigger_late_ms`


class TimedTrigger(Trigger):
    """What a message says of a part. `triggered_at` is the time of its trigger by the clock of whoever sent it."""

    triggered_at: EpochMs | None = None


class Connection(Protocol):
    """What brings the messages: see `MqttConnection`."""

    def open(self, deadline: float) -> bool:
        """Connect, if there is no connection. Return True if this one is new."""
        ...

    def publish(self, publication: Publication) -> None:
        """Send a message."""
        ...

    def receive(self, deadline: float) -> Received | None:
        """Return the next message, or None at the deadline."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


def topic_of(line: str, rules: config.CameraRules) -> str:
    """Return the topic whose messages trigger the camera of a line."""
    return rules.trigger_topic or f"patchline/{line}/trigger"


def open_triggers(
    address: str, line: str, rules: config.CameraRules, plc: config.PlcRules, metrics: PlcMetrics
) -> MqttTriggers:
    """Return the triggers of a broker. It is connected at the first use.

    Args:
        address: `mqtt://HOST[:PORT]`, `mqtts://...`, or `mqtt:` for the url of PATCHLINE_MQTT_URL.
        line: the line of the camera.
        rules: of the camera.
        plc: has the certificates for `mqtts`.
        metrics: say whether the broker is heard.

    Raises:
        SetupError: the url or a file cannot be used.
    """
    topic, name = topic_of(line, rules), f"patchline-camera-{uuid.uuid4().hex[:12]}"
    marks = f"{topic}/marks/{name}"
    certificates = Certificates(plc.ca_file, plc.cert_file, plc.key_file)
    connection = MqttConnection(mqtt_url.find(address), name, [topic, marks], None, certificates=certificates)
    return MqttTriggers(connection, topic, marks, rules.trigger_late_ms / 1000, metrics)


class MqttTriggers:
    """Turns messages into triggers. Used by one thread.

    Args:
        connection: to the broker, which subscribes to both topics.
        topic: of the triggers.
        marks: topic of the marks, which nobody else has.
        late_s: age at which a part has no image.
        metrics: say whether the broker is heard.
        clock: a monotonic clock in seconds.
        wall_ms: the wall clock, in epoch milliseconds.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        marks: str,
        late_s: float,
        metrics: PlcMetrics,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._connection, self._topic, self._marks, self._metrics = connection, topic, marks, metrics
        self._clock, self._wall_ms = clock, wall_ms
        self._interval_s = max(_MIN_MARK_S, late_s / _MARKS)
        self._number = 0
        self._forget()
        self._is_silent: bool | None = None  # not known yet
        self._is_ahead = False
        metrics.silent(True)

    def step(self) -> list[Sighting]:
        """Return the parts that were triggered since the last call, oldest first. Waits until the next mark is due.

        Raises:
            MqttError: the broker is away, refuses, or does not answer. It is connected anew by the next call.
        """
        if self._connection.open(self._clock() + _OPEN_S):
            self._forget()
        if self._outstanding is None and self._clock() >= self._mark_at:
            self._send_mark()
        seen = [sighting for message in self._received() if (sighting := self._read(message)) is not None]
        self._say_whether_it_answers()
        return [Sighting(part.trigger, part.since, triggers.PASSED) for part in seen[:-1]] + seen[-1:]

    def run(self, put: Callable[[Sighting | None], None], stop: threading.Event) -> None:
        """Call `put` for each part on a background thread until `stop` is set, and with None at the end."""

        def listen() -> None:
            try:
                while not stop.is_set():
                    try:
                        for sighting in self.step():
                            put(sighting)
                    except MqttError as error:
                        self._say(str(error))
                        stop.wait(_RETRY_S)
                self._connection.close()
            finally:
                put(None)

        threading.Thread(target=listen, name="triggers", daemon=True).start()

    def _forget(self) -> None:
        """A new connection: nothing is known of the age of its messages."""
        self._outstanding: tuple[bytes, float] | None = None  # the mark that has not come back, and when it was sent
        self._mark_at = self._clock()
        self._last_mark = self._heard_until = float("-inf")  # when the last two marks that came back were sent

    def _send_mark(self) -> None:
        self._number += 1
        now, mark = self._clock(), str(self._number).encode()
        self._outstanding = mark, now
        self._connection.publish(Publication(self._marks, mark, qos=0))
        self._mark_at = now + self._interval_s

    def _received(self) -> list[Received]:
        """Return what has come, after waiting for the first message until the next mark is due."""
        messages, deadline = [], max(self._mark_at, self._clock() + _MIN_MARK_S)
        while (message := self._connection.receive(deadline)) is not None:
            messages.append(message)
            deadline = self._clock()
        return messages

    def _read(self, message: Received) -> Sighting | None:
        """Return the part of a message; None if it is a mark, or of any age."""
        if message.topic == self._marks:
            if self._outstanding is not None and message.payload == self._outstanding[0]:
                self._heard_until, self._last_mark = self._last_mark, self._outstanding[1]
                self._outstanding = None
            return None
        if message.retained:
            _log.error("a retained message is no trigger: publish triggers without retain", topic=message.topic)
            return None
        said = triggers.parse(message.payload.decode(errors="replace"), TimedTrigger)
        since = self._heard_until
        if said.triggered_at is not None:
            age_ms = self._wall_ms() - said.triggered_at
            self._say_ahead(-age_ms)
            since = min(since, self._clock() - age_ms / 1000)
        trigger = Trigger(part_id=said.part_id, number=said.number, encoder_count=said.encoder_count)
        return Sighting(trigger, since)

    def _say_ahead(self, ahead_ms: int) -> None:
        """Log once that the sender's clock is ahead, so that `triggered_at` makes no old part old."""
        was_ahead, self._is_ahead = self._is_ahead, ahead_ms > AHEAD_MS
        if self._is_ahead and not was_ahead:
            advice = "set the clock of the sender, and keep it with NTP"
            _log.error("triggers come from the future, their times do not count", ahead_ms=ahead_ms, advice=advice)

    def _say_whether_it_answers(self) -> None:
        waits_s = 0.0 if self._outstanding is None else self._clock() - self._outstanding[1]
        if waits_s > _SILENT_S:
            self._say(f"the MQTT broker has not given back a mark for {waits_s:.1f} s ({self._marks})")
        elif self._heard_until > float("-inf"):
            self._say(None)

    def _say(self, silence: str | None) -> None:
        """Log once that the broker gives no triggers, and that it does."""
        is_silent = silence is not None
        self._metrics.silent(is_silent)
        if is_silent and not self._is_silent:
            _log.error("the MQTT broker gives no triggers", reason=silence)
        elif not is_silent and self._is_silent is not False:
            _log.info("the MQTT broker is heard, its messages are triggers", topic=self._topic)
        self._is_silent = is_silent
