"""What a message of the queue of the ledger becomes in the archive."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from patchline.archive.ledger import SEEN, Acted, Announced, Entry, Found, Judged
from patchline.archive.rows import text
from patchline.archive.shadows import Shadowed
from patchline.broker.base import Delivery
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.gate_messages import (
    ACT_TYPE,
    CONFIRMATION_TYPE,
    OUTCOME_TYPE,
    SNAPSHOT_TYPE,
    SYNC_TYPE,
    ConfirmationRecord,
    OutcomeRecord,
    parse_act,
    parse_confirmation,
    parse_outcome,
)
from patchline.protocol.judgement_message import JUDGEMENT_TYPE, parse_judgement
from patchline.protocol.messages import Envelope
from patchline.protocol.shadow_message import SHADOW_TYPE, parse_shadow

_BETWEEN_GATES = {(topology.ACTS, SNAPSHOT_TYPE), (topology.ACTS, SYNC_TYPE)}  # nothing of a part


def entry(delivery: Delivery, archived_at: int) -> Entry | None:
    """Return the row of a message, or None if it is nothing of a part.

    Args:
        delivery: of the queue of the ledger.
        archived_at: when it has arrived, in epoch milliseconds.

    Raises:
        Unusable: the message is none that the ledger knows.
    """
    message, key = delivery.message, (delivery.exchange, delivery.message.type)
    if key in _BETWEEN_GATES:
        return None
    if key not in _READERS:
        detail = f"type {message.type!r} on exchange {delivery.exchange!r} is nothing that the ledger has"
        raise Unusable(Reason.MALFORMED_MESSAGE, detail)
    return _READERS[key](message, archived_at)


def _announced(message: Envelope, archived_at: int) -> Announced:
    part = messages.parse_announcement(message)
    return Announced(
        job_id=part.job_id,
        line=part.line,
        category=part.category,
        part_id=part.part_id,
        number=part.number,
        captured_at=part.captured_at,
        announced_at=part.announced_at or part.captured_at,
        deadline=part.deadline,
        archived_at=archived_at,
        document=json.dumps(dict(message.headers), sort_keys=True, default=str),
    )


def _acted(message: Envelope, archived_at: int) -> Acted:
    act = parse_act(message)
    return Acted(
        job_id=act.job_id,
        line=act.line,
        category=act.category,
        part_id=act.part_id,
        number=act.number,
        action=act.action,
        state=act.state,
        because=text(act.because) or "",
        stale=bool(act.stale),
        gate=text(act.gate) or "",
        acted_at=act.acted_at,
        archived_at=archived_at,
        **_document(message),
    )


def _outcome(message: Envelope, archived_at: int) -> Found:
    record = parse_outcome(message)
    return _found(record, text(record.outcome) or "", None, message, archived_at)


def _confirmation(message: Envelope, archived_at: int) -> Found:
    record = parse_confirmation(message)
    return _found(record, SEEN, text(record.bin), message, archived_at)


def _found(
    record: OutcomeRecord | ConfirmationRecord, outcome: str, bin_: str | None, message: Envelope, archived_at: int
) -> Found:
    return Found(
        job_id=record.job_id,
        line=record.line,
        number=record.number,
        outcome=outcome,
        bin=bin_,
        gate=text(record.gate) or "",
        found_at=record.found_at,
        archived_at=archived_at,
        **_document(message),
    )


def _judged(message: Envelope, archived_at: int) -> Judged:
    judgement = parse_judgement(message)
    return Judged(
        job_id=judgement.job_id,
        judgement=judgement.judgement,
        kind=judgement.kind,
        judged_by=judgement.by,
        note=judgement.note,
        judged_at=min(judgement.judged_at, archived_at),
        archived_at=archived_at,
        **_document(message),
    )


def _shadowed(message: Envelope, archived_at: int) -> Shadowed:
    said = parse_shadow(message)
    return Shadowed(**said.model_dump(exclude={"worker"}), archived_at=archived_at, document=message.body.decode())


def _document(message: Envelope) -> dict[str, str]:
    return {"document": message.body.decode(), "digest": hashlib.sha256(message.body).hexdigest()}


# A type counts only on its exchange: who may publish there is what permissions decide.
_READERS: dict[tuple[str, str | None], Callable[[Envelope, int], Entry]] = {
    (topology.PARTS, messages.PART_TYPE): _announced,
    (topology.ACTS, ACT_TYPE): _acted,
    (topology.ACTS, OUTCOME_TYPE): _outcome,
    (topology.ACTS, CONFIRMATION_TYPE): _confirmation,
    (topology.JUDGEMENTS, JUDGEMENT_TYPE): _judged,
    (topology.SHADOWS, SHADOW_TYPE): _shadowed,
}
