"""Turns the times in a verdict into spans."""

from __future__ import annotations

from dataclasses import dataclass, field

from patchline.protocol.messages import Decision, Verdict


@dataclass(frozen=True)
class Span:
    """An interval in epoch milliseconds, with its attributes."""

    name: str
    start_ms: float
    end_ms: float
    failed: bool = False
    attributes: dict[str, str | int | float] = field(default_factory=dict)


def job_span(verdict: Verdict) -> Span:
    """Return the span from capture to verdict. Without a time of capture it starts at the worker's receipt."""
    fields = verdict.model_dump(
        include={"job_id", "line", "category", "part_id", "reason", "score", "memory_bank", "device", "worker"},
        exclude_none=True,
        mode="json",
    )
    attributes = {f"patchline.{name}": value for name, value in fields.items()}
    attributes |= {"patchline.decision": str(verdict.decision), "patchline.attempt": verdict.attempt}
    failed = verdict.decision in (Decision.ERROR, Decision.EXPIRED)
    return Span(f"inspect {verdict.category}", _start_ms(verdict), verdict.decided_at, failed, attributes)


def stage_spans(verdict: Verdict) -> list[Span]:
    """Return a span for the time in the queue and one for each stage of the inspection, in order."""
    spans = [Span("queue", _start_ms(verdict), verdict.received_at)]
    start_ms = float(verdict.received_at)
    for stage, duration_ms in verdict.durations_ms.items():
        spans.append(Span(stage, start_ms, start_ms + duration_ms))
        start_ms += duration_ms
    return spans


def _start_ms(verdict: Verdict) -> int:
    """Return the time of capture, never later than the receipt: the clock of a camera may be ahead."""
    captured_at = verdict.captured_at if verdict.captured_at is not None else verdict.received_at
    return min(captured_at, verdict.received_at)
