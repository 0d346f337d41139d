"""The path of a job through a worker: take, inspect, publish, acknowledge.

A job is acknowledged only after RabbitMQ has confirmed its verdict. A crash at any point therefore causes a second
delivery, never a lost part. A second verdict has the same job id, and the gate acts once per id. The pictures for the
archive come after the verdict, and hold up no other job. The cache and the metrics come last, and may fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from patchline.broker.base import (
    PREVIOUS_ATTEMPTS,
    Broker,
    Consumer,
    Delivery,
    Message,
    NotConfirmed,
    Refused,
    TooLarge,
    Unanswered,
    Unroutable,
    previous_attempts,
)
from patchline.inspection import picture
from patchline.inspection.inspector import Inspection, Inspector
from patchline.protocol import messages, topology
from patchline.protocol.errors import DeviceLostError, JobError, Reason, Retry, Unusable
from patchline.protocol.messages import Job, Verdict
from patchline.runtime.dead_letter import without_image
from patchline.runtime.stopwatch import Stopwatch
from patchline.worker.give_back import give_back
from patchline.worker.heartbeats import Heartbeats
from patchline.worker.metrics import Metrics
from patchline.worker.pictures import PictureSender
from patchline.worker.shadow import Shadows
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock
from patchline.worker.verdict_cache import VerdictCache
from patchline.worker.verdict_factory import VerdictFactory, verdict_message

_log = structlog.get_logger(__name__)
_TAKE_TIMEOUT_S = 0.2  # an idle lane checks the stop event this often
_RETRY_PAUSE_S = 0.5


class SuspectError(Exception):
    """The job was delivered before, but not acknowledged: it may have crashed its worker."""


@dataclass(frozen=True)
class Lane:
    """One thread of a worker. It completes one job after the other.

    A lane releases the inspection lock before it waits for RabbitMQ. There are more lanes than shared holders of the
    lock, so the others keep inspecting.

    Attributes:
        in_hand: the deliveries that the lanes of a queue work on.
        pictures: which heat maps go into the cache, see `config.Worker`.
        archive: sends pictures to the archive; None: nobody keeps them.
        shadows: judge a share of the images once more, after their verdicts; None: there is no store of banks.
        stop: set when no more jobs arrive. Lanes then complete those that have arrived, and end.
    """

    jobs: Consumer
    inspectors: Mapping[str, Inspector]  # by category
    lock: SharedExclusiveLock
    broker: Broker
    verdicts: VerdictFactory
    cache: VerdictCache
    metrics: Metrics
    heartbeats: Heartbeats
    stop: threading.Event
    max_attempts: int
    pictures: str = "doubtful"
    archive: PictureSender | None = None
    shadows: Shadows | None = None
    in_hand: set[Delivery] = field(default_factory=set)

    def run(self) -> None:
        """Process jobs until the stop event is set and no job is left."""
        while self.step(_TAKE_TIMEOUT_S) or not self.stop.is_set():
            pass

    def step(self, timeout_s: float) -> bool:
        """Take one job, if one arrives in time, and complete it. Return False if none arrived."""
        delivery = self.jobs.take(timeout_s)
        if delivery is not None:
            self.in_hand.add(delivery)
            judged = self._process(delivery)
            self.in_hand.discard(delivery)
            if judged is not None and self.shadows is not None:
                self.shadows.judge(*judged, in_hand=len(self.in_hand))
        if self.archive is not None:
            self.archive.settle()
        self.heartbeats.beat()
        return delivery is not None

    def _process(self, delivery: Delivery) -> tuple[Verdict, Inspection | None] | None:
        """Complete a job. Return what was found if its verdict is confirmed, and not `error`."""
        received_at = self.verdicts.now_ms()
        try:
            verdict, inspection = self._inspect(delivery, received_at)
        except Unusable as error:
            self._dead_letter(delivery, received_at, error)
        except Retry as error:
            self._retry(delivery, received_at, error)
        except SuspectError:
            self._send_to_suspects(delivery, received_at, previous_attempts(delivery.message.headers) + 1)
        except DeviceLostError:
            delivery.requeue()
            raise
        except Exception as error:  # noqa: BLE001 - an unexpected error must not end the lane
            _log.exception("inspection crashed", job_id=delivery.message.message_id)
            crash = Retry(Reason.CRASHED, f"{type(error).__name__}: {error}")
            self._retry(delivery, received_at, crash)
        else:
            if self._publish_and_ack(delivery, verdict, inspection):
                self._save_picture(verdict, inspection)
                return verdict, inspection
        return None

    def _inspect(self, delivery: Delivery, received_at: int) -> tuple[Verdict, Inspection | None]:
        """Return the verdict on a job, and the inspection if there was one and its result is the verdict."""
        job = messages.parse_job(delivery.message)
        self.metrics.job_received(job.captured_at, received_at)
        cached = self._cached_verdict(job, delivery)
        if cached is not None:
            return cached, None
        if job.no_image is not None:
            return self.verdicts.no_image(job, delivery, received_at), None
        if self._is_expired(job):
            return self.verdicts.expired(job, delivery, received_at), None
        inspector = self._inspector(job)
        self._check_attempts(delivery)
        stopwatch = Stopwatch(self.metrics.observe_stage)
        with self._inspection_lock():
            inspection = inspector.inspect(
                delivery.message.body, job.content_type, stopwatch.stage, with_heat_map=self.pictures == "all"
            )
        if self._is_expired(job):
            return self.verdicts.expired(job, delivery, received_at), None
        durations_ms = stopwatch.durations_ms
        verdict = self.verdicts.inspected(job, delivery, received_at, inspector, inspection, durations_ms)
        return verdict, inspection

    def _publish_and_ack(self, delivery: Delivery, verdict: Verdict, inspection: Inspection | None = None) -> bool:
        if not self._publish(delivery, topology.VERDICTS, verdict.routing_key, verdict_message(verdict)):
            return False
        if self.archive is None or self.archive.send(delivery, verdict, inspection, self.heartbeats.beat):
            delivery.ack()
        _log.debug("verdict", job_id=verdict.job_id, decision=verdict.decision, trace=verdict.traceparent)
        self.metrics.verdict_confirmed(verdict, self.verdicts.now_ms())
        self.cache.save_verdict(verdict)
        return True

    def _publish(self, delivery: Delivery, exchange: str, routing_key: str, message: Message) -> bool:
        """Publish until RabbitMQ confirms. Return False if the job is no longer ours to acknowledge.

        Raises:
            TooLarge: RabbitMQ never takes the message.
            Unroutable: it is a dead letter, and there is no queue for it.
        """
        try:
            return self._publish_until_confirmed(delivery, exchange, routing_key, message)
        finally:
            self.metrics.backpressure.ended()

    def _publish_until_confirmed(self, delivery: Delivery, exchange: str, routing_key: str, message: Message) -> bool:
        publish = partial(self.broker.publish, exchange, routing_key, message)
        attempt: Callable[[], None] = publish
        while not delivery.stale:
            try:
                with Stopwatch(lambda _, seconds: self.metrics.observe_confirmation(seconds)).stage("confirm"):
                    attempt()
                return True
            except TooLarge:
                raise
            except NotConfirmed as error:
                if isinstance(error, Unroutable) and exchange == topology.DEAD:
                    raise
                attempt = error.wait if isinstance(error, Unanswered) else publish
                job_id = message.message_id
                _log.warning("message not confirmed, retrying", exchange=exchange, job_id=job_id, reason=str(error))
                if isinstance(error, Refused):
                    self.metrics.backpressure.refused(exchange)
            self.heartbeats.beat()
            if self.stop.wait(_RETRY_PAUSE_S):
                give_back(self.broker, [delivery])
                return False
        return False

    def _dead_letter(self, delivery: Delivery, received_at: int, error: JobError) -> None:
        verdict = self.verdicts.error(delivery, received_at, error)
        _log.warning("job cannot be inspected", job_id=verdict.job_id, reason=error.reason, detail=error.detail)
        if self._publish_dead_letter(delivery, verdict.routing_key, error):
            self._publish_and_ack(delivery, verdict)

    def _publish_dead_letter(self, delivery: Delivery, routing_key: str, error: JobError) -> bool:
        """Publish the dead letter of a job. What RabbitMQ never takes must not hold up the verdict.

        RabbitMQ may refuse a job that it has delivered, if its `max_message_size` was lowered meanwhile.
        """
        dead_letter = self.verdicts.dead_letter(delivery, error)
        job_id = dead_letter.message_id
        try:
            return self._publish(delivery, topology.DEAD, routing_key, dead_letter)
        except TooLarge as reason:
            _log.warning("image too large for a dead letter, sent without it", job_id=job_id, reason=str(reason))
        except Unroutable as reason:
            _log.error("no queue for dead letters, this one is lost", job_id=job_id, reason=str(reason))
        self.metrics.dead_letter_incomplete()
        try:
            return self._publish(delivery, topology.DEAD, routing_key, without_image(dead_letter))
        except (TooLarge, Unroutable):
            return not delivery.stale

    def _retry(self, delivery: Delivery, received_at: int, error: Retry) -> None:
        if delivery.attempt >= self.max_attempts:
            self._dead_letter(delivery, received_at, error)
            return
        job_id, attempt = delivery.message.message_id, delivery.attempt
        _log.warning("job failed, retrying", job_id=job_id, attempt=attempt, reason=error.reason, detail=error.detail)
        self._send_to_suspects(delivery, received_at, delivery.attempt)

    def _send_to_suspects(self, delivery: Delivery, received_at: int, attempts: int) -> None:
        """Move a job to the queue of the suspects, with the number of its attempts in a header.

        The lock is held until RabbitMQ has processed the acknowledgement. If the suspect is inspected in this process
        and crashes it before that, the job is delivered from both queues.
        """
        job = delivery.message
        suspect = replace(job, headers={**job.headers, PREVIOUS_ATTEMPTS: attempts})
        try:
            with self.lock.shared():
                if self._publish(delivery, topology.SUSPECTS, delivery.routing_key, suspect):
                    delivery.ack()
                    self.jobs.flush()
                    self.metrics.job_set_apart()
        except TooLarge as error:
            self._dead_letter(delivery, received_at, Unusable(Reason.IMAGE_OVER_LIMIT, str(error)))

    def _inspection_lock(self) -> AbstractContextManager[None]:
        return self.lock.shared()

    def _check_attempts(self, delivery: Delivery) -> None:
        if delivery.redelivered:
            raise SuspectError
        if delivery.attempt > self.max_attempts:
            raise Unusable(Reason.CRASHED, f"{self.max_attempts} workers crashed while they inspected it")

    def _cached_verdict(self, job: Job, delivery: Delivery) -> Verdict | None:
        """Return the verdict of an earlier delivery. A replayed job is always inspected again.

        A camera that was ended reports a part without an image, whose image may have got through before.
        """
        is_first = delivery.attempt == 1 and job.no_image is None
        if is_first or messages.REPLAY_HEADER in delivery.message.headers:
            return None
        return self.cache.get_verdict(job.job_id)

    def _inspector(self, job: Job) -> Inspector:
        if job.category not in self.inspectors:
            served = ", ".join(list(self.inspectors))
            raise Unusable(Reason.UNKNOWN_CATEGORY, f"category {job.category!r} is not served here; served: {served}")
        return self.inspectors[job.category]

    def _is_expired(self, job: Job) -> bool:
        return job.deadline is not None and self.verdicts.now_ms() > job.deadline

    def _save_picture(self, verdict: Verdict, inspection: Inspection | None) -> None:
        if self.pictures == "none" or inspection is None:
            return
        if inspection.image is not None and inspection.heat_map is not None:
            jpeg = picture.thumbnail(inspection.image, inspection.heat_map, inspection.regions)
            self.cache.save_picture(verdict.job_id, jpeg)


class SuspectLane(Lane):
    """The lane of the suspects. It inspects each one alone: a crash can then have no other cause.

    See `patchline.protocol.topology.plant` for the queue of the suspects.
    """

    def _inspection_lock(self) -> AbstractContextManager[None]:
        return self.lock.exclusive()
