"""A lane carries one job all the way: take, inspect, publish, ack. This is the path of every image.

The order is the promise. The verdict is published and confirmed before the job is acknowledged, so a crash at any point
means a second delivery and never a lost part; a second verdict has the same id, and the gate acts once per id. Redis
and metrics come last, and may fail.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from broker import topology
from broker.base import Broker, Consumer, Delivery, Message, NotConfirmed
from inspection import message
from inspection.errors import DeviceLostError, JobError, Reason, Retry, Unusable
from inspection.inspector import Inspector
from inspection.message import Job, Verdict
from process.stopwatch import Stopwatch
from worker.answer import Signature, verdict_message
from worker.metrics import Metrics
from worker.recent import Recent

_log = structlog.get_logger(__name__)
_IDLE_S = 0.2  # how soon a lane without work sees that it shall stop
_REFUSED_PAUSE_S = 0.5


@dataclass(frozen=True)
class Lane:
    """One thread of a worker. `step` does one turn; `run` repeats it until it shall stop."""

    signature: Signature
    inspectors: Mapping[str, Inspector]
    broker: Broker
    jobs: Consumer
    recent: Recent
    metrics: Metrics
    max_attempts: int
    stop: threading.Event

    def run(self) -> None:
        """Carry jobs until the stop event is set; the job in hand is finished first."""
        while not self.stop.is_set():
            self.step(_IDLE_S)

    def step(self, timeout_s: float) -> None:
        """Take one job, if one comes in time, and carry it to its end."""
        delivery = self.jobs.take(timeout_s)
        if delivery is not None:
            with self.metrics.holding():
                self._carry(delivery)

    def _carry(self, delivery: Delivery) -> None:
        received_at = self.signature.clock_ms()
        stopwatch = Stopwatch(self.metrics.stage_took)
        try:
            verdict = self._judge(delivery, received_at, stopwatch)
        except Unusable as error:
            self._answer_error(delivery, received_at, error)
            return
        except Retry as error:
            self._retry(delivery, received_at, error)
            return
        except DeviceLostError:
            delivery.requeue()
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: a fault must not end the lane
            _log.exception("inspection crashed", job_id=delivery.message.message_id)
            crash = Retry(Reason.CRASHED, f"{type(error).__name__}: {error}")
            self._retry(delivery, received_at, crash)
            return
        self._answer(delivery, verdict)

    def _judge(self, delivery: Delivery, received_at: int, stopwatch: Stopwatch) -> Verdict:
        job = message.parse_job(delivery.message)
        known = self._known(job, delivery)
        if known is not None:
            return known
        if self._is_late(job):
            return self.signature.expired(job, delivery, received_at)
        inspector = self._inspector(job)
        found = inspector.inspect(delivery.message.body, job.content_type, stopwatch.stage)
        if self._is_late(job):
            return self.signature.expired(job, delivery, received_at)
        return self.signature.judged(job, delivery, received_at, inspector, found, stopwatch.durations_ms)

    def _answer(self, delivery: Delivery, verdict: Verdict) -> None:
        if self._publish(delivery, topology.VERDICTS, verdict.routing_key, verdict_message(verdict)):
            delivery.ack()
            self.metrics.answered(verdict, self.signature.clock_ms())
            self.recent.remember(verdict)

    def _answer_error(self, delivery: Delivery, received_at: int, error: JobError) -> None:
        verdict = self.signature.error(delivery, received_at, error)
        _log.warning("job cannot be judged", job_id=verdict.job_id, reason=error.reason, detail=error.detail)
        if self._publish(delivery, topology.DEAD, verdict.routing_key, self.signature.dead_letter(delivery, error)):
            self._answer(delivery, verdict)

    def _retry(self, delivery: Delivery, received_at: int, error: Retry) -> None:
        if delivery.attempt >= self.max_attempts:
            self._answer_error(delivery, received_at, error)
            return
        _log.warning("job goes back", job_id=delivery.message.message_id, attempt=delivery.attempt, why=error.detail)
        delivery.requeue()
        self.metrics.requeued()

    def _publish(self, delivery: Delivery, exchange: str, routing_key: str, answer: Message) -> bool:
        """Publish until it is confirmed; False when the job is no longer ours to acknowledge."""
        while not delivery.stale:
            try:
                self.broker.publish(exchange, routing_key, answer)
                return True
            except NotConfirmed as error:
                _log.warning("verdict not confirmed", job_id=answer.message_id, why=str(error))
            if self.stop.wait(_REFUSED_PAUSE_S):
                delivery.requeue()
                return False
        return False

    def _known(self, job: Job, delivery: Delivery) -> Verdict | None:
        """The verdict that an earlier delivery of this job was given; not where somebody wants it judged anew."""
        if delivery.attempt == 1 or message.REPLAY in delivery.message.headers:
            return None
        return self.recent.known(job.job_id)

    def _inspector(self, job: Job) -> Inspector:
        if job.category not in self.inspectors:
            served = ", ".join(self.inspectors)
            raise Unusable(Reason.UNKNOWN_CATEGORY, f"category {job.category!r} is not served here; served: {served}")
        return self.inspectors[job.category]

    def _is_late(self, job: Job) -> bool:
        return job.deadline is not None and self.signature.clock_ms() > job.deadline
