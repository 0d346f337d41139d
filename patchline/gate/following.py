"""What a gate does with the PLC's side of its line: it hears the belt, and says what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import structlog

from patchline import config
from patchline.gate.belt import Belt
from patchline.gate.confirmations import Confirmed
from patchline.gate.decide import Gate, Permit
from patchline.gate.metrics import PlcMetrics
from patchline.gate.reckoner import Reckoner, made_job_id
from patchline.gate.tracker import UNANNOUNCED, Finding, Outcome
from patchline.plc.register_map import NO_COUNT, Bin, PlcState
from patchline.plc.station import Report, Station
from patchline.plc.words import PlcError
from patchline.protocol.gate_messages import Action, ActionRecord, ConfirmationRecord, OutcomeRecord
from patchline.protocol.messages import UNKNOWN

_log = structlog.get_logger(__name__)
_PAUSE_AFTER_ERROR_S = 0.5
_BINS: dict[int, str] = {Bin.GOOD: "good", Bin.REJECT: "reject"}
_OTHER_PERIODS = 10  # of the heartbeat: a gate that is silent for longer acts no more

Published = OutcomeRecord | ConfirmationRecord


class Follower(Protocol):
    """What the service of a gate needs of its line's belt."""

    @property
    def stop_line(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    def limit(self, permit: Permit, now: float) -> Permit: ...
    def step(self, now: float, permit: Permit, hearing: bool) -> list[Published]: ...
    def records(self, now: float, permit: Permit) -> Iterable[ActionRecord]: ...


class NoFollower:
    """The follower of a gate without a PLC."""

    stop_line = False
    counts: Mapping[str, int] = {}

    def limit(self, permit: Permit, now: float) -> Permit:
        """See `Following.limit`."""
        return permit

    def step(self, now: float, permit: Permit, hearing: bool) -> list[Published]:
        """See `Following.step`."""
        return []

    def records(self, now: float, permit: Permit) -> Iterable[ActionRecord]:
        """See `Following.records`."""
        return ()


class Following:
    """Follows one belt through its PLC.

    Args:
        line: the line.
        instance: the name of the gate.
        station: the PLC.
        belt: the places of the parts.
        gate: the rules and their state.
        settings: of PLCs.
        metrics: of the PLC.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        line: str,
        instance: str,
        station: Station,
        belt: Belt,
        gate: Gate,
        settings: config.Plc,
        metrics: PlcMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._line, self._instance = line, instance
        self._station, self._belt, self._gate, self._codes = station, belt, gate, settings.codes
        rules = settings.rules(line)
        self._poll_s, self._other_s = rules.poll_ms / 1000, _OTHER_PERIODS * rules.heartbeat_ms / 1000
        self._metrics, self._now_ms = metrics, now_ms
        self._reckoner = Reckoner(line, station, belt, gate, now_ms)
        self._poll_at = self._look_at = 0.0
        self._other_until = float("-inf")
        self._stands_back = False
        self._failed = False
        self._product = 0  # sequence number of the last product change
        self._unknown: set[int] = set()  # codes of products that were logged
        self._states = PlcState(0)

    @property
    def stop_line(self) -> bool:
        """True if the line is to stop."""
        return self._belt.stop_line

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts of the gate's header."""
        belt = self._belt
        return {"rejects_in_row": belt.rejects_in_row, "missed": belt.missed, "escaped": belt.escaped}

    def limit(self, permit: Permit, now: float) -> Permit:
        """Return what this gate may do beside another one that the PLC hears.

        A gate without RabbitMQ may reject what it expects, if it was the last one to act. If another one acts
        meanwhile, that one knows better. When it falls silent for ten heartbeats, this gate goes on.
        """
        if permit.accept or not permit.reject:
            self._stands_back = False
            return permit
        if now >= self._look_at:
            self._look_at = now + self._poll_s
            with contextlib.suppress(PlcError):
                if self._station.hears_ready_gate():
                    self._other_until = now + self._other_s
        stands_back = now < self._other_until
        if stands_back != self._stands_back:
            self._stands_back = stands_back
            event = "another gate acts, this one is blind and stands back" if stands_back else "no other gate acts"
            _log.warning(event, line=self._line, gate=self._instance)
        return Permit(accept=False, reject=not stands_back)

    def records(self, now: float, permit: Permit) -> Iterator[ActionRecord]:
        """Yield the acts on parts that have passed the arm, if nobody has recorded them. See `Reckoner.records`."""
        if self._failed:
            return
        with contextlib.suppress(PlcError):  # the next poll says so
            for record in self._reckoner.records(now, permit.accept):
                event = f"part {record.because}, recorded afterwards"
                _log.warning(event, line=self._line, number=record.number, job_id=record.job_id, action=record.action)
                yield record

    def step(self, now: float, permit: Permit, hearing: bool) -> list[Published]:
        """Read what the PLC says, if `plc.poll_ms` are over.

        Args:
            now: the time.
            permit: what the lease allows. A standby finds the same, and keeps it to itself.
            hearing: this gate hears its line. Another one does not know what was announced.

        Returns:
            What is to be published.
        """
        if now >= self._poll_at:
            self._poll_at = now + self._poll_s
            self._poll(now)
        for margin in self._belt.take_margins():
            self._metrics.margin(margin)
        findings = [(finding, self._job_id(finding)) for finding in self._belt.step(now, permit.accept, hearing)]
        for finding, job_id in findings:
            if finding.outcome is Outcome.UNANNOUNCED:
                self._gate.reject_unannounced(self._rejection(job_id, finding), now, permit.reject)
        confirmed = self._belt.take_confirmed()
        if not permit.reject:
            return []
        return [*map(self._confirm, confirmed), *(self._publish(finding, job_id) for finding, job_id in findings)]

    def _poll(self, now: float) -> None:
        try:
            report = self._station.poll()
        except PlcError as error:
            self._on_failure(str(error), now)
            return
        if self._failed and report.failure is None:
            _log.info("the PLC is read again", line=self._line)
            self._failed = False
        self._metrics.on_report(report, now)
        self._log_changes(report)
        self._belt.on_report(report, now)
        self._on_product(report)
        if report.failure is not None:
            self._on_failure(report.failure, now)

    def _on_failure(self, reason: str, now: float) -> None:
        self._poll_at = now + _PAUSE_AFTER_ERROR_S
        self._belt.on_silence()
        self._metrics.read_failed()
        if not self._failed:
            _log.error("the PLC is not read, retrying", line=self._line, reason=reason)
        self._failed = True

    def _log_changes(self, report: Report) -> None:
        changed = report.state ^ self._states
        for state in (PlcState.BIN_FULL, PlcState.WATCHDOG):
            if state in changed:
                event = "the PLC reports" if state in report.state else "the PLC reports no more"
                _log.warning(f"{event}: {state.name}", line=self._line)
        self._states = report.state
        if report.restarted:
            _log.warning("the PLC has started again, the parts that it knew are left to it", line=self._line)
        if report.lost:
            _log.error("triggers or confirmations were overwritten unread", line=self._line, lost=report.lost)

    def _on_product(self, report: Report) -> None:
        """Acknowledge a product change. An unknown product is not acknowledged: the PLC must not start it."""
        if report.restarted:
            self._product, self._unknown = 0, set()
        for code in {trigger.category or report.category for trigger in report.triggers} - {0, *self._codes}:
            self._on_unknown(code)
        if report.category_sequence == self._product:
            return
        self._product = report.category_sequence
        name = self._codes.get(report.category)
        if name is not None:
            _log.info("product change", line=self._line, category=name)
            self._station.acknowledge(report.category, report.category_sequence)
        elif report.category_sequence:  # else the PLC has started again
            self._unknown.discard(report.category)
            self._on_unknown(report.category)

    def _on_unknown(self, code: int) -> None:
        """Count an unknown code, and log it once until the PLC asks for it again. Its parts are rejected."""
        self._metrics.unknown_product()
        if code not in self._unknown:
            _log.error("the PLC names an unknown product; add it to plc.categories", line=self._line, code=code)
        self._unknown.add(code)

    def _job_id(self, finding: Finding) -> str:
        return finding.job_id or made_job_id(self._line, finding.number, finding.count)

    def _publish(self, finding: Finding, job_id: str) -> OutcomeRecord:
        _log.error(f"part {finding.outcome}", line=self._line, number=finding.number, job_id=job_id)
        self._metrics.found(finding.outcome)
        return OutcomeRecord(
            job_id=job_id,
            line=self._line,
            number=finding.number,
            outcome=finding.outcome,
            gate=self._instance,
            found_at=self._now_ms(),
        )

    def _confirm(self, seen: Confirmed) -> ConfirmationRecord:
        return ConfirmationRecord(
            job_id=seen.record.job_id,
            line=self._line,
            number=seen.number,
            bin=_BINS.get(seen.bin, UNKNOWN),
            gate=self._instance,
            found_at=self._now_ms(),
        )

    def _rejection(self, job_id: str, finding: Finding) -> ActionRecord:
        return ActionRecord(
            job_id=job_id,
            line=self._line,
            category=UNKNOWN,
            part_id=f"number-{finding.number}",
            action=Action.REJECT,
            because=UNANNOUNCED,
            acted_at=self._now_ms(),
            number=finding.number,
            encoder_count=None if finding.count == NO_COUNT else finding.count,
        )
