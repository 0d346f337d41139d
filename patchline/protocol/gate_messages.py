"""The versioned messages of the gates of a line, such as an act, an outcome or a ping. All are JSON.

Readers ignore unknown fields: gates of different builds can share a line during an upgrade.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import pydantic

from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.messages import (
    UNKNOWN_FIELDS,
    Announcement,
    EncoderCount,
    Envelope,
    EpochMs,
    Identifier,
    Name,
    PartNumber,
    describe,
)

ACT_TYPE = "patchline.act.v1"
OUTCOME_TYPE = "patchline.outcome.v1"
CONFIRMATION_TYPE = "patchline.confirmation.v1"
PING_TYPE = "patchline.ping.v1"
SYNC_TYPE = "patchline.sync.v1"
SNAPSHOT_TYPE = "patchline.snapshot.v1"


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

    Attributes:
        stale: the part has probably left the line already.
        number: the number by which the PLC knows the part.
        encoder_count: the count of the line's encoder at its trigger.
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
    number: PartNumber | None = None
    encoder_count: EncoderCount | None = None


class Act(ActionRecord):
    """An action as one gate announces it to the others of its line."""

    gate: str
    state: ActState


class OutcomeRecord(_Tolerant):
    """What became of a part, if it is not what was to be expected. Published by the gate that acts.

    Attributes:
        outcome: `escaped`: rejected, and the sensor has not seen it in the reject bin. `unconfirmed`: rejected, and the
            PLC was off or not read while it passed the sensor. `diverted`: accepted, and seen in the reject bin.
            `missed`: its action came too late for the arm. `unattended`: it passed the arm, and no gate could act or
            knew of it: the PLC has rejected it.
            `unannounced`: the PLC saw it, and nobody announced it.
        number: the number by which the PLC knows the part.
        job_id: that of its job; of an unannounced part one that the gate has made.
        gate: the name of the gate instance.
        found_at: the time.
    """

    job_id: Identifier
    line: Name
    number: PartNumber
    outcome: str
    gate: str
    found_at: EpochMs


class ConfirmationRecord(_Tolerant):
    """The sensor behind the arm saw a part on which the arm was told to act. Published by the gate that acts.

    Attributes:
        job_id: that of its job. A part with several images has one message for each.
        number: the number by which the PLC knows the part.
        bin: where it was seen: `good`, `reject`, or `unknown` if the PLC names another bin.
        gate: the name of the gate instance.
        found_at: the time.
    """

    job_id: Identifier
    line: Name
    number: PartNumber
    bin: str
    gate: str
    found_at: EpochMs


class Ping(_Tolerant):
    """A sign of life of one gate, for the lease and for every gate of the line.

    Attributes:
        gate: the name of the gate instance.
        process: a random id of the process, because a restarted gate has the same name.
        sent_at: seconds of the sender's monotonic clock; only the sender can interpret it.
        active: the sender is the single active consumer of the lease queue.
        current: the sender hears its line.
    """

    gate: str
    process: str
    sent_at: float
    active: bool
    current: bool = False


class SyncRequest(_Tolerant):
    """A gate has missed messages, and asks the others for a snapshot. Sent when its queue receives again."""

    gate: str


class OpenPart(_Tolerant):
    """A part on which no gate has acted, as far as the sender knows.

    Attributes:
        part: the announcement, or what is known of it.
        due_in_s: the rest of the patience with the part when the snapshot was sent.
        action: what is to be done. None: there is no verdict.
        because: the reason of the action.
        score: the score of the verdict.
        intended: a gate was about to do it. Other actions are ruled out.
    """

    part: Announcement
    due_in_s: float
    action: Action | None = None
    because: str = ""
    score: float | None = None
    intended: bool = False


class Snapshot(_Tolerant):
    """What a gate knows of its line. A large one is sent as several.

    Attributes:
        gate: the name of the gate instance.
        sent_at: the time.
        open: the parts on which no gate has acted.
        acted: job id and reason of recent actions, oldest first.
    """

    gate: str
    sent_at: EpochMs
    open: tuple[OpenPart, ...] = ()
    acted: tuple[tuple[Identifier, str], ...] = ()


_Parsed = TypeVar("_Parsed", bound=_Tolerant)


def parse_act(envelope: Envelope) -> Act:
    """Parse an act. Raises Unusable if it is invalid."""
    return _parse(Act, envelope)


def parse_outcome(envelope: Envelope) -> OutcomeRecord:
    """Parse an outcome. Raises Unusable if it is invalid."""
    return _parse(OutcomeRecord, envelope)


def parse_confirmation(envelope: Envelope) -> ConfirmationRecord:
    """Parse a confirmation. Raises Unusable if it is invalid."""
    return _parse(ConfirmationRecord, envelope)


def parse_ping(envelope: Envelope) -> Ping:
    """Parse a ping. Raises Unusable if it is invalid."""
    return _parse(Ping, envelope)


def parse_sync_request(envelope: Envelope) -> SyncRequest:
    """Parse a request for a snapshot. Raises Unusable if it is invalid."""
    return _parse(SyncRequest, envelope)


def parse_snapshot(envelope: Envelope) -> Snapshot:
    """Parse a snapshot. Raises Unusable if it is invalid."""
    return _parse(Snapshot, envelope)


def _parse(model: type[_Parsed], envelope: Envelope) -> _Parsed:
    try:
        return model.model_validate_json(envelope.body, extra=UNKNOWN_FIELDS)
    except pydantic.ValidationError as error:
        raise Unusable(Reason.MALFORMED_MESSAGE, describe(error)) from error
