"""The parts of a belt as a person sees them: where each one is, what was judged, and why it was rejected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from patchline.plant.ledger import Event
from patchline.plc import encoder
from patchline.plc.register_map import Bin, Code, Result
from patchline.protocol.messages import Decision, Thresholds, Verdict

_REASONS = {
    Code.EXPIRED: "its verdict came too late",
    Code.NO_VERDICT: "no verdict in time",
    Code.UNANNOUNCED: "no picture came from the camera",
    Code.MISSED: "the result came too late for the arm",
}


@dataclass
class BeltPart:
    """A part with a number.

    Attributes:
        number: the PLC's.
        count: the encoder's count when the part reached the camera.
        at: when it reached the camera.
        verdict: as RabbitMQ delivered it.
        result: what the PLC's program has read from the gate, and `code`, why.
        result_at: when it did.
        accepted: whether the arm lets it pass; None until it reaches the arm.
        because: why the PLC accepted nothing when the part reached the arm; None if it might.
        bin: where it lies.
        is_defect: what the label of the picture says; None until the part lies in a bin.
    """

    number: int
    count: int
    at: float
    verdict: Verdict | None = None
    result: Result | None = None
    code: Code = Code.OTHER
    result_at: float | None = None
    accepted: bool | None = None
    because: str | None = None
    bin: Bin | None = None
    is_defect: bool | None = None

    @property
    def reason(self) -> str:
        """Why it passes or not, in words."""
        if self.result is Result.ACCEPT and self.bin is Bin.REJECT:
            return f"passed, but the PLC rejects everything ({self.because})" if self.because else "passed too late"
        if self.result is Result.REJECT and self.code in _REASONS:
            return _REASONS[self.code]
        if self.verdict is None:
            return "accepted by the gate" if self.result is Result.ACCEPT else "no result for the PLC"
        if self.verdict.score is None or self.verdict.thresholds is None:
            return str(self.verdict.reason or "no score")
        return _judgement(self.verdict.decision, self.verdict.score, self.verdict.thresholds)


def _judgement(decision: Decision, score: float, thresholds: Thresholds) -> str:
    if decision is Decision.PASS:
        return f"looks good: score {score:.0f}, limit {thresholds.review:.0f}"
    if decision is Decision.REVIEW:
        fails = "never fails" if thresholds.trial else f"fails from {thresholds.fail:.0f}"
        return f"doubtful: score {score:.0f}, passes below {thresholds.review:.0f}, {fails}"
    return f"defect: score {score:.0f}, fails from {thresholds.fail:.0f}"


@dataclass
class BeltParts:
    """All parts so far, and the PLC.

    Attributes:
        parts: by number.
        finished: parts that lie in a bin, in that order.
        count: the encoder's count.
        heartbeats: when the PLC saw the gate's heartbeat change.
        objection: why the PLC accepts nothing; None if it may accept.
        lets_pass: the arm's coil has current.
        is_empty: no more parts come.
    """

    parts: dict[int, BeltPart] = field(default_factory=dict)
    finished: list[BeltPart] = field(default_factory=list)
    count: int = 0
    heartbeats: list[float] = field(default_factory=list)
    objection: str | None = "no heartbeat of the gate yet"
    lets_pass: bool = False
    is_empty: bool = False
    _number_of: dict[int, int] = field(default_factory=dict)

    def on_events(self, events: Iterable[Event]) -> None:
        """Take note of what the simulator recorded."""
        for event in events:
            handler = getattr(self, f"_on_{event['kind']}", None)
            if handler is not None:
                handler(event)

    def on_verdict(self, verdict: Verdict) -> None:
        """Take note of a verdict."""
        part = self.parts.get(verdict.number or 0)
        if part is not None:
            part.verdict = part.verdict or verdict

    def on_belt(self) -> list[BeltPart]:
        """Return the parts that lie in no bin yet."""
        return [part for part in self.parts.values() if part.bin is None]

    def in_bin(self, where: Bin) -> list[BeltPart]:
        """Return the parts in a bin."""
        return [part for part in self.finished if part.bin is where]

    def without_pass(self) -> list[BeltPart]:
        """Return the parts that should not lie in the good bin."""
        judged = [(part, part.verdict) for part in self.in_bin(Bin.GOOD)]
        return [part for part, verdict in judged if verdict is None or verdict.decision is not Decision.PASS]

    def passed_mm(self, part: BeltPart, counts_per_mm: int) -> float:
        """Return how far a part is behind the camera."""
        return encoder.difference(self.count, part.count) / counts_per_mm

    def _on_belt(self, event: Event) -> None:
        self.count = event["count"]

    def _on_trigger(self, event: Event) -> None:
        part = BeltPart(event["number"], event["count"], event["at"])
        self.parts[part.number], self._number_of[event["part"]] = part, part.number

    def _on_result(self, event: Event) -> None:
        part = self.parts[event["number"]]
        part.result, part.code = Result(event["result"]), Code(event["code"])
        part.result_at = part.result_at or event["at"]

    def _on_decision(self, event: Event) -> None:
        part = self.parts[event["number"]]
        part.accepted, part.because = event["accept"], self.objection

    def _on_withdrawn(self, event: Event) -> None:
        self.parts[event["number"]].accepted = False

    def _on_bin(self, event: Event) -> None:
        number = self._number_of.get(event["part"])
        if number is None:  # the PLC was away when the part came
            return
        part = self.parts[number]
        part.bin, part.is_defect = Bin(event["bin"]), Path(event["picture"]).parent.name != "good"
        self.finished.append(part)

    def _on_heartbeat(self, event: Event) -> None:
        self.heartbeats.append(event["at"])

    def _on_permit(self, event: Event) -> None:
        self.objection = event["because"]

    def _on_coil(self, event: Event) -> None:
        self.lets_pass = event["on"]

    def _on_empty(self, _: Event) -> None:
        self.is_empty = True
