"""Job, Announcement and Verdict: the messages of the line, frozen and versioned.

The image is never part of these objects: it travels as the AMQP body of the job, exactly as captured. What is a field
here is an AMQP property or header there; `parse_job` and `Job.headers` are the two directions.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar

import pydantic
from pydantic import Field, StringConstraints

from patchline.protocol.errors import Reason, Unusable

JOB_TYPE = "patchline.job.v1"
PART_TYPE = "patchline.part.v1"
VERDICT_TYPE = "patchline.verdict.v1"
REPLAY_HEADER = "x-patchline-replay"  # header of a job that is judged anew, whatever is remembered of it
UNKNOWN = "unknown"

# A line or category is a word of a routing key and the name of a folder: no dots, slashes or spaces.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
IDENTIFIER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER_PATTERN)]
# 2000-01-01 to 2100-01-01: a time in seconds or microseconds is caught, a wrong clock is not our business.
EARLIEST_MS, LATEST_MS = 946_684_800_000, 4_102_444_800_000
EpochMs = Annotated[int, Field(strict=True, ge=EARLIEST_MS, le=LATEST_MS)]
TraceParent = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]

_NAME: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Name)
_IDENTIFIER: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Identifier)
_JOB_NAMESPACE = uuid.UUID("6f2d3c0e-5b1a-4b58-9d0a-7a4c1b7c9e21")


class Decision(StrEnum):
    """What the line is told about a part."""

    PASS = "pass"
    REVIEW = "review"
    FAIL = "fail"
    EXPIRED = "expired"
    ERROR = "error"


class Envelope(Protocol):
    """What parsing needs of a broker's message, whichever broker it is."""

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
    """Immutable, and refuses fields that it does not know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Announcement(Frozen):
    """A part that is on its way: sent before its job, so that a gate can reject it when no verdict comes."""

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    captured_at: EpochMs
    deadline: EpochMs | None = None
    traceparent: TraceParent | None = None

    def headers(self) -> dict[str, Any]:
        """The AMQP headers: every field but the job's id, which is the message id."""
        return self.model_dump(exclude={"job_id", "content_type"}, exclude_none=True)


class Job(Announcement):
    """One image to inspect; the image itself is the body of the message."""

    content_type: str

    @property
    def routing_key(self) -> str:
        """`<line>.<category>`, on the exchange of the jobs."""
        return f"{self.line}.{self.category}"

    def announcement(self) -> Announcement:
        """The same ids and deadline, without the image."""
        return Announcement(**self.model_dump(exclude={"content_type"}))


class Region(Frozen):
    """A box of connected pixels above the threshold, in pixels of the captured image.

    `score` is its hottest pixel on the heat map's scale, where 1.0 is the fail threshold.
    """

    x: int
    y: int
    width: int
    height: int
    score: float


class Thresholds(Frozen):
    """On the raw score: below `review` passes, from `fail` on fails, between them a person looks."""

    review: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    fail: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.review > self.fail:
            raise ValueError(f"the review threshold {self.review} is above the fail threshold {self.fail}")
        return self


class Scores(Frozen):
    """An image's raw scores: squared L2 distances of its patches to their nearest good patch."""

    max: float
    topk10: float


class Verdict(Frozen):
    """The one accountable answer to a job. Its id is its job's id."""

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    decision: Decision
    reason: Reason | None = None
    detail: str | None = None
    score: float | None = None
    scores: Scores | None = None
    thresholds: Thresholds | None = None
    regions: tuple[Region, ...] = ()
    backbone: str | None = None
    memory_bank: str | None = None
    device: str
    worker: str
    attempt: int
    captured_at: EpochMs | None = None
    deadline: EpochMs | None = None
    received_at: EpochMs
    decided_at: EpochMs
    durations_ms: dict[str, float] = {}
    traceparent: str | None = None

    @property
    def routing_key(self) -> str:
        """`<line>.<category>.<decision>`."""
        return f"{self.line}.{self.category}.{self.decision}"

    def to_json(self) -> bytes:
        """The body of a verdict message: UTF-8 JSON without the fields that are empty."""
        return self.model_dump_json(exclude_none=True).encode()


_Parsed = TypeVar("_Parsed", bound=Announcement)


def job_id_for(line: str, category: str, part_id: str, captured_at: int, image: bytes) -> str:
    """An id that is the same whenever the same capture is sent again (a name-based UUID, RFC 9562 version 5)."""
    digest = hashlib.sha256(image).hexdigest()
    return str(uuid.uuid5(_JOB_NAMESPACE, f"{line}/{category}/{part_id}/{captured_at}/{digest}"))


def parse_job(envelope: Envelope) -> Job:
    """The job in a message.

    Raises:
        Unusable: with every field that is missing, wrong or unknown.
    """
    if envelope.type != JOB_TYPE:
        raise Unusable(Reason.MALFORMED_MESSAGE, f"type is {envelope.type!r}, expected {JOB_TYPE!r}")
    if envelope.content_encoding not in (None, "", "identity", "binary"):
        detail = f"content encoding is {envelope.content_encoding!r}; send the image as it was captured"
        raise Unusable(Reason.MALFORMED_MESSAGE, detail)
    return _parse(Job, envelope, content_type=envelope.content_type)


def parse_announcement(envelope: Envelope) -> Announcement:
    """The announced part in a message. Raises Unusable as `parse_job` does."""
    return _parse(Announcement, envelope)


def parse_verdict(envelope: Envelope) -> Verdict:
    """The verdict in a message. Raises Unusable as `parse_job` does."""
    try:
        return Verdict.model_validate_json(envelope.body)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error


def salvage(envelope: Envelope) -> dict[str, str]:
    """What can be said of a message that is no valid job: an id and names that a verdict can carry.

    A message without a usable id gets one from its content, so that a second delivery has the same.
    """
    whole = envelope.body + repr(sorted((key, str(value)) for key, value in envelope.headers.items())).encode()
    headers = envelope.headers
    return {
        "job_id": _usable(_IDENTIFIER, envelope.message_id) or f"unidentified-{hashlib.sha256(whole).hexdigest()[:32]}",
        "line": _usable(_NAME, headers.get("line")) or UNKNOWN,
        "category": _usable(_NAME, headers.get("category")) or UNKNOWN,
        "part_id": _usable(_IDENTIFIER, headers.get("part_id")) or UNKNOWN,
    }


def describe(error: pydantic.ValidationError) -> str:
    """A validation error on one line: `field: what is wrong`, joined by semicolons."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}" for item in error.errors(include_url=False)
    )


def _parse(model: type[_Parsed], envelope: Envelope, **properties: object) -> _Parsed:
    # Headers that start with x- belong to the broker and to dead letters.
    fields = {key: value for key, value in envelope.headers.items() if not key.startswith("x-")}
    clash = fields.keys() & {"job_id", *properties}
    if clash:
        raise Unusable(Reason.MALFORMED_MESSAGE, f"{min(clash)} is a message property, not a header")
    try:
        return model.model_validate({"job_id": envelope.message_id, **properties, **fields})
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error


def _usable(form: pydantic.TypeAdapter[str], value: object) -> str | None:
    try:
        return form.validate_python(value)
    except pydantic.ValidationError:
        return None
