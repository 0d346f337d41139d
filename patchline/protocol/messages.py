"""Announcement, Job and Verdict: the versioned messages between the processes.

The fields of announcements and jobs are AMQP properties and headers. The body of a job is its encoded image, unchanged.
The body of a verdict is JSON.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, TypeVar

import pydantic
from pydantic import Field, StringConstraints

from patchline.protocol.errors import Reason, Unusable

JOB_TYPE = "patchline.job.v1"
PART_TYPE = "patchline.part.v1"
VERDICT_TYPE = "patchline.verdict.v1"
NO_CONTENT = "application/octet-stream"  # content type of a job without an image; earlier builds answer it `error`, too
REPLAY_HEADER = "x-patchline-replay"  # header: inspect the job even if its verdict is cached
UNKNOWN = "unknown"

# A line or category is a word of a routing key and the name of a folder: no dots, slashes or spaces.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
IDENTIFIER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER_PATTERN)]
# 2000-01-01 to 2100-01-01, to catch times in seconds or microseconds.
EARLIEST_MS, LATEST_MS = 946_684_800_000, 4_102_444_800_000
EpochMs = Annotated[int, Field(strict=True, ge=EARLIEST_MS, le=LATEST_MS)]
# Numbers of a PLC: unsigned and signed, 32 bits.
MAX_PART_NUMBER = 2**32 - 1
PartNumber = Annotated[int, Field(strict=True, ge=0, le=MAX_PART_NUMBER)]
EncoderCount = Annotated[int, Field(strict=True, gt=-(2**31), lt=2**31)]
Cause = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
TraceParent = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]

# How to read a message, or a file of another process: a later build may have added fields and reasons.
UNKNOWN_FIELDS: Literal["ignore"] = "ignore"
OpenReason = Annotated[Reason | str, Field(union_mode="left_to_right")]

_NAME: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Name)
_IDENTIFIER: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Identifier)
_JOB_NAMESPACE = uuid.UUID("6f2d3c0e-5b1a-4b58-9d0a-7a4c1b7c9e21")


class Decision(StrEnum):
    """The outcome for a part."""

    PASS = "pass"
    REVIEW = "review"
    FAIL = "fail"
    EXPIRED = "expired"
    ERROR = "error"


class Envelope(Protocol):
    """The parts of an AMQP message that parsing needs."""

    @property
    def body(self) -> bytes: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def type(self) -> str | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def content_encoding(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, object]: ...


class Frozen(pydantic.BaseModel):
    """An immutable model that refuses unknown fields.

    What other processes have written is read with `extra=UNKNOWN_FIELDS`: they may be of a later build.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Part(Frozen):
    """What an announcement and a job say of a part.

    Attributes:
        number: the number by which the PLC of the line knows the part.
        encoder_count: where the part was seen: the count of the line's encoder at the trigger.
    """

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    captured_at: EpochMs
    deadline: EpochMs | None = None
    number: PartNumber | None = None
    encoder_count: EncoderCount | None = None
    traceparent: TraceParent | None = None

    def headers(self) -> dict[str, Any]:
        """Return the fields that are AMQP headers. The job id is the message id instead."""
        return self.model_dump(exclude={"job_id", "content_type"}, exclude_none=True)


class Announcement(Part):
    """A part that will be inspected. Published before its job: the gate rejects the part if no verdict arrives.

    `announced_at` is the time of sending. Earlier builds do not send it.
    """

    announced_at: EpochMs | None = None


class Job(Part):
    """One image to inspect. The image is the body of the message.

    Attributes:
        content_type: of the image.
        no_image: why there is no image of an announced part. The body is empty then, and the verdict is `error`.
    """

    content_type: str
    no_image: Cause | None = None

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the jobs: `<line>.<category>`."""
        return f"{self.line}.{self.category}"

    def announcement(self, announced_at: int) -> Announcement:
        """Return the announcement of this job, sent at `announced_at` (epoch milliseconds)."""
        return Announcement(**self.model_dump(exclude={"content_type", "no_image"}), announced_at=announced_at)


Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Region(Frozen):
    """The bounding box of connected pixels above the fail threshold, in pixels of the captured image.

    `score` is the largest value of the heat map in the region; 1.0 is the fail threshold.
    """

    x: int
    y: int
    width: int
    height: int
    score: float


class Thresholds(Frozen):
    """Limits of the raw score: a part passes below `review`, fails from `fail` on, and is reviewed in between.

    A part whose hottest patch (`scores.max`) reaches `patch` has at least the decision `patch_rule`. The thresholds of
    a `trial` come from a few images: they give `review` instead of `fail`.
    """

    review: Limit
    fail: Limit
    patch: Limit | None = None
    patch_rule: Literal["review", "fail"] | None = None
    trial: Literal[True] | None = None

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.review > self.fail:
            raise ValueError(f"the review threshold {self.review} is above the fail threshold {self.fail}")
        return self

    @property
    def unit(self) -> float:
        """The threshold in which people are told distances: `fail`, or in a trial, which has none, `review`."""
        return self.review if self.trial else self.fail


class Scores(Frozen):
    """The raw scores of an image: from the squared L2 distances of its patches to the nearest patches of the bank."""

    max: float
    topk10: float


class JudgedWith(Frozen):
    """What computed a score, besides the bank and its recipe: with the same of it, a replay gives the same score.

    Attributes:
        model_sha256: the digest of the file that computed the features: of the `.om` on the Ascend.
        precision: of the features.
        processor: its name, or `ascend` for any chip; in brackets the kernels that the search uses.
        build: Patchline's version, and the first digits of a digest of its code that judges.
        packages: those that compute, with their versions.
    """

    model_sha256: str
    precision: str
    processor: str
    build: str
    packages: str


class Verdict(Frozen):
    """The result of a job. It has the same id as the job.

    Attributes:
        p_value: the probability that a good part has such a score or a higher one.
        bank_version: of the bank with its recipe and thresholds: the SHA-256 of its manifest.
        judged_with: what computed the score; earlier builds do not send it.
        replay: True: the job is a replayed dead letter, whose part left the line long ago.
    """

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    decision: Decision
    reason: OpenReason | None = None
    detail: str | None = None
    score: float | None = None
    scores: Scores | None = None
    thresholds: Thresholds | None = None
    p_value: float | None = None
    regions: tuple[Region, ...] = ()
    backbone: str | None = None
    memory_bank: str | None = None
    bank_version: Digest | None = None
    judged_with: JudgedWith | None = None
    device: str
    worker: str
    attempt: int
    captured_at: EpochMs | None = None
    deadline: EpochMs | None = None
    received_at: EpochMs
    decided_at: EpochMs
    number: PartNumber | None = None
    encoder_count: EncoderCount | None = None
    durations_ms: dict[str, float] = {}
    traceparent: str | None = None
    replay: bool | None = None

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the verdicts: `<line>.<category>.<decision>`."""
        return f"{self.line}.{self.category}.{self.decision}"

    def to_json(self) -> bytes:
        """Return the verdict as UTF-8 JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


_Parsed = TypeVar("_Parsed", bound=Part)


def job_id_for(line: str, category: str, part_id: str, captured_at: int, sha256: bytes) -> str:
    """Return an id that is the same each time that the same capture is sent (a UUID of version 5, RFC 9562).

    Args:
        line: the line of the camera.
        category: the category of the part.
        part_id: the part.
        captured_at: epoch milliseconds.
        sha256: of the image, 32 bytes.
    """
    return str(uuid.uuid5(_JOB_NAMESPACE, f"{line}/{category}/{part_id}/{captured_at}/{sha256.hex()}"))


def job_id_at_trigger(line: str, category: str, series: int, trigger: int) -> str:
    """Return the id of a job that is announced before there is an image (a UUID of version 5, RFC 9562).

    Args:
        line: the line of the camera.
        category: the category of the part.
        series: when the series of triggers began, in epoch milliseconds.
        trigger: the number of the trigger in its series.
    """
    return str(uuid.uuid5(_JOB_NAMESPACE, f"trigger/{line}/{category}/{series}/{trigger}"))


def job_id_of_device(
    line: str, category: str, topic: str, part_id: str | None, captured_at: int | None, image: bytes
) -> str:
    """Return the id of the job of an MQTT message; the same if the message comes again (a UUID of version 5, RFC 9562).

    Args:
        line: the line of the device.
        category: the category of the part.
        topic: of the message, which tells two cameras that see one part apart.
        part_id: as the device names the part; None if it does not.
        captured_at: as the device says, in epoch milliseconds; None if it does not. With a part and a time the bytes do
            not count, so the part can be announced before there is an image.
        image: the encoded image.
    """
    named = part_id is not None and captured_at is not None
    content = "" if named else hashlib.sha256(image).hexdigest()
    return str(uuid.uuid5(_JOB_NAMESPACE, f"mqtt/{line}/{category}/{topic}/{part_id}/{captured_at}/{content}"))


def parse_job(envelope: Envelope) -> Job:
    """Parse the headers and properties of a job.

    Raises:
        Unusable: lists all fields that are missing or invalid. Unknown headers are ignored.
    """
    if envelope.type != JOB_TYPE:
        raise Unusable(Reason.MALFORMED_MESSAGE, f"type is {envelope.type!r}, expected {JOB_TYPE!r}")
    if envelope.content_encoding not in (None, "", "identity", "binary"):
        detail = f"content encoding is {envelope.content_encoding!r}; send the image without content encoding"
        raise Unusable(Reason.MALFORMED_MESSAGE, detail)
    return _parse(Job, envelope, content_type=envelope.content_type)


def parse_announcement(envelope: Envelope) -> Announcement:
    """Parse an announcement. Raises Unusable if it is invalid."""
    return _parse(Announcement, envelope)


def parse_verdict(envelope: Envelope) -> Verdict:
    """Parse a verdict. Raises Unusable if it is invalid."""
    try:
        return Verdict.model_validate_json(envelope.body, extra=UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error


def salvage(envelope: Envelope) -> dict[str, str]:
    """Return the valid ids and names of an invalid message, with replacements for the others.

    A missing or invalid message id is replaced by a hash of the message, which is the same for a redelivery.
    """
    headers = envelope.headers
    return {
        "job_id": _valid_or_none(_IDENTIFIER, envelope.message_id) or _id_from_content(envelope),
        "line": _valid_or_none(_NAME, headers.get("line")) or UNKNOWN,
        "category": _valid_or_none(_NAME, headers.get("category")) or UNKNOWN,
        "part_id": _valid_or_none(_IDENTIFIER, headers.get("part_id")) or UNKNOWN,
    }


def describe(error: pydantic.ValidationError) -> str:
    """Return a validation error as one line: `field: message; field: message`."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}" for item in error.errors(include_url=False)
    )


def _parse(model: type[_Parsed], envelope: Envelope, **properties: object) -> _Parsed:
    # Headers with the prefix x- belong to the broker and to dead letters.
    fields = {key: value for key, value in envelope.headers.items() if not key.startswith("x-")}
    clash = fields.keys() & {"job_id", *properties}
    if clash:
        raise Unusable(Reason.MALFORMED_MESSAGE, f"{min(clash)} is a message property, not a header")
    try:
        return model.model_validate({"job_id": envelope.message_id, **properties, **fields}, extra=UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error


def _id_from_content(envelope: Envelope) -> str:
    headers = sorted((key, str(value)) for key, value in envelope.headers.items())
    return f"unidentified-{hashlib.sha256(envelope.body + repr(headers).encode()).hexdigest()[:32]}"


def _valid_or_none(adapter: pydantic.TypeAdapter[str], value: object) -> str | None:
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError:
        return None
