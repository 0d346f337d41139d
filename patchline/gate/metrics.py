"""The Prometheus metrics of a gate."""

from __future__ import annotations

from collections.abc import Callable, Collection

from patchline.gate.decide import NO_VERDICT, Gate
from patchline.gate.lease import Role
from patchline.gate.tracker import BELT_REASONS, Outcome
from patchline.plc.register_map import PlcState
from patchline.plc.station import Report
from patchline.protocol.gate_messages import Action, ActionRecord
from patchline.protocol.messages import UNKNOWN, Decision
from patchline.runtime import metrics
from patchline.runtime.metrics import Counter, Gauge, Histogram
from patchline.runtime.queue_keeper import QueueMetrics

_MARGINS = (-0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one gate process.

    Args:
        line: the line of the gate.
        gate: its state.
        role: returns what the gate is doing now.
        categories: the configured categories. All others are counted as `unknown`.
    """

    def __init__(self, line: str, gate: Gate, role: Callable[[], Role], categories: Collection[str]) -> None:
        self.registry = registry = metrics.Registry()
        self.queues = QueueMetrics(registry)
        self._line, self._categories = line, frozenset(categories)
        self._acts = Counter(
            "patchline_gate_acts",
            "Actions that the arm has acknowledged.",
            ["line", "category", "action", "because"],
            registry=registry,
        )
        self._failures = Counter(
            "patchline_gate_act_failures", "Actions that the arm has not acknowledged.", ["line"], registry=registry
        )
        self._journal_failures = _journal_failures(registry).labels(line)
        self._seconds = Histogram(
            "patchline_gate_act_seconds",
            "Time until the arm acknowledges.",
            ["line"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._silent = Gauge(
            "patchline_gate_output_silent", "1 if the arm takes no sign of life, else 0.", ["line"], registry=registry
        ).labels(line)
        self._offset = Gauge(
            "patchline_gate_clock_offset_seconds",
            "How far a sender's clock is behind the gate's.",
            ["line", "source", "host"],
            registry=registry,
        )
        values: dict[str, tuple[str, Callable[[], float]]] = {
            "serving": ("1 if this gate acts on its line, else 0.", lambda: role() is Role.SERVING),
            "blind": ("1 if this gate hears nothing of its line, else 0.", lambda: role() is Role.BLIND),
            "expected": ("Announced parts without a verdict.", lambda: gate.parts.expected),
            "undone": ("Actions that are decided and not done.", lambda: gate.parts.undone),
            "late_verdicts": ("Verdicts that came after the rejection of their part.", lambda: gate.late_verdicts),
        }
        for name, (text, value) in values.items():
            Gauge(f"patchline_gate_{name}", text, ["line"], registry=registry).labels(line).set_function(value)
        self._failures.labels(line)
        for category in self._categories:  # a series that starts at 1 would hide its first act from increase()
            for because in (*Decision, NO_VERDICT, *BELT_REASONS):
                if because is not Decision.PASS:
                    self._acts.labels(line, category, Action.REJECT, because)
            self._acts.labels(line, category, Action.ACCEPT, Decision.PASS)
            self._acts.labels(line, category, Action.ACCEPT, Decision.REVIEW)

    def acted(self, record: ActionRecord, seconds: float) -> None:
        """Record an action that the arm has acknowledged, and the time it took."""
        category = record.category if record.category in self._categories else UNKNOWN
        self._acts.labels(self._line, category, record.action, record.because).inc()
        self._seconds.labels(self._line).observe(seconds)

    def act_failed(self) -> None:
        """Record that the arm has not acknowledged."""
        self._failures.labels(self._line).inc()

    def journal_failed(self) -> None:
        """Record that the journal could not be written. For any thread."""
        self._journal_failures.inc()

    def show_name(self, gate: str, is_taken: Callable[[], bool]) -> None:
        """Show the name of the gate, and whether another one has it."""
        text = "1 if another gate of the line has this gate's name, else 0."
        gauge = Gauge("patchline_gate_name_taken", text, ["line", "gate"], registry=self.registry)
        gauge.labels(self._line, gate).set_function(is_taken)

    def set_silent(self, silent: bool) -> None:
        """Set whether the arm takes no sign of life."""
        self._silent.set(silent)

    def set_clock_offset(self, source: str, host: str, seconds: float) -> None:
        """Set how far a sender's clock is behind the gate's."""
        self._offset.labels(self._line, source, host).set(seconds)

    def forget_clock(self, source: str, host: str) -> None:
        """Show the offset of a sender no longer: it is gone, and an alert on its clock would never end."""
        self._offset.remove(self._line, source, host)


def _journal_failures(registry: metrics.Registry) -> Counter:
    text = "Lines that the gate's journal lacks, and new files of it that could not be made."
    return Counter("patchline_gate_journal_failures", text, ["line"], registry=registry)


class PlcMetrics:
    """The metrics of a gate's PLC, and of the belt.

    Args:
        registry: that of the gate.
        line: the line of the gate.
        clock: the clock of the gate, in seconds.
    """

    def __init__(self, registry: metrics.Registry, line: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heartbeat, self._changed_at = 0, clock()
        self._failures = Counter(
            "patchline_gate_plc_read_failures", "Reads of the PLC that failed.", ["line"], registry=registry
        ).labels(line)
        outcomes = Counter(
            "patchline_gate_outcomes",
            "Parts whose end was not as it should be.",
            ["line", "outcome"],
            registry=registry,
        )
        self._outcomes = {outcome: outcomes.labels(line, outcome) for outcome in Outcome}
        self._lost = Counter(
            "patchline_gate_plc_lost", "Triggers and confirmations overwritten unread.", ["line"], registry=registry
        ).labels(line)
        self._unknown_products = Counter(
            "patchline_gate_plc_unknown_products",
            "Product changes, and reports with triggers, whose code is not in plc.categories.",
            ["line"],
            registry=registry,
        ).labels(line)
        self._margins = Histogram(
            "patchline_gate_margin",
            "Way left before the arm when an action was done, as a share of the way from the trigger.",
            ["line"],
            buckets=_MARGINS,
            registry=registry,
        ).labels(line)
        self._runs = Gauge(
            "patchline_gate_line_runs", "1 if the PLC says that the line runs, else 0.", ["line"], registry=registry
        ).labels(line)
        age = Gauge(
            "patchline_gate_plc_heartbeat_age_seconds",
            "Time since the PLC's heartbeat changed.",
            ["line"],
            registry=registry,
        )
        age.labels(line).set_function(lambda: clock() - self._changed_at)

    def on_report(self, report: Report, now: float) -> None:
        """Record what the PLC says."""
        if report.heartbeat != self._heartbeat:
            self._heartbeat, self._changed_at = report.heartbeat, now
        self._runs.set(PlcState.LINE_RUNS in report.state)
        self._lost.inc(report.lost)

    def read_failed(self) -> None:
        """Record that the PLC has not answered."""
        self._failures.inc()

    def unknown_product(self) -> None:
        """Record that the PLC named a product that is not configured."""
        self._unknown_products.inc()

    def found(self, outcome: Outcome) -> None:
        """Record what became of a part."""
        self._outcomes[outcome].inc()

    def margin(self, share: float) -> None:
        """Record how far a part was from the arm."""
        self._margins.observe(share)
