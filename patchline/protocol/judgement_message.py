"""A re-judgement: what a person says of a part after its verdict. JSON, on an exchange of its own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import pydantic
from pydantic import StringConstraints

from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import UNKNOWN_FIELDS, Envelope, EpochMs, Frozen, Identifier, Name, describe

JUDGEMENT_TYPE = "patchline.judgement.v1"
# Without control characters: the texts are printed in terminals.
Person = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,100}$")]
Note = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,1000}$")]


class Label(StrEnum):
    """What a part is, as a person says; or that the person's earlier judgements no longer count."""

    GOOD = "good"
    DEFECT = "defect"
    UNSURE = "unsure"
    WITHDRAWN = "withdrawn"


class Judgement(Frozen):
    """What a person says of the part of a job. All are kept. No gate hears it.

    The newest counts that its person has not taken back.

    Attributes:
        judgement: good, defect, unsure; or withdrawn: what the same person said before is taken back.
        kind: of the defect, such as scratch. Only of a defect.
        by: who says so. RabbitMQ knows the user of the connection only, not the person.
        judged_at: when.
        note: a remark.
    """

    job_id: Identifier
    judgement: Label
    kind: Name | None = None
    by: Person
    judged_at: EpochMs
    note: Note | None = None

    @pydantic.model_validator(mode="after")
    def _only_defects_have_a_kind(self) -> Judgement:
        if self.kind is not None and self.judgement is not Label.DEFECT:
            raise ValueError(f"a part that is {self.judgement} has no kind of defect")
        return self

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the judgements: the judgement."""
        return str(self.judgement)

    def to_json(self) -> bytes:
        """Return the judgement as UTF-8 JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


def parse_judgement(envelope: Envelope) -> Judgement:
    """Parse a judgement. Raises Unusable if it is invalid."""
    try:
        return Judgement.model_validate_json(envelope.body, extra=UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error
