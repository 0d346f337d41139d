"""A lane carries one job all the way: take, inspect, publish, ack. This is the path of every image.

The order is the promise. The verdict is published and confirmed before the job is acknowledged, so a crash at any point
means a second delivery and never a lost part; a second verdict has the same id, and the gate acts once per id. Redis
and metrics come last, and may fail.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from patchline.broker.base import TRIED, Broker, Consumer, Delivery, Message, NotConfirmed, tried
from patchline.inspection import picture
from patchline.inspection.inspector import Inspection, Inspector
from patchline.protocol import messages, topology
from patchline.protocol.errors import DeviceLostError, JobError, Reason, Retry, Unusable
from patchline.protocol.messages import Job, Verdict
from patchline.runtime.stopwatch import Stopwatch
from patchline.worker.answer import Signature, verdict_message
from patchline.worker.metrics import Metrics
from patchline.worker.pulse import Pulse
from patchline.worker.recent import Recent
from patchline.worker.turns import Turns

_log = structlog.get_logger(__name__)
_IDLE_S = 0.2  # how soon a lane without work sees that it shall stop
_REFUSED_PAUSE_S = 0.5


class SuspectError(Exception):
    """The job was delivered before and nobody answered it: it may have ended its worker."""


@dataclass(frozen=True)
class Lane:
    """One thread of a worker. `step` does one turn; `run` repeats it until it shall stop.

    A lane that waits for the broker leaves its turn to inspect to another, so there are more lanes than turns. The lane
    of the suspects judges its jobs alone (see `patchline.protocol.topology.plant`); all others leave suspects to it.
    """

    signature: Signature
    inspectors: Mapping[str, Inspector]
    broker: Broker
    jobs: Consumer
    recent: Recent
    metrics: Metrics
    pulse: Pulse
    turns: Turns
    max_attempts: int
    stop: threading.Event
    of_suspects: bool = False
    pictures: str = "doubtful"

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
        self.pulse.beat()

    def _carry(self, delivery: Delivery) -> None:
        received_at = self.signature.clock_ms()
        stopwatch = Stopwatch(self.metrics.stage_took)
        try:
            verdict, seen = self._judge(delivery, received_at, stopwatch)
        except Unusable as error:
            self._answer_error(delivery, received_at, error)
            return
        except Retry as error:
            self._retry(delivery, received_at, error)
            return
        except SuspectError:
            self._set_apart(delivery, tried(delivery.message.headers) + 1)
            return
        except DeviceLostError:
            delivery.requeue()
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: a fault must not end the lane
            _log.exception("inspection crashed", job_id=delivery.message.message_id)
            crash = Retry(Reason.CRASHED, f"{type(error).__name__}: {error}")
            self._retry(delivery, received_at, crash)
            return
        if self._answer(delivery, verdict):
            self._keep_picture(verdict, seen)

    def _judge(self, delivery: Delivery, received_at: int, stopwatch: Stopwatch) -> tuple[Verdict, Inspection | None]:
        job = messages.parse_job(delivery.message)
        self.metrics.received(job.captured_at, received_at)
        known = self._known(job, delivery)
        if known is not None:
            return known, None
        if self._is_late(job):
            return self.signature.expired(job, delivery, received_at), None
        inspector = self._inspector(job)
        self._require_trial(delivery)
        with self.turns.alone() if self.of_suspects else self.turns.together():
            look = self.pictures == "all"
            found = inspector.inspect(delivery.message.body, job.content_type, stopwatch.stage, look)
        if self._is_late(job):
            return self.signature.expired(job, delivery, received_at), None
        verdict = self.signature.judged(job, delivery, received_at, inspector, found, stopwatch.durations_ms)
        return verdict, None if self.pictures == "none" else found

    def _answer(self, delivery: Delivery, verdict: Verdict) -> bool:
        if not self._publish(delivery, topology.VERDICTS, verdict.routing_key, verdict_message(verdict)):
            return False
        delivery.ack()
        _log.debug("verdict", job_id=verdict.job_id, decision=verdict.decision, trace=verdict.traceparent)
        self.metrics.answered(verdict, self.signature.clock_ms())
        self.recent.remember(verdict)
        return True

    def _keep_picture(self, verdict: Verdict, seen: Inspection | None) -> None:
        if seen is not None and seen.image is not None and seen.heat_map is not None:
            self.recent.keep_picture(verdict.job_id, picture.thumbnail(seen.image, seen.heat_map, seen.regions))

    def _answer_error(self, delivery: Delivery, received_at: int, error: JobError) -> None:
        verdict = self.signature.error(delivery, received_at, error)
        _log.warning("job cannot be judged", job_id=verdict.job_id, reason=error.reason, detail=error.detail)
        if self._publish(delivery, topology.DEAD, verdict.routing_key, self.signature.dead_letter(delivery, error)):
            self._answer(delivery, verdict)

    def _retry(self, delivery: Delivery, received_at: int, error: Retry) -> None:
        if delivery.attempt >= self.max_attempts:
            self._answer_error(delivery, received_at, error)
            return
        _log.warning("job failed", job_id=delivery.message.message_id, attempt=delivery.attempt, why=error.detail)
        self._set_apart(delivery, delivery.attempt)

    def _set_apart(self, delivery: Delivery, attempts: int) -> None:
        """To the end of the suspects, with its attempts written down.

        It may end us when it is judged there: so it keeps a turn until the broker has forgotten it here.
        """
        job = delivery.message
        suspect = replace(job, headers={**job.headers, TRIED: attempts})
        with self.turns.together():
            if self._publish(delivery, topology.SUSPECTS, delivery.routing_key, suspect):
                delivery.ack()
                self.jobs.flush()
                self.metrics.set_apart()

    def _require_trial(self, delivery: Delivery) -> None:
        """Raise where a job shall not be inspected: nobody knows how its last attempt ended, or it has had them all."""
        if delivery.again:
            raise SuspectError
        if delivery.attempt > self.max_attempts:
            raise Unusable(Reason.CRASHED, f"{self.max_attempts} workers ended while they held it")

    def _publish(self, delivery: Delivery, exchange: str, routing_key: str, answer: Message) -> bool:
        """Publish until it is confirmed; False when the job is no longer ours to acknowledge."""
        while not delivery.stale:
            try:
                with Stopwatch(lambda _, seconds: self.metrics.confirmed(seconds)).stage("confirm"):
                    self.broker.publish(exchange, routing_key, answer)
                return True
            except NotConfirmed as error:
                _log.warning("not confirmed", exchange=exchange, job_id=answer.message_id, why=str(error))
            self.pulse.beat()
            if self.stop.wait(_REFUSED_PAUSE_S):
                delivery.requeue()
                return False
        return False

    def _known(self, job: Job, delivery: Delivery) -> Verdict | None:
        """The verdict that an earlier delivery of this job was given; not where somebody wants it judged anew."""
        if delivery.attempt == 1 or messages.REPLAY in delivery.message.headers:
            return None
        return self.recent.known(job.job_id)

    def _inspector(self, job: Job) -> Inspector:
        if job.category not in self.inspectors:
            served = ", ".join(self.inspectors)
            raise Unusable(Reason.UNKNOWN_CATEGORY, f"category {job.category!r} is not served here; served: {served}")
        return self.inspectors[job.category]

    def _is_late(self, job: Job) -> bool:
        return job.deadline is not None and self.signature.clock_ms() > job.deadline
