"""What an MQTT message is: the picture of a part, the announcement of one, or nothing that can be used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pydantic

from patchline.broker.base import Message
from patchline.camera.mqtt_topic import FIELDS, TopicPattern
from patchline.protocol import image_files, messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import EncoderCount, EpochMs, Identifier, Name, PartNumber
from patchline.publisher.source import Capture

STAGE = "mqtt"
_NUMBERS = ("number", "encoder_count", "captured_at")
AHEAD_MS = 2_000  # that the clock of a device may be ahead


class Said(messages.Frozen):
    """What a device says of a part, in the topic or in user properties."""

    category: Name
    part_id: Identifier | None = None
    number: PartNumber | None = None
    encoder_count: EncoderCount | None = None
    captured_at: EpochMs | None = None

    @property
    def name(self) -> str | None:
        """The part as the device names it."""
        return self.part_id or (None if self.number is None else str(self.number))


@dataclass(frozen=True)
class Arrival:
    """When a message came.

    Attributes:
        now: the wall clock, in epoch milliseconds.
        sent_after: the message was published after this time; None if nothing is known of its age.
    """

    now: int
    sent_after: int | None


@dataclass(frozen=True)
class Rules:
    """What the devices of a line send.

    Attributes:
        line: the line.
        category: that of all parts; None if topic or user properties say it.
        topic: the topics.
        categories: that are taken.
        deadline_ms: time for a verdict, from the capture.
        max_bytes: of an image.
        on_ahead: called with the part's name, and by how many milliseconds the clock of its device is ahead of that of
            this host, if it is too far ahead.
    """

    line: str
    category: str | None
    topic: TopicPattern
    categories: Collection[str]
    deadline_ms: int
    max_bytes: int
    on_ahead: Callable[[str, int], None] = lambda *_: None

    def read(self, message: Message, routing_key: str, arrival: Arrival) -> Capture:
        """Return the part of a message, with its image. An empty message announces its part, and has no image.

        A part of unknown age is late: its deadline is over, and it is judged `expired`. An image that is too large
        becomes the part's `no_image`.

        Raises:
            Unusable: nobody can say which part it is.
        """
        said = self._said(message, routing_key)
        if not message.body and (said.name is None or said.captured_at is None):
            raise Unusable(Reason.MALFORMED_MESSAGE, "it is empty, and an announcement names part and time", STAGE)
        captured_at, deadline = self._times(said, arrival)
        job_id = messages.job_id_of_device(
            self.line, said.category, routing_key, said.name, said.captured_at, message.body
        )
        size = len(message.body)
        is_too_large = size > self.max_bytes
        reason = f"the image has {size} bytes, and images.max_bytes is {self.max_bytes}"
        return Capture(
            said.name or f"mqtt-{hashlib.sha256(message.body).hexdigest()[:16]}",
            messages.NO_CONTENT if is_too_large else image_files.detect_content_type(message.body),
            captured_at,
            b"" if is_too_large else message.body,
            category=said.category,
            number=said.number,
            encoder_count=said.encoder_count,
            deadline=deadline,
            job_id=job_id,
            no_image=reason if is_too_large else None,
        )

    def _times(self, said: Said, arrival: Arrival) -> tuple[int, int]:
        """Return the time of capture and the deadline of a part. What is in doubt is late."""
        if said.captured_at is not None:
            ahead_ms = said.captured_at - arrival.now
            if ahead_ms <= AHEAD_MS:
                return said.captured_at, said.captured_at + self.deadline_ms
            self.on_ahead(str(said.name), ahead_ms)
        if said.captured_at is None and arrival.sent_after is not None:
            return arrival.sent_after, arrival.sent_after + self.deadline_ms
        return arrival.now, arrival.now

    def _said(self, message: Message, routing_key: str) -> Said:
        in_topic = self.topic.fields(routing_key)
        if in_topic is None:
            raise Unusable(Reason.MALFORMED_MESSAGE, f"the topic {routing_key!r} does not fit the pattern", STAGE)
        fixed = {"line": self.line} | ({} if self.category is None else {"category": self.category})
        said = _merged(fixed, _merged(in_topic, _properties(message.headers)))
        category = said.get("category")
        if category is not None and category not in self.categories:
            raise Unusable(Reason.UNKNOWN_CATEGORY, f"the category {category[:100]!r} is not configured", STAGE)
        try:
            return Said.model_validate({name: _value(name, text) for name, text in said.items() if name != "line"})
        except pydantic.ValidationError as error:
            raise Unusable(Reason.MALFORMED_MESSAGE, messages.describe(error), STAGE) from None


def is_image(capture: Capture) -> bool:
    """Return True if the bytes begin as those of an image."""
    return capture.content_type != messages.NO_CONTENT


def _properties(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the fields that MQTT 5 carries as user properties. RabbitMQ makes headers of them."""
    return {name: str(headers[name]) for name in ("line", *FIELDS) if name in headers}


def _merged(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    for name in first.keys() & second.keys():
        if first[name] != second[name]:
            text = f"{name} is {first[name]!r} and {second[name][:100]!r}"
            raise Unusable(Reason.MALFORMED_MESSAGE, text, STAGE)
    return {**first, **second}


def _value(name: str, text: str) -> object:
    """Return the number that a text is, or the text: what is no number is refused with its name."""
    digits = text.removeprefix("-")
    return int(text) if name in _NUMBERS and digits.isascii() and digits.isdigit() and len(digits) < 20 else text
