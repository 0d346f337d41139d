"""Act and Ping: the versioned messages between the gates of a line. Both are JSON.

Readers ignore unknown fields: gates of different builds can share a line during an upgrade.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import pydantic

from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import Envelope, EpochMs, Identifier, Name, describe

ACT_TYPE = "patchline.act.v1"
PING_TYPE = "patchline.ping.v1"


class Action(StrEnum):
    """What the gate does with a part."""

    ACCEPT = "accept"
    REJECT = "reject"


class ActState(StrEnum):
    """`intended`: the arm is about to be told. `done`: the arm has acknowledged."""

    INTENDED = "intended"
    DONE = "done"


class _Tolerant(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        """Return the message as UTF-8 JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


class ActionRecord(_Tolerant):
    """One action of the gate: the line of JSON that the arm receives.

    `stale`: the part has probably left the line already.
    """

    job_id: Identifier
    line: Name
    category: Name
    part_id: Identifier
    action: Action
    because: str
    score: float | None = None
    stale: bool | None = None
    acted_at: EpochMs


class Act(ActionRecord):
    """An action as one gate announces it to the others of its line."""

    gate: str
    state: ActState


class Ping(_Tolerant):
    """A sign of life of one gate, for the lease and for every gate of the line.

    Attributes:
        gate: the name of the gate instance.
        process: a random id of the process, because a restarted gate has the same name.
        sent_at: seconds of the sender's monotonic clock; only the sender can interpret it.
        active: the sender is the single active consumer of the lease queue.
    """

    gate: str
    process: str
    sent_at: float
    active: bool


_Parsed = TypeVar("_Parsed", bound=_Tolerant)


def parse_act(envelope: Envelope) -> Act:
    """Parse an act. Raises Unusable if it is invalid."""
    return _parse(Act, envelope)


def parse_ping(envelope: Envelope) -> Ping:
    """Parse a ping. Raises Unusable if it is invalid."""
    return _parse(Ping, envelope)


def _parse(model: type[_Parsed], envelope: Envelope) -> _Parsed:
    try:
        return model.model_validate_json(envelope.body)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error
