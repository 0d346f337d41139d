"""What a shadow bank says of a part, beside the verdict, as versioned JSON. No gate hears it."""

from __future__ import annotations

import pydantic

from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Decision, Digest, Envelope, EpochMs, Frozen, Identifier, Name, Verdict

SHADOW_TYPE = "patchline.shadow.v1"


class ShadowJudgement(Frozen):
    """The verdict on a part, and what the shadow would have said. Published after the verdict; it may be lost.

    Attributes:
        bank_version: of the bank that has judged the part: the SHA-256 of its manifest.
        decision: of the verdict.
        score: of the verdict.
        shadow_version: of the shadow.
        judged_at: when the shadow has judged, in epoch milliseconds.
    """

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    bank_version: Digest
    decision: Decision
    score: float
    shadow_version: Digest
    shadow_decision: Decision
    shadow_score: float
    worker: str
    judged_at: EpochMs

    @classmethod
    def beside(
        cls, verdict: Verdict, judged: tuple[Decision, float], shadow: str, would_have: tuple[Decision, float], at: int
    ) -> ShadowJudgement:
        """Return what a shadow says of the part of a verdict.

        Args:
            verdict: names its bank.
            judged: the decision and the score of the bank.
            shadow: the version of the shadow.
            would_have: its decision and score.
            at: when it has judged, in epoch milliseconds.
        """
        names = ("job_id", "line", "category", "part_id", "bank_version", "worker")
        return cls(
            **{name: getattr(verdict, name) for name in names},
            decision=judged[0],
            score=judged[1],
            shadow_version=shadow,
            shadow_decision=would_have[0],
            shadow_score=would_have[1],
            judged_at=at,
        )

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the shadows: `<line>.<category>`."""
        return f"{self.line}.{self.category}"

    def to_json(self) -> bytes:
        """Return it as UTF-8 JSON."""
        return self.model_dump_json().encode()


def parse_shadow(envelope: Envelope) -> ShadowJudgement:
    """Parse what a shadow says. Raises Unusable if it is invalid."""
    try:
        return ShadowJudgement.model_validate_json(envelope.body, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, messages.describe(error)) from error
