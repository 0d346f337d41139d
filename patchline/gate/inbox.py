"""What a gate hears: the handlers of the messages in its queue. Clock and files are passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from patchline.broker.base import Delivery
from patchline.gate.clocks import ClockOffsets
from patchline.gate.decide import Gate, Heard
from patchline.gate.lease import Lease
from patchline.gate.memory import Memory
from patchline.gate.metrics import Metrics
from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.gate_messages import (
    ACT_TYPE,
    PING_TYPE,
    SNAPSHOT_TYPE,
    SYNC_TYPE,
    ActState,
    parse_act,
    parse_ping,
    parse_snapshot,
    parse_sync_request,
)

_log = structlog.get_logger(__name__)


class Inbox:
    """Handles deliveries, and settles each once what it says is remembered or done.

    Args:
        line: the line of the gate.
        instance: the name of the gate.
        gate: the rules and their state.
        lease: which gate may act.
        memory: what is expected and done.
        metrics: the metrics.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        line: str,
        instance: str,
        gate: Gate,
        lease: Lease,
        memory: Memory,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._line, self._instance = line, instance
        self._gate, self._lease, self._memory = gate, lease, memory
        self._metrics, self._now_ms = metrics, now_ms
        self._clocks = ClockOffsets()
        self._unsettled: dict[str, Delivery] = {}  # verdicts whose action is not done, by job id
        self._asked = self._informed = False

    def handle(self, delivery: Delivery, now: float) -> None:
        """Handle one delivery of the gate's queue."""
        self._lease.on_delivery(now)
        handlers = {
            messages.PART_TYPE: self._on_part,
            ACT_TYPE: self._on_act,
            PING_TYPE: self._on_ping,
            SYNC_TYPE: self._on_sync_request,
            SNAPSHOT_TYPE: self._on_snapshot,
        }
        handler = handlers.get(delivery.message.type or "", self._on_verdict)
        try:
            settles_itself = handler(delivery, now)
        except Unusable as error:
            message_id = delivery.message.message_id
            _log.error("invalid message in the gate's queue", message_id=message_id, reason=error.detail)
            settles_itself = False
        if not settles_itself:
            self._memory.enqueue(delivery.ack)

    def take_request(self) -> bool:
        """Return True once after another gate has asked for a snapshot."""
        asked, self._asked = self._asked, False
        return asked

    def take_answer(self) -> bool:
        """Return True once after a snapshot of another gate was handled."""
        informed, self._informed = self._informed, False
        return informed

    def complete(self, job_id: str, because: str) -> None:
        """Remember that a gate has acted, then acknowledge the verdict."""
        self._memory.save_action(job_id, because)
        self._settle(job_id)

    def forget(self, job_ids: Iterable[str]) -> None:
        """Delete parts that are left to another gate, and acknowledge their verdicts."""
        for job_id in job_ids:
            self._memory.forget_part(job_id)
            self._settle(job_id)

    def _settle(self, job_id: str) -> None:
        delivery = self._unsettled.pop(job_id, None)
        if delivery is not None:
            self._memory.enqueue(delivery.ack)

    # Handlers return True if they settle the delivery themselves.

    def _on_ping(self, delivery: Delivery, now: float) -> bool:
        had_namesake = self._lease.has_namesake
        self._lease.on_queue_ping(parse_ping(delivery.message), now)
        delivery.ack()
        if self._lease.has_namesake and not had_namesake:
            advice = "give one of them another name with --instance"
            _log.error("another gate of this line has the same name", line=self._line, gate=self._instance, do=advice)
        return True

    def _on_act(self, delivery: Delivery, now: float) -> bool:
        act = parse_act(delivery.message)
        if act.gate == self._instance:
            delivery.ack()
            return True
        self._gate.on_act(act, now)
        if act.state is ActState.DONE:
            self.complete(act.job_id, act.because)
        return False

    def _on_sync_request(self, delivery: Delivery, _: float) -> bool:
        self._asked = self._asked or parse_sync_request(delivery.message).gate != self._instance
        return False

    def _on_snapshot(self, delivery: Delivery, now: float) -> bool:
        snapshot = parse_snapshot(delivery.message)
        if snapshot.gate == self._instance:
            return False
        self._informed = True
        for job_id, because in snapshot.acted:
            if self._gate.done(job_id, because):
                self.complete(job_id, because)
        waited_s = 0.0 if self._lease.is_current(now) else max(0, self._now_ms() - snapshot.sent_at) / 1000
        for open_part in snapshot.open:
            self._check_line(open_part.part.line)
            age_s = self._gate.on_open_part(open_part, now - waited_s)
            if age_s is not None:
                self._memory.save_part(open_part.part, self._now_ms() - int((age_s + waited_s) * 1000))
        return False

    def _on_part(self, delivery: Delivery, now: float) -> bool:
        part = messages.parse_announcement(delivery.message)
        self._check_line(part.line)
        current = self._lease.is_current(now)
        # Only a message from before the gate was current may have waited.
        age_s = 0.0 if current else self._gate.patience.waited_s(part, self._now_ms())
        if current:
            self._observe_clock("publisher", self._line, part.announced_at or part.captured_at, now)
        if self._gate.on_part(part, now, age_s):
            self._memory.save_part(part, self._now_ms() - int(age_s * 1000))
        return False

    def _on_verdict(self, delivery: Delivery, now: float) -> bool:
        verdict = messages.parse_verdict(delivery.message)
        self._check_line(verdict.line)
        if verdict.replay:
            _log.info("verdict of a replayed job, no action", job_id=verdict.job_id, decision=verdict.decision)
            return False
        current = self._lease.is_current(now)
        if current:
            self._observe_clock("worker", verdict.worker.split(":")[0], verdict.decided_at, now)
        waited_s = self._gate.patience.waited_s(verdict, self._now_ms())
        heard = self._gate.on_verdict(verdict, now, 0.0 if current else waited_s, waited_s)
        if heard is Heard.LATE and current:
            self._gate.late_verdicts += 1
            _log.warning("verdict too late", job_id=verdict.job_id, decision=verdict.decision)
        if not self._gate.parts.is_undone(verdict.job_id):
            return False
        first = self._unsettled.get(verdict.job_id)
        if first is not None and not first.stale:  # the first one decides, also after a crash
            return False
        self._unsettled[verdict.job_id] = delivery
        return True

    def _check_line(self, line: str) -> None:
        if line != self._line:
            raise Unusable(Reason.MALFORMED_MESSAGE, f"line is {line!r}, but this is the gate of {self._line!r}")

    def _observe_clock(self, source: str, host: str, sent_at_ms: int, now: float) -> None:
        offset_s = self._clocks.observe(source, host, (self._now_ms() - sent_at_ms) / 1000, now)
        self._metrics.set_clock_offset(source, host, offset_s)
        for gone in self._clocks.forget(now):
            self._metrics.forget_clock(*gone)
