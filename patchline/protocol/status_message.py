"""Status: what a process of the line is doing, as versioned JSON. Readers ignore unknown fields."""

from __future__ import annotations

from typing import Literal

import pydantic

from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Envelope, EpochMs, Name, describe

STATUS_TYPE = "patchline.status.v1"
_ALL_LINES = "all"


class Status(pydantic.BaseModel):
    """A process and its state, sent every second.

    Attributes:
        role: the kind of process.
        name: the instance, unique within its role and line.
        host: the name of its host.
        line: the line that it serves; None: all lines.
        state: `serving`, `standby` (a gate), `starting` (a gate that has heard nothing of its line yet) or `blind`: a
            gate hears nothing of its line, a worker takes no jobs, a publisher has no connection, an archive stores
            nothing. Without a connection no status arrives.
        since: when the state began, in epoch milliseconds.
        sent_at: when the status was sent.
        holds: what it holds, by name. A gate: `expected`, `undone`, `unsent_acts`. A publisher: `window`, `spooled`.
            A worker: `in_hand`, `refused_lanes`, `categories`. An archive: `pending`, `pending_pictures`.
        banks: of a worker: the version of the memory bank that it serves, by category.
        hand_in: of a publisher: it sends what people hand to its line in the console. Earlier builds do not say it.
        arm: of a gate: `working`, or `faulty`: it has not acknowledged its last act, or takes no sign of life.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    role: Literal["publisher", "worker", "gate", "archive"]
    name: str
    host: str
    line: Name | None = None
    state: str
    since: EpochMs
    sent_at: EpochMs
    holds: dict[str, int] = {}
    banks: dict[str, str] | None = None
    arm: str | None = None
    hand_in: bool | None = None

    @property
    def routing_key(self) -> str:
        """The routing key on the exchange of the statuses: `<role>.<line>`, or `<role>.all`."""
        return f"{self.role}.{self.line or _ALL_LINES}"

    def to_json(self) -> bytes:
        """Return the status as UTF-8 JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


def parse_status(envelope: Envelope) -> Status:
    """Parse a status. Raises Unusable if it is invalid."""
    try:
        return Status.model_validate_json(envelope.body)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error
