"""The verdicts and dead letters of a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from patchline.broker.base import Delivery, Message
from patchline.devices.backbone import Device
from patchline.inspection import judged_with
from patchline.inspection.inspector import Inspection, Inspector
from patchline.protocol import messages
from patchline.protocol.errors import JobError, Reason
from patchline.protocol.messages import Decision, Job, Verdict
from patchline.runtime import dead_letter

_MAX_DETAIL_LENGTH = 500  # the text of an error may quote its input


@dataclass(frozen=True)
class VerdictFactory:
    """Makes the verdicts and dead letters that carry the name of one worker.

    Attributes:
        worker: the name of the worker process.
        device: the name of its device.
        now_ms: returns the wall clock in epoch milliseconds.
    """

    worker: str
    device: str
    now_ms: Callable[[], int]

    def inspected(
        self,
        job: Job,
        delivery: Delivery,
        received_at: int,
        inspector: Inspector,
        inspection: Inspection,
        durations_ms: dict[str, float],
    ) -> Verdict:
        """Return the verdict on an inspected part."""
        return self._verdict(job, delivery, received_at, inspection.decision).model_copy(
            update={
                "score": inspection.score,
                "scores": inspection.scores,
                "thresholds": inspector.thresholds,
                "p_value": inspection.p_value,
                "regions": inspection.regions,
                "backbone": inspector.backbone.manifest.name,
                "memory_bank": inspector.bank.name,
                "bank_version": inspector.bank.digest,
                "judged_with": judged_with.of(inspector.backbone, Device.parse(self.device).kind),
                "durations_ms": durations_ms,
            }
        )

    def expired(self, job: Job, delivery: Delivery, received_at: int) -> Verdict:
        """Return the verdict on a part whose deadline has passed; it has no score."""
        verdict = self._verdict(job, delivery, received_at, Decision.EXPIRED)
        return verdict.model_copy(update={"reason": Reason.DEADLINE_PASSED})

    def no_image(self, job: Job, delivery: Delivery, received_at: int) -> Verdict:
        """Return the verdict on an announced part of which there is no image."""
        verdict = self._verdict(job, delivery, received_at, Decision.ERROR)
        return verdict.model_copy(update={"reason": Reason.NO_IMAGE, "detail": job.no_image})

    def error(self, delivery: Delivery, received_at: int, error: JobError) -> Verdict:
        """Return the verdict on a job that failed. The message may be malformed, so its valid fields are salvaged."""
        return Verdict(
            **messages.salvage(delivery.message),
            decision=Decision.ERROR,
            reason=error.reason,
            detail=error.detail[:_MAX_DETAIL_LENGTH],
            worker=self.worker,
            device=self.device,
            attempt=delivery.attempt,
            received_at=received_at,
            decided_at=self.now_ms(),
            replay=messages.REPLAY_HEADER in delivery.message.headers or None,
        )

    def dead_letter(self, delivery: Delivery, error: JobError) -> Message:
        """Return the message of a failed job, with headers that say why and where it failed."""
        return dead_letter.dead_letter(delivery.message, error, delivery.attempt, self.worker)

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
            decided_at=self.now_ms(),
            number=job.number,
            encoder_count=job.encoder_count,
            traceparent=job.traceparent,
            replay=messages.REPLAY_HEADER in delivery.message.headers or None,
        )


def verdict_message(verdict: Verdict) -> Message:
    """Return the message that carries a verdict."""
    return Message(verdict.to_json(), verdict.job_id, messages.VERDICT_TYPE, "application/json")
