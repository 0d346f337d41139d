"""Where the parts of a line are, which of their actions still reach them, and which of them left unconfirmed.

Uses no connection and no clock. A part is known by the number that its PLC gave it at the trigger. Its way is measured
in counts of the encoder, through stops, changes of speed and reversals; without an encoder, in milliseconds since the
trigger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from patchline import config
from patchline.gate.tracker import (
    MISSED,
    NO_NUMBER,
    OTHER_CATEGORY,
    SUPERSEDED,
    UNANNOUNCED,
    Finding,
    Outcome,
    Part,
    Place,
)
from patchline.plc.register_map import NO_COUNT, Bin, PlcState
from patchline.plc.station import Confirmation, Report, Trigger
from patchline.protocol.gate_messages import Action, ActionRecord

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Sighting:
    """A part at the trigger."""

    count: int
    at: float
    category: int


class Belt:
    """The belt of one line. All times named `now` are seconds on a monotonic clock.

    Args:
        rules: where the arm and its sensor are.
        categories: the name of each product by its code on the PLC.
        remember: number of parts to remember; more than are between the trigger and the sensor.
    """

    def __init__(self, rules: config.BeltRules, categories: Mapping[int, str], remember: int) -> None:
        self._rules = rules
        self._categories = categories
        self._remember = remember
        self._count: int | None = None
        self._line_runs: bool | None = None
        self._triggered: OrderedDict[int, _Sighting] = OrderedDict()
        self._announced: OrderedDict[int, dict[str, float]] = OrderedDict()  # times by job, by part number
        self._superseded: OrderedDict[str, None] = OrderedDict()  # jobs of parts whose number belongs to a later one
        self._reported_at = float("-inf")
        self._unheard: OrderedDict[int, _Sighting] = OrderedDict()  # triggered, and not announced yet
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._awaited: OrderedDict[int, ActionRecord] = OrderedDict()  # parts that the sensor has not seen
        self._seen: OrderedDict[int, int] = OrderedDict()  # bins by part number
        self._findings: list[Finding] = []
        self._margins: list[float] = []
        self.rejects_in_row = self.missed_in_row = self.missed = self.escaped = 0

    @property
    def knows_places(self) -> bool:
        """True if the place of a part can be known."""
        return self._rules.arm is not None

    @property
    def stop_line(self) -> bool:
        """True if the line is to stop. The operator's restart of the line ends it."""
        limits = (
            (self._rules.stop_after_rejects, self.rejects_in_row),
            (self._rules.stop_after_missed, self.missed_in_row),
        )
        return any(0 < limit <= number for limit, number in limits)

    # What is heard

    def on_report(self, report: Report, now: float) -> None:
        """Take note of what the PLC says. A PLC that has started again has lost the parts that it knew."""
        self._count = report.count
        if report.restarted:
            for number in list(self._announced):
                self._supersede(number, now)
            self._awaited.clear()
        line_runs = PlcState.LINE_RUNS in report.state
        if line_runs and self._line_runs is False:
            self.rejects_in_row = self.missed_in_row = 0
        self._line_runs = line_runs
        for trigger in report.triggers:
            self._on_trigger(trigger, trigger.category or report.category, now)
        for confirmation in report.confirmations:
            self._on_confirmation(confirmation)
        self._reported_at = now

    def on_part(self, part: Part, now: float) -> None:
        """Take note of an announced part. One that was found to be unannounced stays refused."""
        if part.number is not None and part.job_id not in self._superseded:
            self._announce(part.number, part.job_id, now)

    def on_act_of_other(self, record: ActionRecord, now: float) -> None:
        """Take note of an action of another gate. It has heard of the part, whatever this gate has heard."""
        if record.number is not None and record.because != UNANNOUNCED:
            self._announce(record.number, record.job_id, now)
            self._refused.pop(record.number, None)

    def pardon(self, number: int) -> None:
        """Refuse a part no longer: it was announced before anything was done about it."""
        self._refused.pop(number, None)

    def on_done(self, record: ActionRecord, now: float) -> None:
        """Take note of an action that the arm has acknowledged."""
        rejected = record.action is Action.REJECT
        self.rejects_in_row = self.rejects_in_row + 1 if rejected else 0
        place = self.place(record, now)
        late = record.because == MISSED or place in (Place.PAST, Place.GONE)
        self.missed_in_row = self.missed_in_row + 1 if late else 0
        if record.number is None:
            return
        self._measure_margin(record, now)
        if late:
            self.missed += 1
            self._findings.append(Finding(Outcome.MISSED, record.number, record.job_id))
        if self._rules.sensor is not None and place is not Place.GONE:
            self._await_confirmation(record, record.number)

    # What is asked

    def place(self, part: Part, now: float) -> Place:
        """Return where a part is."""
        if part.job_id in self._superseded:
            return Place.GONE
        way, arm = self._way(part.number, part.encoder_count, now), self._rules.arm
        if way is None or arm is None:
            return Place.UNKNOWN
        if way < arm - self._rules.window:
            return Place.BEFORE
        if way <= arm:
            return Place.WINDOW
        return Place.PAST if way <= max(2 * arm, self._rules.sensor or 0) else Place.GONE

    def objection(self, part: Part) -> str | None:
        """Return why a part must not be accepted, whatever its verdict is. None: it may be."""
        if part.number is None:
            return NO_NUMBER
        if part.job_id in self._superseded:
            return SUPERSEDED
        if part.number in self._refused:
            return UNANNOUNCED
        sighting = self._triggered.get(part.number)
        if sighting is None or sighting.category == 0:
            return None
        return None if self._categories.get(sighting.category) == part.category else OTHER_CATEGORY

    def holds(self, part: Part, now: float) -> bool:
        """Return True if the action on a part has to wait until the part is in the window."""
        return self._rules.release == "window" and self.place(part, now) is Place.BEFORE

    def step(self, now: float) -> list[Finding]:
        """Return what was found since the last call. An unannounced part is found once, and refused from then on."""
        for number, sighting in list(self._unheard.items()):
            if now >= sighting.at + self._rules.announce_ms / 1000:
                del self._unheard[number]
                self._refused[number] = None
                self._findings.append(Finding(Outcome.UNANNOUNCED, number, count=sighting.count))
        self._trim(self._refused)
        for number, record in list(self._awaited.items()):
            way = self._way(number, record.encoder_count, now)
            overdue = way is not None and way > (self._rules.sensor or 0) + self._rules.sensor_window
            if overdue or len(self._awaited) > self._remember:
                del self._awaited[number]
                if record.action is Action.REJECT:
                    self._escape(number, record.job_id)
        findings, self._findings = self._findings, []
        return findings

    def take_margins(self) -> list[float]:
        """Return how far the parts were from the arm when their actions were done, as shares of the whole way."""
        margins, self._margins = self._margins, []
        return margins

    # Details

    def _on_trigger(self, trigger: Trigger, category: int, now: float) -> None:
        """Take note of a trigger. What was announced long before it was an earlier part: a PLC may count anew."""
        self._seen.pop(trigger.number, None)
        self._refused.pop(trigger.number, None)
        self._supersede(trigger.number, self._reported_at - self._rules.announce_ms / 1000)
        sighting = _Sighting(trigger.count, now, category)
        _put(self._triggered, trigger.number, sighting, self._remember)
        if trigger.number not in self._announced:
            self._unheard[trigger.number] = sighting

    def _announce(self, number: int, job_id: str, now: float) -> None:
        jobs = self._announced.get(number, {})
        _put(self._announced, number, {job_id: now} | jobs, self._remember)
        self._unheard.pop(number, None)

    def _supersede(self, number: int, announced_before: float) -> None:
        """Forget the parts of a number that were announced before a time. Nothing is to be done about them."""
        jobs = self._announced.pop(number, {})
        for job_id in [job_id for job_id, at in jobs.items() if at <= announced_before]:
            del jobs[job_id]
            self._superseded[job_id] = None
        self._trim(self._superseded)
        if jobs:
            self._announced[number] = jobs

    def _on_confirmation(self, confirmation: Confirmation) -> None:
        number = confirmation.number
        _put(self._seen, number, confirmation.bin, self._remember)
        record = self._awaited.pop(number, None)
        if record is not None:
            self._compare(record, number, confirmation.bin)

    def _measure_margin(self, record: ActionRecord, now: float) -> None:
        way, arm = self._way(record.number, record.encoder_count, now), self._rules.arm
        if way is not None and arm is not None:
            self._margins.append(1 - way / arm)

    def _await_confirmation(self, record: ActionRecord, number: int) -> None:
        if number in self._seen:
            self._compare(record, number, self._seen[number])
        else:
            self._awaited[number] = record

    def _compare(self, record: ActionRecord, number: int, seen_in: int) -> None:
        """Compare the bin of a part with what was to be done with it."""
        if record.action is Action.REJECT and seen_in != Bin.REJECT:
            self._escape(number, record.job_id)
        elif record.action is Action.ACCEPT and seen_in == Bin.REJECT:
            self._findings.append(Finding(Outcome.DIVERTED, number, record.job_id))

    def _escape(self, number: int, job_id: str) -> None:
        self.escaped += 1
        self._findings.append(Finding(Outcome.ESCAPED, number, job_id))

    def _way(self, number: int | None, count: int | None, now: float) -> int | None:
        """Return how far a part is from the trigger, in the unit of the rules. None if it is not known."""
        sighting = None if number is None else self._triggered.get(number)
        if self._rules.unit == "ms":
            announced = {} if number is None else self._announced.get(number, {})
            since = sighting.at if sighting is not None else min(announced.values(), default=None)
            return None if since is None else int((now - since) * 1000)
        if count is None and sighting is not None and sighting.count != NO_COUNT:
            count = sighting.count
        if count is None or self._count is None:
            return None
        return (self._count - count + 2**31) % 2**32 - 2**31  # the encoder wraps at 32 bits

    def _trim(self, items: OrderedDict[_Key, None]) -> None:
        while len(items) > self._remember:
            items.popitem(last=False)


def _put(parts: OrderedDict[int, _Value], number: int, value: _Value, remember: int) -> None:
    """Add a part, and forget the oldest ones."""
    parts.pop(number, None)
    parts[number] = value
    while len(parts) > remember:
        parts.popitem(last=False)
