"""The pictures of judged parts, on their way to the archive. They never hold up the line.

They have a connection of their own: a large image delays no verdict, and a refusal closes no channel of verdicts.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
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
_USUAL_S = 1.0  # every lane waits this long for RabbitMQ, and a few of them for
_PATIENCE_S = 10.0  # which is longer than a restart of the connection
_POLL_S = 0.1
_SHARE_OF_64_BITS = 2.0**64


class Loss(StrEnum):
    """Why a picture did not get to the archive."""

    FULL = "full"
    UNANSWERED = "unanswered"
    SKIPPED = "skipped"  # others are waiting in vain
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


class PictureSender:
    """Sends the pictures of the parts that the configuration names, once each. All methods are thread-safe.

    Args:
        broker: a connection of its own.
        rules: which pictures.
        patient: how many lanes at most wait for an answer that does not come. Others leave their pictures out then.
        metrics: what is counted.
    """

    def __init__(self, broker: Broker, rules: config.Pictures, patient: int, metrics: PictureMetrics) -> None:
        self._broker, self._rules, self._metrics = broker, rules, metrics
        self._patient, self._waiting = patient, 0
        self._lock = threading.Lock()

    def send(
        self, delivery: Delivery, verdict: Verdict, inspection: Inspection | None, beat: Callable[[], object]
    ) -> None:
        """Send the image of a job, and its heat map if there is one. Do nothing if they are not to be kept.

        It returns when RabbitMQ has confirmed them, or after a few seconds. What was not confirmed is left out and
        counted, unless the job will come again. `beat` is called while it waits.
        """
        if not delivery.message.body or not self._is_kept(verdict):
            return
        if self._waiting >= self._patient:
            self._lose(verdict, Loss.SKIPPED)
            return
        outgoing = [self._outgoing(*parts) for parts in _pictures(delivery, verdict, inspection)]
        try:
            confirmation = self._broker.publish_nowait(outgoing)
            if not self._wait(confirmation, delivery, beat):
                if not delivery.stale:
                    self._lose(verdict, Loss.UNANSWERED)
                return
            confirmation.result()
        except BrokerError as error:
            if delivery.stale:  # the worker ends, and has given the job back
                return
            self._lose(verdict, _loss(error))
        else:
            self._metrics.sent.inc(len(outgoing))

    def close(self) -> None:
        """Close the connection."""
        self._broker.close()

    def _is_kept(self, verdict: Verdict) -> bool:
        if verdict.decision is Decision.PASS:
            return is_sampled(verdict.job_id, self._rules.pass_share)
        return str(verdict.decision) in self._rules.decisions

    def _outgoing(self, fields: Picture, body: bytes) -> Outgoing:
        message = Message(
            body, fields.job_id, picture_message.PICTURE_TYPE, fields.content_type, headers=fields.headers()
        )
        return Outgoing(topology.PICTURES, fields.routing_key, message)

    def _wait(self, confirmation: Future[None], delivery: Delivery, beat: Callable[[], object]) -> bool:
        """Wait for an answer. Return False if there is none, or if RabbitMQ has taken the job back."""
        if _is_done(confirmation, _USUAL_S, delivery, beat):
            return True
        with self._lock:
            may_wait = self._waiting < self._patient
            self._waiting += may_wait
        done = may_wait and _is_done(confirmation, _PATIENCE_S, delivery, beat)
        with self._lock:
            self._waiting -= may_wait
        if not done:
            confirmation.cancel()
        return done

    def _lose(self, verdict: Verdict, reason: Loss) -> None:
        self._metrics.lost(reason)
        _log.error("pictures of a part left out of the archive", job_id=verdict.job_id, reason=str(reason))


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


def _is_done(confirmation: Future[None], timeout_s: float, delivery: Delivery, beat: Callable[[], object]) -> bool:
    until = time.monotonic() + timeout_s
    while (rest_s := until - time.monotonic()) > 0 and not delivery.stale:
        try:
            confirmation.exception(min(_POLL_S, rest_s))
        except FutureTimeout:
            beat()
            continue
        return True
    return False


def _loss(error: BrokerError) -> Loss:
    kinds: tuple[tuple[type[BrokerError], Loss], ...] = (
        (Refused, Loss.FULL),
        (TooLarge, Loss.TOO_LARGE),
        (Unroutable, Loss.UNROUTABLE),
    )
    return next((loss for kind, loss in kinds if isinstance(error, kind)), Loss.UNANSWERED)


def of_worker(
    settings: config.Config, connect: Callable[[config.Config], Broker], lanes: int, registry: Registry
) -> PictureSender | None:
    """Return the sender of a worker with a number of lanes. None if no pictures are to be kept.

    Args:
        settings: the configuration.
        connect: makes the connection. It is lost and found again faster than others: nothing waits for it long.
        lanes: a third of them may wait for an answer that does not come.
        registry: the registry of the worker's metrics.
    """
    if not settings.archive.pictures.sent:
        return None
    hasty = settings.broker.model_copy(update={"reconnect_max_s": min(0.5, settings.broker.reconnect_max_s)})
    broker = connect(settings.model_copy(update={"broker": hasty}))
    return PictureSender(broker, settings.archive.pictures, max(1, lanes // 3), PictureMetrics(registry))
