"""The verdicts and dead letters that a worker signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from patchline.broker.base import Delivery, Message
from patchline.inspection.inspector import Inspection, Inspector
from patchline.protocol import messages
from patchline.protocol.errors import JobError, Reason
from patchline.protocol.messages import Decision, Job, Verdict

_DETAIL_LENGTH = 500  # an error's text may quote its input


@dataclass(frozen=True)
class Signature:
    """Who answers: the worker's name, its device, and its clock in epoch milliseconds."""

    worker: str
    device: str
    clock_ms: Callable[[], int]

    def judged(
        self,
        job: Job,
        delivery: Delivery,
        received_at: int,
        by: Inspector,
        found: Inspection,
        durations: dict[str, float],
    ) -> Verdict:
        """The ordinary verdict."""
        return self._verdict(job, delivery, received_at, found.decision).model_copy(
            update={
                "score": found.score,
                "scores": found.scores,
                "thresholds": by.thresholds,
                "regions": found.regions,
                "backbone": by.backbone.manifest.name,
                "memory_bank": by.bank.version,
                "durations_ms": durations,
            }
        )

    def expired(self, job: Job, delivery: Delivery, received_at: int) -> Verdict:
        """The gate has given up on this part: nobody needs to know what the image showed."""
        expired = self._verdict(job, delivery, received_at, Decision.EXPIRED)
        return expired.model_copy(update={"reason": Reason.DEADLINE_PASSED})

    def error(self, delivery: Delivery, received_at: int, error: JobError) -> Verdict:
        """The job could not be judged, with whatever its message still says of itself."""
        return Verdict(
            **messages.salvage(delivery.message),
            decision=Decision.ERROR,
            reason=error.reason,
            detail=error.detail[:_DETAIL_LENGTH],
            worker=self.worker,
            device=self.device,
            attempt=delivery.attempt,
            received_at=received_at,
            decided_at=self.clock_ms(),
        )

    def dead_letter(self, delivery: Delivery, error: JobError) -> Message:
        """The job's own body and headers, with why and where it ended."""
        why = {
            "x-patchline-reason": str(error.reason),
            "x-patchline-error": error.detail[:_DETAIL_LENGTH],
            "x-patchline-stage": error.stage,
            "x-patchline-attempts": delivery.attempt,
            "x-patchline-worker": self.worker,
        }
        own = delivery.message
        return replace(own, headers={**own.headers, **why})

    def _verdict(self, job: Job, delivery: Delivery, received_at: int, decision: Decision) -> Verdict:
        return Verdict(
            job_id=job.job_id,
            line=job.line,
            category=job.category,
            part_id=job.part_id,
            decision=decision,
            worker=self.worker,
            device=self.device,
            attempt=delivery.attempt,
            captured_at=job.captured_at,
            deadline=job.deadline,
            received_at=received_at,
            decided_at=self.clock_ms(),
            traceparent=job.traceparent,
        )


def verdict_message(verdict: Verdict) -> Message:
    """A verdict as it travels."""
    return Message(verdict.to_json(), verdict.job_id, messages.VERDICT_TYPE, "application/json")
