"""The steps of a gate: handle one message, do one action. Clock, link and output are passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from patchline.broker.base import Delivery
from patchline.gate.decide import Gate, Permit
from patchline.gate.following import Follower, NoFollower
from patchline.gate.in_hand import retry_pause_s
from patchline.gate.inbox import Inbox
from patchline.gate.journal import Journal
from patchline.gate.lease import Lease, Role
from patchline.gate.memory import Memory
from patchline.gate.metrics import Metrics
from patchline.gate.outputs import Output, OutputError, OutputState
from patchline.gate.recovery import GateLink, Recovery
from patchline.protocol.gate_messages import Act, ActionRecord, ActState, Ping

_log = structlog.get_logger(__name__)
_TICK_S = 0.02  # upper bound of the delay of a rejection without a verdict, and of a heartbeat
_CHECK_INTERVAL_S = 1.0
_MAX_OVERDUE = 5000  # parts in a standby's hand, whose verdicts are unsettled deliveries; see `link.py`
_MAX_READ = 100  # deliveries before an action: a slow arm must not keep the gate from hearing its line


class LineLink(GateLink, Protocol):
    """What the service and its recovery need of `link.Link`."""

    def take(self, timeout_s: float) -> Delivery | None: ...
    def take_lease_pings(self) -> list[Ping]: ...
    def declare_again(self) -> None: ...
    def take_queue_loss(self) -> bool: ...
    def take_told(self) -> list[Act]: ...


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
        follower: the belt. None: nobody knows where the parts are.
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
        follower: Follower | None = None,
    ) -> None:
        self._line, self._instance = line, instance
        self._gate, self._lease, self._link = gate, lease, link
        self._output, self._journal, self._memory = output, journal, memory
        self._metrics, self._clock, self._now_ms = metrics, clock, now_ms
        self._follower = follower or NoFollower()
        self._inbox = Inbox(line, instance, gate, lease, memory, metrics, now_ms)
        self._recovery = Recovery(instance, gate, lease, link, self._inbox, now_ms)
        self._retry_at = self._check_at = clock()
        self._failures = 0  # in a row
        self._silent = False  # the arm does not take signs of life
        self._faulty = False  # it has not acknowledged the last action, or is known to be out of order
        self._failed_job: str | None = None
        self._role: Role | None = None
        self._held_last, self._has_partner = lease.held_last, lease.has_partner

    @property
    def arm_works(self) -> bool:
        """The arm has acknowledged the last action, and takes signs of life."""
        return self.arm_acknowledges and not self._silent

    @property
    def arm_acknowledges(self) -> bool:
        """The arm has acknowledged the last action, and is not known to be out of order."""
        return not self._faulty

    def restore(self) -> None:
        """Restore the state of an earlier process. The remaining patience is never longer than a new one."""
        now, now_ms = self._clock(), self._now_ms()
        acted = self._memory.load_acted()
        known = {job_id for job_id, _ in acted}
        unsaved = [record for record in self._journal.done if record.job_id not in known]
        for record in unsaved:
            self._memory.save_action(record.job_id, record.because)
        acted += [(record.job_id, record.because) for record in unsaved]
        known.update(record.job_id for record in unsaved)
        intended = [record for record in self._journal.intended if record.job_id not in known]
        self._gate.restore(acted, intended, now)
        for record in self._journal.done:
            self._gate.restore_image(record, now - max(0, now_ms - record.acted_at) / 1000)
        for expected in self._memory.load_expected():
            self._gate.on_part(expected.part, now, max(0, now_ms - expected.arrived_at) / 1000)
        for record in self._journal.untold:
            self._announce(record, ActState.DONE)

    def step(self) -> None:
        """Handle what has arrived, then do one action, if one is due and permitted."""
        timeout_s = 0.0 if self._can_act() else _TICK_S
        for _ in range(_MAX_READ):
            delivery = self._link.take(timeout_s)
            now, timeout_s = self._clock(), 0.0
            self._lease.on_step(now)
            if self._link.take_queue_loss():
                self._recovery.on_queue_loss(now)
            if delivery is None:
                break
            self._inbox.handle(delivery, now)
        for act in self._link.take_told():
            self._journal.write_told(act)
        for ping in self._link.take_lease_pings():
            self._lease.on_lease_ping(ping, now)
        self._recovery.step(now)
        self._update_role(now)
        permit = self._permit(now)
        for outcome in self._follower.step(now, permit, self._lease.is_current(now)):
            self._link.announce(outcome)
        if permit.reject:
            self._tell(now)
        for record in self._follower.records(now, permit):
            self._journal.write_done(record)
            self._conclude(record)
        self._act_for_a_while(now, permit)

    def _can_act(self) -> bool:
        """Return True if an action may be waiting."""
        now = self._clock()
        return self._role is Role.SERVING and now >= self._retry_at and self._gate.may_act(now)

    # Acting

    def _act_for_a_while(self, now: float, permit: Permit) -> None:
        """Act on the parts that are due, for as long as a step may take: results must not wait for the PLC's words."""
        until = now + _TICK_S
        while now >= self._retry_at and self._act(now, permit):
            now = self._clock()
            if now >= until:
                break
            permit = self._permit(now)

    def _permit(self, now: float) -> Permit:
        self._lease.on_step(now)  # this gate may have been stuck in a file or in its arm
        permit = self._follower.limit(self._lease.permit(now), now)
        if self._lease.held_last != self._held_last:
            self._held_last = self._lease.held_last
            self._memory.save_held_last(self._held_last)
        if self._lease.has_partner != self._has_partner:
            self._has_partner = self._lease.has_partner
            self._memory.save_has_partner(self._has_partner)
        return permit

    def _tell(self, now: float) -> None:
        """Tell the arm how this gate is."""
        state = OutputState(
            blind=self._role is Role.BLIND,
            busy=bool(self._gate.parts.expected or self._gate.parts.undone),
            faulty=now < self._retry_at,
            stop_line=self._follower.stop_line,
            counts=self._follower.counts,
        )
        try:
            self._output.tell(state)
        except OutputError as error:
            self._metrics.set_silent(True)
            if not self._silent:
                _log.error("the arm takes no sign of life, retrying", reason=str(error))
            self._silent = True
            return
        if self._silent:
            _log.info("the arm takes signs of life again")
            self._metrics.set_silent(False)
            self._silent, self._failures, self._retry_at = False, 0, now
            self._gate.parts.retry_now()

    def _act(self, now: float, permit: Permit) -> bool:
        """Do the next action, if there is one. Return False if nothing was done."""
        record = self._gate.next_action(now, self._now_ms(), permit)
        try:
            if record is not None:
                self._perform(record)
                return True
            if now >= self._check_at:
                self._check_at = now + _CHECK_INTERVAL_S
                self._output.check()
                self._faulty = self._faulty and bool(self._gate.parts.undone)
        except OutputError as error:
            self._on_fault(error, record)
        return False

    def _perform(self, record: ActionRecord) -> None:
        """Write the intent, act, remember, acknowledge the verdict: in this order.

        The disk may have taken its time to take the intent: what is not right any more is decided anew.
        """
        self._journal.write_intent(record)
        now = self._clock()
        if not self._gate.stands(record, now, self._permit(now)):
            return
        self._gate.parts.intend(record)
        self._announce(record, ActState.INTENDED)
        started = self._clock()
        self._output.act(record)
        self._journal.write_done(record)
        self._metrics.acted(record, self._clock() - started)
        self._failures, self._failed_job, self._faulty = 0, None, False
        self._conclude(record)

    def _conclude(self, record: ActionRecord) -> None:
        """Remember an action that is done, and say so."""
        self._gate.acted(record, self._clock())
        self._announce(record, ActState.DONE)
        self._inbox.complete(record.job_id, record.because)
        self._journal.rotate(self._memory.enqueue)

    def _announce(self, record: ActionRecord, state: ActState) -> None:
        self._link.announce(Act(**record.model_dump(), gate=self._instance, state=state))

    def _on_fault(self, error: OutputError, record: ActionRecord | None) -> None:
        now, self._faulty = self._clock(), True
        job_id = record.job_id if record else None
        pause_s = retry_pause_s(self._failures)
        if job_id is None or self._failed_job not in (None, job_id):  # the arm fails on more than one part
            self._retry_at = now + pause_s
        if job_id is not None:
            pause_s = max(self._gate.parts.postpone(job_id, now), self._retry_at - now)
        self._failures, self._failed_job = self._failures + 1, job_id
        self._metrics.act_failed()
        _log.error("the arm has not acknowledged, retrying", job_id=job_id, reason=str(error), retry_in_s=pause_s)

    # Life

    def _update_role(self, now: float) -> None:
        role = self._lease.role(now)
        if role is Role.BLIND:
            self._link.declare_again()
        if role is not self._role:
            self._role = role
            if role is not Role.STARTING:
                expected = self._gate.parts.expected
                _log.info(f"gate is {role}", line=self._line, gate=self._instance, expected=expected)

    def forget_overdue(self, overdue_s: float) -> None:
        """Forget what another gate must have done long ago, if it is much. A gate that acted last forgets nothing."""
        if self._role is Role.STANDBY and not self._lease.held_last:
            forgotten = self._gate.parts.forget_overdue(self._clock(), overdue_s, _MAX_OVERDUE)
            if forgotten:
                _log.error("no gate has said that it acted, parts are forgotten", line=self._line, parts=len(forgotten))
            self._inbox.forget(forgotten)
