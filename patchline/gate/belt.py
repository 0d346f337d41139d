"""Where the parts of a line are, which of their actions still reach them, and which of them left unconfirmed.

Uses no connection and no clock. A part is known by the number that its PLC gave it at the trigger. Its way is measured
in counts of the encoder, through stops, changes of speed and reversals; without an encoder, in milliseconds since the
trigger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from patchline import config
from patchline.gate.confirmations import Confirmations, Confirmed
from patchline.gate.part_numbers import PartNumbers, Sighting, put
from patchline.gate.tracker import (
    MISSED,
    NO_NUMBER,
    OTHER_CATEGORY,
    SUPERSEDED,
    TOLD,
    UNANNOUNCED,
    UNATTENDED,
    Finding,
    Outcome,
    Part,
    Place,
)
from patchline.gate.unacted import Unacted, UnactedPart
from patchline.plc import encoder
from patchline.plc.pulse import Pulse
from patchline.plc.register_map import NO_COUNT, PlcState
from patchline.plc.station import Confirmation, Report, Trigger
from patchline.protocol.gate_messages import Action, ActionRecord

_BEHIND = (Place.PAST, Place.GONE)
_LEFT_S = 60.0  # if nobody knows where the arm is, a part has left the line after this time


@dataclass(frozen=True)
class _Moment:
    """A time, and the count of the encoder then. None: not known."""

    at: float
    count: int | None


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
        self._unacted = Unacted(rules.window if rules.unit == "counts" and rules.arm is not None else None)
        self._numbers = PartNumbers(rules.announce_ms / 1000, remember, self._unacted.is_same)
        self._reported_at = float("-inf")
        self._confirmations = Confirmations(remember, self._is_seen)
        self._pulse = Pulse()
        self._heard_since: _Moment | None = None  # the PLC has been read all the time, and its program has run
        self._attended_since: _Moment | None = None  # a gate has been able to act
        self._accepting = False
        self._is_heard_anew = False  # since the awaited parts were looked through, which takes time
        self._row: OrderedDict[int, None] = OrderedDict()  # parts that were rejected one after the other
        self._findings: list[Finding] = []
        self._margins: list[float] = []
        self.rejects_in_row = self.missed_in_row = self.missed = 0

    @property
    def escaped(self) -> int:
        """Number of rejected parts that were not seen in the reject bin."""
        return self._confirmations.escaped

    @property
    def knows_places(self) -> bool:
        """True if the place of a part can be known."""
        return self._rules.arm is not None

    @property
    def remembers(self) -> int:
        """Number of part numbers that mean the same part for as long as they are remembered."""
        return self._remember

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
        self._is_heard_anew = True
        if report.restarted:
            self._unacted.restart(now)
            self._numbers.supersede_all(now)
            self._confirmations.abandon()
        line_runs = PlcState.LINE_RUNS in report.state
        if line_runs and self._line_runs is False:
            self.rejects_in_row = self.missed_in_row = 0
            self._row.clear()
        self._line_runs = line_runs
        for number in report.overwritten:
            self._unacted.on_overwritten(number)
        for trigger in report.triggers:
            self._on_trigger(trigger, trigger.category or report.category, now)
        for confirmation in report.confirmations:
            self._confirmations.on_confirmation(confirmation)
        self._listen(report, now)
        if report.failure is None:  # else an earlier trigger may come with the next report
            self._reported_at = now

    def on_silence(self) -> None:
        """Take note that the PLC was not read."""
        self._is_heard_anew = True
        self._pulse.on_failure()
        self._confirmations.doubt()

    def on_part(self, part: Part, now: float) -> None:
        """Take note of an announced part. One that was found to be unannounced stays refused."""
        if part.number is not None and not self._numbers.is_superseded(part.job_id):
            self._numbers.on_announcement(part.number, part.job_id, now, _count(part.encoder_count))

    def on_act_of_other(self, record: ActionRecord, now: float) -> None:
        """Take note of an action of another gate. It has heard of the part, whatever this gate has heard."""
        if record.number is not None and record.because != UNANNOUNCED:
            self._numbers.on_announcement(record.number, record.job_id, now, _count(record.encoder_count))
            self._numbers.pardon(record.number)

    def pardon(self, number: int) -> None:
        """Refuse a part no longer: it was announced before anything was done about it."""
        self._numbers.pardon(number)

    def on_done(self, record: ActionRecord, now: float) -> None:
        """Take note of an action that the arm has acknowledged."""
        place = self.place(record, now)
        late = record.because in (MISSED, UNATTENDED) or (place in _BEHIND and record.because != TOLD)
        passed = record.because == UNATTENDED or self._passed(record, self._rules.arm, self._attended_since)
        unattended = late and passed
        if not unattended and not record.stale:  # what has left the line says nothing about it
            self._count_reject(record)
        if not unattended:
            self.missed_in_row = self.missed_in_row + 1 if late else 0
        if record.number is None:
            return
        if record.encoder_count is not None or not self._numbers.is_superseded(record.job_id):
            self._unacted.on_act(record.number, _count(record.encoder_count))
        self._measure_margin(record, now)
        if late:
            self.missed += not unattended
            outcome = Outcome.UNATTENDED if unattended else Outcome.MISSED
            self._findings.append(Finding(outcome, record.number, record.job_id))
        is_lost = record.because == UNATTENDED and place is Place.UNKNOWN
        if self._rules.sensor is not None and place is not Place.GONE and not is_lost:
            unheard = self._heard_since is not None and self._pulse.is_silent
            doubtful = unheard or self._may_have_passed_sensor(record)
            self._confirmations.on_done(record, record.number, doubtful)

    def _count_reject(self, record: ActionRecord) -> None:
        """Count the rejected parts in a row. A part with several images counts once."""
        if record.action is Action.ACCEPT:
            self.rejects_in_row = 0
            self._row.clear()
        elif record.number not in self._row:
            self.rejects_in_row += 1
            if record.number is not None:
                put(self._row, record.number, None, self._remember)

    # What is asked

    def place(self, part: Part, now: float) -> Place:
        """Return where a part is."""
        if self._numbers.is_superseded(part.job_id):
            return Place.GONE
        way, arm = self._way(part, _Moment(now, self._count)), self._rules.arm
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
        if self._numbers.is_superseded(part.job_id):
            return SUPERSEDED
        if self._numbers.is_refused(part.number):
            return UNANNOUNCED
        sighting = self._numbers.sighting(part.number)
        if sighting is None or sighting.category == 0:
            return None
        return None if self._categories.get(sighting.category) == part.category else OTHER_CATEGORY

    def holds(self, part: Part, now: float) -> bool:
        """Return True if the action on a part has to wait until the part is in the window."""
        return self._rules.release == "window" and self.place(part, now) is Place.BEFORE

    def step(self, now: float, accepting: bool = True, hearing: bool = True) -> list[Finding]:
        """Return what was found since the last call. An unannounced part is found once, and refused from then on.

        Args:
            now: the time.
            accepting: this gate may accept parts. What passes the arm before is rejected by the PLC.
            hearing: this gate hears its line. Another one does not know what was announced.
        """
        if self._count is not None and (self._attended_since is None or (accepting and not self._accepting)):
            self._attended_since = _Moment(now, self._count)
        self._accepting = accepting
        for number, sighting in self._numbers.take_unannounced(now) if hearing else ():
            self._findings.append(Finding(Outcome.UNANNOUNCED, number, count=sighting.count))
        findings, self._findings = self._findings, []
        if self._is_heard_anew:
            self._is_heard_anew = False
            findings += self._confirmations.step(self._is_overdue())
        return findings

    def take_margins(self) -> list[float]:
        """Return how far the parts were from the arm when their actions were done, as shares of the whole way."""
        margins, self._margins = self._margins, []
        return margins

    def take_confirmed(self) -> list[Confirmed]:
        """Return which parts the sensor saw since the last call."""
        return self._confirmations.take_confirmed()

    # Parts without an act

    def behind(self, now: float, most: int) -> list[UnactedPart]:
        """Return parts that have passed arm and sensor without an act of any gate, up to `most`."""
        limit = max(self._rules.arm or 0, self._rules.sensor or 0)
        moment = _Moment(now, self._count)

        def has_passed(number: int, sighting: Sighting) -> bool:
            if self._rules.arm is None:
                return now > sighting.at + _LEFT_S
            way = self._way_from(sighting, moment)
            return way is not None and way > limit

        return self._unacted.behind(has_passed, most)

    def take_former(self, now: float) -> list[UnactedPart]:
        """Return once each the parts without an act from before the PLC counted anew."""
        return self._unacted.take_former(now)

    def settle(self, part: UnactedPart) -> None:
        """Look for no act on a part any longer."""
        self._unacted.on_act(part.number, part.count)

    def jobs(self, number: int) -> list[str]:
        """Return the announced jobs of a part."""
        return self._numbers.jobs(number)

    def is_of(self, part: Part, unacted: UnactedPart) -> bool:
        """Return True if a job is one of a part. A PLC that counts anew gives its number to another part."""
        return part.number == unacted.number and self._unacted.is_same(_count(part.encoder_count), unacted.count)

    def is_result_of(self, count: int | None, result_count: int) -> bool:
        """Return True unless a result belongs to another part with the number of one that was triggered at `count`."""
        arm = self._rules.arm
        if count is None or count == NO_COUNT or result_count == NO_COUNT or arm is None:
            return True
        return self._unacted.is_same(encoder.wrap(count + arm), result_count)

    # Details

    def _on_trigger(self, trigger: Trigger, category: int, now: float) -> None:
        sighting = Sighting(trigger.count, now, category)
        self._confirmations.on_trigger(trigger.number)
        self._row.pop(trigger.number, None)
        self._unacted.on_trigger(trigger.number, sighting)
        self._numbers.on_trigger(trigger.number, sighting, self._reported_at)

    def _listen(self, report: Report, now: float) -> None:
        """Take note of whether the sensor is looked at."""
        was_silent, is_first = self._pulse.is_silent, self._heard_since is None
        if report.failure is None:
            self._pulse.on_report(report.heartbeat, now)
        else:
            self._pulse.on_failure()
        if was_silent and not self._pulse.is_silent:
            self._heard_since = _Moment(now, report.count)
        if is_first:
            self._confirmations.doubt(self._may_have_passed_sensor)
        elif was_silent or self._pulse.is_silent or report.lost:
            self._confirmations.doubt()

    def _is_seen(self, record: ActionRecord, seen: Confirmation) -> bool:
        """Return True unless a sensor, at the arm or behind it, has seen another part with the number of this one."""
        arm, sensor = self._rules.arm, self._rules.sensor
        if self._rules.unit == "ms" or None in (arm, sensor, record.encoder_count) or seen.count == NO_COUNT:
            return True
        way = encoder.difference(seen.count, _count(record.encoder_count))
        near = self._rules.window + self._rules.sensor_window
        return (arm or 0) - near <= way <= (sensor or 0) + near

    def _is_overdue(self) -> Callable[[ActionRecord], bool]:
        """Return the test whether a part is behind the sensor, and the PLC would have said so."""
        limit = (self._rules.sensor or 0) + self._rules.sensor_window
        moment = _Moment(self._pulse.heard_until, self._count)
        return lambda record: self._passed(record, limit, moment)

    def _may_have_passed_sensor(self, record: ActionRecord) -> bool:
        """Return True if a part may have passed the sensor before the PLC was heard."""
        return self._passed(record, (self._rules.sensor or 0) - self._rules.sensor_window, self._heard_since)

    def _passed(self, part: Part, distance: int | None, moment: _Moment | None) -> bool:
        """Return True if a part is known to have been farther than a distance at a moment."""
        way = None if moment is None else self._way(part, moment)
        return way is not None and distance is not None and way > distance

    def _measure_margin(self, record: ActionRecord, now: float) -> None:
        way, arm = self._way(record, _Moment(now, self._count)), self._rules.arm
        if way is not None and arm is not None:
            self._margins.append(1 - way / arm)

    def _way(self, part: Part, moment: _Moment) -> int | None:
        """Return how far a part is from the trigger at a moment, in the unit of the rules. None if it is not known."""
        sighting = self._numbers.sighting(part.number)
        if self._rules.unit == "ms":
            announced_at = self._numbers.announced_at(part.number)  # before a trigger that is read late
            times = [at for at in (announced_at, None if sighting is None else sighting.at) if at is not None]
            return int((moment.at - min(times)) * 1000) if times else None
        if part.encoder_count is None:
            return None if sighting is None else self._way_from(sighting, moment)
        return None if moment.count is None else encoder.difference(moment.count, part.encoder_count)

    def _way_from(self, sighting: Sighting, moment: _Moment) -> int | None:
        """Return how far a part is that was seen at the trigger."""
        if self._rules.unit == "ms":
            return int((moment.at - sighting.at) * 1000)
        if sighting.count == NO_COUNT or moment.count is None:
            return None
        return encoder.difference(moment.count, sighting.count)


def _count(count: int | None) -> int:
    return NO_COUNT if count is None else count
