"""Shadow banks: they judge a share of the images after the verdicts, and nobody acts on what they say.

A shadow has the recipe and the model of the bank that serves, so the features of the image are the same, and only the
search is repeated. (Of a large JPEG they are those of the serving bank, also if only one of the two reduces it.) What
a shadow says goes to the archive over a connection of its own, and may be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum

import structlog

from patchline.banks.version_log import SHORT
from patchline.broker.base import Broker, BrokerError, Message, Outgoing
from patchline.inspection.inspector import Inspection, Inspector
from patchline.protocol import topology
from patchline.protocol.messages import Verdict
from patchline.protocol.shadow_message import SHADOW_TYPE, ShadowJudgement
from patchline.runtime.metrics import Counter, Gauge, Registry
from patchline.worker.pictures import is_sampled
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock

_log = structlog.get_logger(__name__)
_MOST_UNCONFIRMED = 1000
_SALT = "shadow:"  # other jobs than those of which pictures are sampled


class Skipped(StrEnum):
    """Why a shadow has not judged an image of its share, or why nobody will know."""

    BUSY = "busy"  # jobs need the cores
    UNSENT = "unsent"  # RabbitMQ does not confirm, or the archive has no queue for it
    FAILED = "failed"


class ShadowMetrics:
    """What shadows do, by category."""

    def __init__(self, registry: Registry) -> None:
        text = "Images that a shadow bank has judged, too, and that RabbitMQ has confirmed."
        self._judged = Counter("patchline_shadow_judged", text, ["category"], registry=registry)
        text = "Images of a shadow's share of which the archive does not hear, by the reason."
        self._skipped = Counter("patchline_shadow_skipped", text, ["category", "reason"], registry=registry)
        text = "1 for the version of the memory bank that judges as a shadow."
        self._info = Gauge("patchline_shadow_bank_info", text, ["category", "version"], registry=registry)
        text = "1 if the shadow of the bank store cannot be loaded, else 0."
        self._not_loaded = Gauge("patchline_shadow_bank_not_loaded", text, ["category"], registry=registry)

    def judged(self, category: str) -> None:
        """Record an image that a shadow has judged."""
        self._judged.labels(category).inc()

    def skipped(self, category: str, reason: Skipped) -> None:
        """Record an image that is missing in the report."""
        self._skipped.labels(category, reason).inc()

    def loaded(self, category: str, version: str, before: str | None) -> None:
        """Record the shadow of a category, and which one it replaces."""
        self.ended(category, before)
        self._info.labels(category, version[:SHORT]).set(1)
        self._judged.labels(category)
        for reason in Skipped:  # a series that starts at 1 would hide its first increase
            self._skipped.labels(category, reason)

    def ended(self, category: str, version: str | None) -> None:
        """Record that a shadow has ended. None: there was none."""
        if version is not None:
            self._info.remove(category, version[:SHORT])

    def not_loaded(self, category: str, failed: bool) -> None:
        """Record whether the shadow of the store cannot be loaded."""
        self._not_loaded.labels(category).set(failed)


@dataclass(frozen=True)
class ShadowBank:
    """A shadow that is loaded.

    Attributes:
        share: of the images, above 0 and at most 1.
    """

    inspector: Inspector
    version: str
    share: float


class Shadows:
    """The shadows of a worker, by category. All methods are thread-safe.

    Args:
        broker: a connection of its own.
        lock: of the lanes. A shadow searches only beside fewer jobs than its spare places.
        metrics: what is counted.
        now_ms: the wall clock.
    """

    def __init__(
        self, broker: Broker, lock: SharedExclusiveLock, metrics: ShadowMetrics, now_ms: Callable[[], int]
    ) -> None:
        self._broker, self._lock, self.metrics, self._now_ms = broker, lock, metrics, now_ms
        self._banks: dict[str, ShadowBank] = {}
        self._unconfirmed, self._counting = 0, threading.Lock()

    def get(self, category: str) -> ShadowBank | None:
        """Return the shadow of a category."""
        return self._banks.get(category)

    def set(self, category: str, bank: ShadowBank | None) -> None:
        """Let a shadow judge from now on; None: none."""
        before = self._banks.get(category)
        version = None if before is None else before.version
        if bank is None:
            self._banks.pop(category, None)
            self.metrics.ended(category, version)
        else:
            self._banks[category] = bank
            self.metrics.loaded(category, bank.version, version)

    def judge(self, verdict: Verdict, inspection: Inspection | None, in_hand: int) -> None:
        """Judge an image whose verdict is confirmed, if it is one of the share. It never waits, and raises nothing.

        Args:
            verdict: is confirmed, and its job acknowledged.
            inspection: with the features; None if there was none.
            in_hand: the number of jobs that the lanes work on now, or that wait for a lane.
        """
        bank = self._banks.get(verdict.category)
        if bank is None or inspection is None or inspection.patches is None or verdict.replay:
            return
        if verdict.bank_version in (None, bank.version) or not is_sampled(_SALT + verdict.job_id, bank.share):
            return
        try:
            with self._lock.spare() as is_free:
                if not is_free or in_hand >= self._lock.spare_places:
                    self.metrics.skipped(verdict.category, Skipped.BUSY)
                    return
                decision, score = bank.inspector.judge(inspection.patches)
            judged = inspection.decision, inspection.score
            self._send(ShadowJudgement.beside(verdict, judged, bank.version, (decision, score), self._now_ms()))
        except Exception:  # noqa: BLE001 - nothing that a shadow does may end a lane
            _log.exception("shadow bank cannot judge", job_id=verdict.job_id)
            self.metrics.skipped(verdict.category, Skipped.FAILED)

    def close(self) -> None:
        """Close the connection."""
        self._broker.close()

    def _send(self, said: ShadowJudgement) -> None:
        """Publish without waiting for the confirmation."""
        with self._counting:
            if self._unconfirmed >= _MOST_UNCONFIRMED:
                self.metrics.skipped(said.category, Skipped.UNSENT)
                return
            self._unconfirmed += 1
        message = Message(said.to_json(), said.job_id, SHADOW_TYPE, "application/json")
        try:
            confirmation = self._broker.publish_nowait([Outgoing(topology.SHADOWS, said.routing_key, message)])
        except BrokerError:
            confirmation = Future()
            confirmation.cancel()
        confirmation.add_done_callback(lambda done: self._confirmed(said.category, done))

    def _confirmed(self, category: str, done: Future[None]) -> None:
        with self._counting:
            self._unconfirmed -= 1
        if done.cancelled() or done.exception() is not None:
            self.metrics.skipped(category, Skipped.UNSENT)
        else:
            self.metrics.judged(category)
