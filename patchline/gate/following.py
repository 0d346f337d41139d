"""What a gate does with the PLC's side of its line: it hears the belt, and says what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from patchline import config
from patchline.gate.belt import Belt
from patchline.gate.decide import Gate, Permit
from patchline.gate.metrics import PlcMetrics
from patchline.gate.tracker import UNANNOUNCED, Finding, Outcome
from patchline.plc.register_map import PlcState
from patchline.plc.station import Report, Station
from patchline.plc.words import PlcError
from patchline.protocol.gate_messages import Action, ActionRecord, OutcomeRecord
from patchline.protocol.messages import UNKNOWN

_log = structlog.get_logger(__name__)
_PAUSE_AFTER_ERROR_S = 0.5


class Follower(Protocol):
    """What the service of a gate needs of its line's belt."""

    @property
    def stop_line(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    def step(self, now: float, permit: Permit) -> list[OutcomeRecord]: ...


class NoFollower:
    """The follower of a gate without a PLC."""

    stop_line = False
    counts: Mapping[str, int] = {}

    def step(self, now: float, permit: Permit) -> list[OutcomeRecord]:
        """See `Following.step`."""
        return []


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
        self._poll_s = settings.rules(line).poll_ms / 1000
        self._metrics, self._now_ms = metrics, now_ms
        self._poll_at = 0.0
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

    def step(self, now: float, permit: Permit) -> list[OutcomeRecord]:
        """Read what the PLC says, if `plc.poll_ms` are over.

        Args:
            now: the time.
            permit: what the lease allows. A standby finds the same, and keeps it to itself.

        Returns:
            What is to be published.
        """
        if now >= self._poll_at:
            self._poll_at = now + self._poll_s
            self._poll(now)
        for margin in self._belt.take_margins():
            self._metrics.margin(margin)
        findings = [(finding, self._job_id(finding)) for finding in self._belt.step(now, permit.accept)]
        for finding, job_id in findings:
            if finding.outcome is Outcome.UNANNOUNCED:
                self._gate.reject_unannounced(self._rejection(job_id, finding.number), now, permit.reject)
        return [self._publish(finding, job_id) for finding, job_id in findings if permit.reject]

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
        """Return the job of a part. An unannounced part gets an id that all gates of the line make in the same way."""
        return finding.job_id or f"unannounced-{self._line}-{finding.number}-{finding.count}"

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

    def _rejection(self, job_id: str, number: int) -> ActionRecord:
        return ActionRecord(
            job_id=job_id,
            line=self._line,
            category=UNKNOWN,
            part_id=f"number-{number}",
            action=Action.REJECT,
            because=UNANNOUNCED,
            acted_at=self._now_ms(),
            number=number,
        )
