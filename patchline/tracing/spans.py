"""What a verdict says of where a job's time went, as spans. Nothing is measured for them: the verdict has it all."""

from __future__ import annotations

from dataclasses import dataclass, field

from patchline.protocol.messages import Decision, Verdict


@dataclass(frozen=True)
class Span:
    """A piece of time in epoch milliseconds, and what is known of it."""

    name: str
    start_ms: float
    end_ms: float
    failed: bool = False
    attributes: dict[str, str | int | float] = field(default_factory=dict)


def of_job(verdict: Verdict) -> Span:
    """From capture to verdict; from the worker's receipt on, where nobody said when the image was captured."""
    told = verdict.model_dump(
        include={"job_id", "line", "category", "part_id", "reason", "score", "memory_bank", "device", "worker"},
        exclude_none=True,
        mode="json",
    )
    attributes = {f"patchline.{name}": value for name, value in told.items()}
    attributes |= {"patchline.decision": str(verdict.decision), "patchline.attempt": verdict.attempt}
    failed = verdict.decision in (Decision.ERROR, Decision.EXPIRED)
    return Span(f"inspect {verdict.category}", _captured(verdict), verdict.decided_at, failed, attributes)


def inside(verdict: Verdict) -> list[Span]:
    """The wait for a worker, then the stages of the inspection, one after the other."""
    found = [Span("queue", _captured(verdict), verdict.received_at)]
    at = float(verdict.received_at)
    for stage, took in verdict.durations_ms.items():
        found.append(Span(stage, at, at + took))
        at += took
    return found


def _captured(verdict: Verdict) -> int:
    """A camera's clock may be ahead of ours: a span does not end before it begins."""
    captured = verdict.captured_at if verdict.captured_at is not None else verdict.received_at
    return min(captured, verdict.received_at)
