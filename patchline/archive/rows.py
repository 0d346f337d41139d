"""What a message of the queue of the verdicts becomes in the archive."""

from __future__ import annotations

import hashlib
import json
import math

from patchline.archive.base import Record, Unreadable
from patchline.protocol import messages
from patchline.protocol.messages import Envelope, Verdict

_MAX_REASON = 2000


def record(envelope: Envelope, archived_at: int) -> Record:
    """Return the row of a verdict.

    Args:
        envelope: the message.
        archived_at: when it has arrived, in epoch milliseconds.

    Raises:
        Unusable: the message is no verdict.
    """
    verdict = messages.parse_verdict(envelope)
    thresholds = verdict.thresholds
    return Record(
        job_id=verdict.job_id,
        line=verdict.line,
        category=verdict.category,
        part_id=verdict.part_id,
        decision=verdict.decision,
        reason=text(verdict.reason),
        detail=text(verdict.detail),
        score=_finite(verdict),
        review_threshold=None if thresholds is None else thresholds.review,
        fail_threshold=None if thresholds is None else thresholds.fail,
        backbone=text(verdict.backbone),
        memory_bank=text(verdict.memory_bank),
        bank_version=verdict.bank_version,
        device=text(verdict.device) or "",
        worker=text(verdict.worker) or "",
        number=verdict.number,
        captured_at=verdict.captured_at,
        received_at=verdict.received_at,
        decided_at=verdict.decided_at,
        archived_at=archived_at,
        replay=bool(verdict.replay),
        document=envelope.body.decode(),
        digest=hashlib.sha256(envelope.body).hexdigest(),
    )


def unreadable(envelope: Envelope, routing_key: str, reason: str, arrived_at: int) -> Unreadable:
    """Return the row of a message that cannot be read, or that the database refuses.

    The body is that of the message; of an announcement, which has none, its headers as JSON.
    """
    headers = json.dumps(dict(envelope.headers), sort_keys=True, default=str).encode() if envelope.headers else b""
    body = envelope.body or headers
    identity = repr((envelope.message_id, envelope.type)).encode() + b"\n" + body
    return Unreadable(
        digest=hashlib.sha256(identity).hexdigest(),
        reason=(text(reason) or "")[:_MAX_REASON],
        arrived_at=arrived_at,
        message_id=text(envelope.message_id),
        type=text(envelope.type),
        routing_key=text(routing_key) or "",
        body=body,
    )


def _finite(verdict: Verdict) -> float | None:
    """JSON of other programs may have NaN, which databases treat in different ways."""
    return verdict.score if verdict.score is not None and math.isfinite(verdict.score) else None


def text(value: str | None) -> str | None:
    """Return a text that every database takes: PostgreSQL has no NUL, and UTF-8 no half of a surrogate pair."""
    return None if value is None else value.encode(errors="replace").decode().replace("\0", "\ufffd")
