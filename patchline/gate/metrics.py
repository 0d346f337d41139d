"""The Prometheus metrics of a gate."""

from __future__ import annotations

from collections.abc import Callable, Collection

from patchline.gate.decide import NO_VERDICT, Gate
from patchline.gate.lease import Role
from patchline.protocol.gate_messages import Action, ActionRecord
from patchline.protocol.messages import UNKNOWN, Decision
from patchline.runtime import metrics
from patchline.runtime.metrics import Counter, Gauge, Histogram

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
        self._seconds = Histogram(
            "patchline_gate_act_seconds",
            "Time until the arm acknowledges.",
            ["line"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._offset = Gauge(
            "patchline_gate_clock_offset_seconds",
            "How far a sender's clock is behind the gate's.",
            ["line", "source", "host"],
            registry=registry,
        )
        values: dict[str, tuple[str, Callable[[], float]]] = {
            "serving": ("1 if this gate acts on its line, else 0.", lambda: role() is Role.SERVING),
            "blind": ("1 if this gate hears nothing of its line, else 0.", lambda: role() is Role.BLIND),
            "expected": ("Announced parts without a verdict.", lambda: gate.expected),
            "undone": ("Actions that are decided and not done.", lambda: gate.undone),
            "late_verdicts": ("Verdicts that came after the rejection of their part.", lambda: gate.late_verdicts),
        }
        for name, (text, value) in values.items():
            Gauge(f"patchline_gate_{name}", text, ["line"], registry=registry).labels(line).set_function(value)
        self._failures.labels(line)
        for category in self._categories:  # a series that starts at 1 would hide its first act from increase()
            for because in (*Decision, NO_VERDICT):
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

    def set_clock_offset(self, source: str, host: str, seconds: float) -> None:
        """Set how far a sender's clock is behind the gate's."""
        self._offset.labels(self._line, source, host).set(seconds)
