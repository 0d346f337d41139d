"""A picture of a part on its way to the archive: the image as it was captured, or the heat map of its verdict.

The body is the encoded file. The fields are AMQP properties and headers, as those of a job.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import pydantic
from pydantic import StringConstraints

from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Envelope, Frozen, Identifier, Name

PICTURE_TYPE = "patchline.picture.v1"
IMAGE, HEAT_MAP = "image", "heat_map"
Kind = Literal["image", "heat_map"]
_Word = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,16}$")]  # a later build may have further decisions
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_ContentType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+-]{1,60}/[A-Za-z0-9.+-]{1,60}$")]
_CONTENT_TYPE: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(_ContentType)


class Picture(Frozen):
    """What a message says of a picture.

    Attributes:
        job_id: the job, as the id of the message.
        decision: of the verdict.
        kind: `image`, the bytes of the job, or `heat_map`, a PNG of at most 512 pixels a side.
        sha256: of the body, as hexadecimal digits.
        content_type: of the body.
    """

    job_id: Identifier
    line: Name
    category: Name
    decision: _Word
    kind: Kind
    sha256: _Digest
    content_type: _ContentType

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the pictures: `<line>.<category>.<decision>`."""
        return f"{self.line}.{self.category}.{self.decision}"

    def headers(self) -> dict[str, Any]:
        """Return the fields that are AMQP headers."""
        return self.model_dump(exclude={"job_id", "content_type"})


def content_type_or_unknown(value: str | None) -> str:
    """Return the content type of a job, or `application/octet-stream` if it has none that is valid."""
    try:
        return _CONTENT_TYPE.validate_python(value)
    except pydantic.ValidationError:
        return messages.NO_CONTENT


def parse(envelope: Envelope) -> Picture:
    """Parse the headers and properties of a picture, and compare its digest with its body.

    Raises:
        Unusable: a field is missing or invalid, or the body is another one. Unknown headers are ignored.
    """
    if envelope.type != PICTURE_TYPE:
        raise Unusable(Reason.MALFORMED_MESSAGE, f"type is {envelope.type!r}, expected {PICTURE_TYPE!r}")
    fields = {name: value for name, value in envelope.headers.items() if not name.startswith("x-")}
    properties = {"job_id": envelope.message_id, "content_type": envelope.content_type}
    try:
        picture = Picture.model_validate(fields | properties, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, messages.describe(error)) from error
    if hashlib.sha256(envelope.body).hexdigest() != picture.sha256:
        raise Unusable(Reason.MALFORMED_MESSAGE, "the body does not have the digest of the header sha256")
    return picture
