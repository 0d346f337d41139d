"""The pictures of judged parts, on their way to the archive. They never hold up the line.

They have a connection of their own: a large image delays no verdict, and a refusal closes no channel of verdicts. If
RabbitMQ does not answer, the lane goes on, and the job is acknowledged once its pictures are confirmed. So if the
worker ends meanwhile, the job comes again, and its pictures are sent again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from enum import StrEnum

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, Delivery, Message, Outgoing, Refused, TooLarge, Unroutable
from patchline.inspection import picture
from patchline.inspection.inspector import Inspection
from patchline.protocol import picture_message, topology
from patchline.protocol.messages import Decision, Verdict
from patchline.protocol.picture_message import Picture
from patchline.runtime.metrics import Counter, Registry

_log = structlog.get_logger(__name__)
_USUAL_S = 1.0  # a lane waits this long for RabbitMQ, and the acknowledgement of its job for
_PATIENCE_S = 30.0  # which is longer than an alarm, a slow disk, or a restart of the connection
_LONG_S = 10.0  # no lane waits at all for a queue that has given no answer for this long
_POLL_S, _ROOM_S = 0.1, 0.01
_CLOSE_S = 2.0
_SHARE_OF_64_BITS = 2.0**64


class Loss(StrEnum):
    """Why a picture did not get to the archive."""

    FULL = "full"
    UNANSWERED = "unanswered"
    SKIPPED = "skipped"  # too many others wait for an answer
    TOO_LARGE = "too_large"
    UNROUTABLE = "unroutable"


class PictureMetrics:
    """Counts the pictures of a worker."""

    def __init__(self, registry: Registry) -> None:
        text = "Pictures for the archive that RabbitMQ has confirmed."
        self.sent = Counter("patchline_pictures_sent", text, registry=registry)
        text = "Parts whose pictures were left out, by the reason."
        self._lost = Counter("patchline_pictures_lost", text, ("reason",), registry=registry)
        for reason in Loss:  # a series that starts at 1 would hide its first loss from increase()
            self._lost.labels(reason)

    def lost(self, reason: Loss) -> None:
        """Record that the pictures of a part were left out."""
        self._lost.labels(reason).inc()


@dataclass(eq=False)
class _Sent:
    """Pictures of a job on their way, and the time of `time.monotonic` at which they are given up."""

    delivery: Delivery
    verdict: Verdict
    outgoing: list[Outgoing]
    until: float
    confirmation: Future[None]


class PictureSender:
    """Sends the pictures of the parts that the configuration names, once each. All methods are thread-safe.

    Args:
        broker: a connection of its own.
        rules: which pictures.
        most: how many jobs at most wait for an answer that does not come. Others are acknowledged without pictures.
        metrics: what is counted.
    """

    def __init__(self, broker: Broker, rules: config.Pictures, most: int, metrics: PictureMetrics) -> None:
        self._broker, self._rules, self._metrics = broker, rules, metrics
        self._most = most
        self._waiting: list[_Sent] = []
        self._lock = threading.Lock()

    def send(
        self, delivery: Delivery, verdict: Verdict, inspection: Inspection | None, beat: Callable[[], object]
    ) -> bool:
        """Send the image of a job, and its heat map if there is one. Do nothing if they are not to be kept.

        It waits for RabbitMQ for a second at most. What is not confirmed in time is left out and counted, unless the
        job will come again. `beat` is called while it waits.

        Returns:
            True if the job is to be acknowledged. If False, `settle` acknowledges it later.
        """
        if not delivery.message.body or not self._is_kept(verdict):
            return True
        if not self._has_room(beat):
            self._lose(verdict, Loss.SKIPPED)
            return True
        outgoing = [self._outgoing(*parts) for parts in _pictures(delivery, verdict, inspection)]
        until = time.monotonic() + _PATIENCE_S
        sent = _Sent(delivery, verdict, outgoing, until, self._publish(outgoing))
        _wait(sent.confirmation, delivery, beat)
        if self._is_over(sent) or (not self._most and self._give_up(sent)):
            return True
        with self._lock:
            self._waiting.append(sent)
        return False

    def settle(self) -> None:
        """Acknowledge the jobs whose pictures have been confirmed since, or are given up. It does not wait."""
        if not self._waiting or not self._lock.acquire(blocking=False):
            return
        try:
            for sent in [sent for sent in self._waiting if self._is_over(sent)]:
                sent.delivery.ack()
                self._waiting.remove(sent)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Wait for answers for a moment, and close the connection. The jobs of the others come again."""
        until = time.monotonic() + _CLOSE_S
        while self._waiting and time.monotonic() < until:
            self.settle()
            time.sleep(_POLL_S)
        self._broker.close()

    def _has_room(self, beat: Callable[[], object]) -> bool:
        """Return True if a further job may wait. At the end of an outage all lanes come at once: wait for a second."""
        until = time.monotonic() + _USUAL_S
        self.settle()
        while 0 < self._most <= len(self._waiting):
            if time.monotonic() >= until or self._is_long_away():
                return False
            beat()
            time.sleep(_ROOM_S)
            self.settle()
        return True

    def _is_long_away(self) -> bool:
        oldest = next(iter(list(self._waiting)), None)
        return oldest is not None and oldest.until - time.monotonic() < _PATIENCE_S - _LONG_S

    def _publish(self, outgoing: list[Outgoing]) -> Future[None]:
        try:
            return self._broker.publish_nowait(outgoing)
        except BrokerError as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed

    def _is_over(self, sent: _Sent) -> bool:
        """Return True if nothing more is to be done. Publish again what was on a connection that is lost."""
        if sent.delivery.stale:  # the job comes again
            sent.confirmation.cancel()
            return True
        is_late = time.monotonic() >= sent.until
        if not sent.confirmation.done():
            return is_late and self._give_up(sent)
        error = sent.confirmation.exception()
        if error is None:
            self._metrics.sent.inc(len(sent.outgoing))
            return True
        loss = _loss(error)
        if loss is not Loss.UNANSWERED or is_late:
            return self._lose(sent.verdict, loss)
        sent.confirmation = self._publish(sent.outgoing)
        return False

    def _give_up(self, sent: _Sent) -> bool:
        """Wait for no answer any longer. What waits for a connection is forgotten: it would only fill the memory."""
        sent.confirmation.cancel()
        return self._lose(sent.verdict, Loss.UNANSWERED)

    def _is_kept(self, verdict: Verdict) -> bool:
        if verdict.decision is Decision.PASS:
            return is_sampled(verdict.job_id, self._rules.pass_share)
        return str(verdict.decision) in self._rules.decisions

    def _outgoing(self, fields: Picture, body: bytes) -> Outgoing:
        message = Message(
            body, fields.job_id, picture_message.PICTURE_TYPE, fields.content_type, headers=fields.headers()
        )
        return Outgoing(topology.PICTURES, fields.routing_key, message)

    def _lose(self, verdict: Verdict, reason: Loss) -> bool:
        self._metrics.lost(reason)
        _log.error("pictures of a part left out of the archive", job_id=verdict.job_id, reason=str(reason))
        return True


def is_sampled(job_id: str, share: float) -> bool:
    """Return True for a share of all jobs, and always the same for one job."""
    number = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big")
    return number < share * _SHARE_OF_64_BITS


def _pictures(delivery: Delivery, verdict: Verdict, inspection: Inspection | None) -> Iterator[tuple[Picture, bytes]]:
    def fields(kind: picture_message.Kind, body: bytes, content_type: str) -> Picture:
        return Picture(
            job_id=verdict.job_id,
            line=verdict.line,
            category=verdict.category,
            decision=str(verdict.decision),
            kind=kind,
            sha256=hashlib.sha256(body).hexdigest(),
            content_type=content_type,
        )

    image = delivery.message.body
    yield fields("image", image, picture_message.content_type_or_unknown(delivery.message.content_type)), image
    if inspection is not None and inspection.image is not None and inspection.heat_map is not None:
        png = picture.heat_map_png(inspection.image, inspection.heat_map, inspection.regions)
        yield fields("heat_map", png, "image/png"), png


def _wait(confirmation: Future[None], delivery: Delivery, beat: Callable[[], object]) -> None:
    until = time.monotonic() + _USUAL_S
    while (rest_s := until - time.monotonic()) > 0 and not delivery.stale:
        try:
            confirmation.exception(min(_POLL_S, rest_s))
        except FutureTimeout:
            beat()
            continue
        return


def _loss(error: BaseException) -> Loss:
    kinds: tuple[tuple[type[BrokerError], Loss], ...] = (
        (Refused, Loss.FULL),
        (TooLarge, Loss.TOO_LARGE),
        (Unroutable, Loss.UNROUTABLE),
    )
    return next((loss for kind, loss in kinds if isinstance(error, kind)), Loss.UNANSWERED)


def of_worker(
    settings: config.Config, connect: Callable[[config.Config], Broker], most: int, registry: Registry
) -> PictureSender | None:
    """Return the sender of a worker. None if no pictures are to be kept.

    Args:
        settings: the configuration.
        connect: makes the connection. It is lost and found again faster than others: nothing waits for it long.
        most: see `PictureSender`.
        registry: the registry of the worker's metrics.
    """
    if not settings.archive.pictures.sent:
        return None
    hasty = settings.broker.model_copy(update={"reconnect_max_s": min(0.5, settings.broker.reconnect_max_s)})
    broker = connect(settings.model_copy(update={"broker": hasty}))
    return PictureSender(broker, settings.archive.pictures, most, PictureMetrics(registry))
