"""The steps of a gate: hear one message, do one action. Clock, link and output are passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from patchline.broker.base import Delivery
from patchline.gate.clocks import ClockOffsets
from patchline.gate.decide import Gate, Heard
from patchline.gate.journal import Journal
from patchline.gate.lease import Lease, Role
from patchline.gate.memory import Memory
from patchline.gate.metrics import Metrics
from patchline.gate.outputs import Output, OutputError
from patchline.protocol import messages
from patchline.protocol.errors import Reason, Unusable
from patchline.protocol.gate_messages import (
    ACT_TYPE,
    PING_TYPE,
    Act,
    ActionRecord,
    ActState,
    Ping,
    parse_act,
    parse_ping,
)

_log = structlog.get_logger(__name__)
_TICK_S = 0.05  # upper bound of the delay of a rejection without a verdict
_CHECK_INTERVAL_S = 1.0
_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 5.0


class LineLink(Protocol):
    """What the service needs of `link.Link`."""

    def take(self, timeout_s: float) -> Delivery | None: ...
    def take_lease_pings(self) -> list[Ping]: ...
    def announce(self, act: Act) -> None: ...
    def declare_again(self) -> None: ...
    def take_queue_loss(self) -> bool: ...


class Service:
    """One gate at work.

    Args:
        line: the line of the gate.
        instance: the name of the gate.
        gate: the rules and their state.
        lease: which gate may act.
        link: the messages of the line.
        output: the arm.
        journal: what is intended and done.
        memory: what is expected and done.
        metrics: the metrics.
        clock: seconds of a clock that never steps and also counts suspended time.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        line: str,
        instance: str,
        gate: Gate,
        lease: Lease,
        link: LineLink,
        output: Output,
        journal: Journal,
        memory: Memory,
        metrics: Metrics,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._line, self._instance = line, instance
        self._gate, self._lease, self._link = gate, lease, link
        self._output, self._journal, self._memory = output, journal, memory
        self._metrics, self._clock, self._now_ms = metrics, clock, now_ms
        self._clocks = ClockOffsets()
        self._unsettled: dict[str, Delivery] = {}  # verdicts whose action is not done, by job id
        self._retry_at = self._check_at = clock()
        self._failures = 0
        self._role: Role | None = None
        self._held_last = lease.held_last

    def restore(self) -> None:
        """Restore the state of an earlier process. The remaining patience is never longer than a new one."""
        now, now_ms = self._clock(), self._now_ms()
        acted = self._memory.load_acted()
        known = {job_id for job_id, _ in acted}
        unsaved = [record for record in self._journal.done if record.job_id not in known]
        for record in unsaved:
            self._memory.save_action(record)
        acted += [(record.job_id, record.because) for record in unsaved]
        known.update(record.job_id for record in unsaved)
        intended = [record for record in self._journal.intended if record.job_id not in known]
        self._gate.restore(acted, intended, now)
        for expected in self._memory.load_expected():
            self._gate.on_part(expected.part, now, max(0, now_ms - expected.arrived_at) / 1000)

    def step(self) -> None:
        """Handle one delivery, if there is one, then do one action, if one is due and permitted."""
        delivery = self._link.take(0.0 if self._can_act() else _TICK_S)
        now = self._clock()
        if self._link.take_queue_loss():
            self._on_queue_loss()
        if delivery is not None:
            self._handle(delivery, now)
        for ping in self._link.take_lease_pings():
            self._lease.on_lease_ping(ping, now)
        self._update_role(now)
        if now >= self._retry_at:
            self._act(now)

    def _can_act(self) -> bool:
        """Return True if an action may be waiting."""
        return self._role is Role.SERVING and self._gate.undone > 0 and self._clock() >= self._retry_at

    # Hearing

    def _handle(self, delivery: Delivery, now: float) -> None:
        handlers = {messages.PART_TYPE: self._on_part, ACT_TYPE: self._on_act, PING_TYPE: self._on_ping}
        handler = handlers.get(delivery.message.type or "", self._on_verdict)
        try:
            settles_itself = handler(delivery, now)
        except Unusable as error:
            message_id = delivery.message.message_id
            _log.error("invalid message in the gate's queue", message_id=message_id, reason=error.detail)
            settles_itself = False
        if not settles_itself:
            self._memory.enqueue(delivery.ack)

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
            self._complete(act)
        return False

    def _on_part(self, delivery: Delivery, now: float) -> bool:
        part = messages.parse_announcement(delivery.message)
        self._check_line(part.line)
        current = self._lease.is_current(now)
        # Only a message from before the gate was current may have waited.
        age_s = 0.0 if current else self._gate.waited_s(part, self._now_ms())
        if current:
            self._observe_clock("publisher", self._line, part.captured_at, now)
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
        waited_s = self._gate.waited_s(verdict, self._now_ms())
        heard = self._gate.on_verdict(verdict, now, 0.0 if current else waited_s, waited_s)
        if heard is Heard.LATE:
            _log.warning("verdict too late", job_id=verdict.job_id, decision=verdict.decision)
        if not self._gate.is_undone(verdict.job_id):
            return False
        self._unsettled[verdict.job_id] = delivery
        return True

    def _check_line(self, line: str) -> None:
        if line != self._line:
            raise Unusable(Reason.MALFORMED_MESSAGE, f"line is {line!r}, but this is the gate of {self._line!r}")

    def _observe_clock(self, source: str, host: str, sent_at_ms: int, now: float) -> None:
        offset_s = self._clocks.observe(source, host, (self._now_ms() - sent_at_ms) / 1000, now)
        self._metrics.set_clock_offset(source, host, offset_s)

    # Acting

    def _act(self, now: float) -> None:
        permit = self._lease.permit(now)
        if self._lease.held_last != self._held_last:
            self._held_last = self._lease.held_last
            self._memory.save_held_last(self._held_last)
        record = self._gate.next_action(now, self._now_ms(), permit)
        try:
            if record is not None:
                self._perform(record)
            elif now >= self._check_at:
                self._check_at = now + _CHECK_INTERVAL_S
                self._output.check()
        except OutputError as error:
            self._on_fault(error, record)

    def _perform(self, record: ActionRecord) -> None:
        """Write the intent, act, remember, acknowledge the verdict: in this order."""
        self._gate.intend(record)
        self._journal.write_intent(record)
        self._announce(record, ActState.INTENDED)
        started = self._clock()
        self._output.act(record)
        self._journal.write_done(record)
        self._metrics.acted(record, self._clock() - started)
        self._failures = 0
        self._gate.done(record)
        self._announce(record, ActState.DONE)
        self._complete(record)
        self._journal.rotate(self._memory.enqueue)

    def _complete(self, record: ActionRecord) -> None:
        self._memory.save_action(record)
        self._settle(record.job_id)

    def _settle(self, job_id: str) -> None:
        delivery = self._unsettled.pop(job_id, None)
        if delivery is not None:
            self._memory.enqueue(delivery.ack)

    def _announce(self, record: ActionRecord, state: ActState) -> None:
        self._link.announce(Act(**record.model_dump(), gate=self._instance, state=state))

    def _on_fault(self, error: OutputError, record: ActionRecord | None) -> None:
        pause_s = min(_MAX_RETRY_S, _MIN_RETRY_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = self._clock() + pause_s
        self._metrics.act_failed()
        job_id = record.job_id if record else None
        _log.error("the arm has not acknowledged, retrying", job_id=job_id, reason=str(error), retry_in_s=pause_s)

    # Life

    def _update_role(self, now: float) -> None:
        role = self._lease.role(now)
        if role is Role.BLIND:
            self._link.declare_again()
        if role is not self._role:
            _log.info(f"gate is {role}", line=self._line, gate=self._instance, expected=self._gate.expected)
            self._role = role

    def forget_overdue(self, overdue_s: float) -> None:
        """Forget what another gate must have done long ago. Only a standby forgets, if another gate acted last."""
        if self._role is Role.STANDBY and not self._lease.held_last:
            self._forget(self._gate.forget_overdue(self._clock(), overdue_s))

    def _on_queue_loss(self) -> None:
        """Forget what another gate may have acted on: its acts were in the queue that is lost."""
        if self._lease.held_last:
            return
        forgotten = self._gate.forget_unpinned()
        if forgotten:
            _log.warning("the gate's queue was missing, parts are left to the other gate", parts=len(forgotten))
        self._forget(forgotten)

    def _forget(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            self._memory.forget_part(job_id)
            self._settle(job_id)
