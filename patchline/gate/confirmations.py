"""Which parts the sensor behind the arm has seen, and in which bin. Uses no connection and no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from patchline.gate.tracker import Finding, Outcome
from patchline.plc.register_map import Bin
from patchline.plc.station import Confirmation
from patchline.protocol.gate_messages import Action, ActionRecord

_MAX_IMAGES = 32  # of a part that are awaited together


@dataclass
class _Awaited:
    """A part that the sensor has not seen.

    Attributes:
        record: the last act on it.
        doubtful: it may have passed the sensor while nobody looked.
        others: the acts on its other images.
    """

    record: ActionRecord
    doubtful: bool
    others: tuple[ActionRecord, ...] = ()


@dataclass(frozen=True)
class Confirmed:
    """The sensor saw a part on which the arm was told to act, in `bin`."""

    record: ActionRecord
    number: int
    bin: int


class Confirmations:
    """Compares what was to be done with each part with the bin in which it was seen.

    Args:
        remember: number of parts to remember; more than are between the trigger and the sensor.
        is_of: returns True unless a part that was seen is another one, which had the same number.
    """

    def __init__(self, remember: int, is_of: Callable[[ActionRecord, Confirmation], bool]) -> None:
        self._remember = remember
        self._is_of = is_of
        self._awaited: OrderedDict[int, _Awaited] = OrderedDict()
        self._seen: OrderedDict[int, Confirmation] = OrderedDict()  # by part number
        self._findings: list[Finding] = []
        self._confirmed: list[Confirmed] = []
        self.escaped = 0

    def on_trigger(self, number: int) -> None:
        """Take note that another part has this number now."""
        self._seen.pop(number, None)

    def on_confirmation(self, confirmation: Confirmation) -> None:
        """Take note of what the sensor has seen."""
        number = confirmation.number
        self._seen.pop(number, None)
        self._seen[number] = confirmation
        while len(self._seen) > self._remember:
            self._seen.popitem(last=False)
        awaited = self._awaited.pop(number, None)
        if awaited is not None:
            others = (record for record in awaited.others if self._is_of(record, confirmation))
            self._confirmed += [Confirmed(record, number, confirmation.bin) for record in others]
            self._compare(awaited.record, number, confirmation.bin)

    def on_done(self, record: ActionRecord, number: int, doubtful: bool) -> None:
        """Await a part on which the arm has been told to act."""
        seen = self._seen.get(number)
        if seen is not None and self._is_of(record, seen):
            self._compare(record, number, seen.bin)
        else:
            former = self._awaited.get(number)
            others = () if former is None else (*former.others, former.record)[-_MAX_IMAGES:]
            self._awaited[number] = _Awaited(record, doubtful, others)

    def doubt(self, may_have_passed: Callable[[ActionRecord], bool] = lambda _: True) -> None:
        """Take note that nobody looked at the sensor: the awaited parts may have passed it unseen."""
        for awaited in self._awaited.values():
            awaited.doubtful = awaited.doubtful or may_have_passed(awaited.record)

    def abandon(self) -> None:
        """Await nothing any longer: the PLC has started again, and does not know the parts before."""
        self.doubt()
        for number, awaited in self._awaited.items():
            self._miss(number, awaited)
        self._awaited.clear()

    def step(self, is_overdue: Callable[[ActionRecord], bool]) -> list[Finding]:
        """Return what was found since the last call. The oldest parts are overdue if there are too many."""
        for number, awaited in list(self._awaited.items()):
            if is_overdue(awaited.record) or len(self._awaited) > self._remember:
                del self._awaited[number]
                self._miss(number, awaited)
        findings, self._findings = self._findings, []
        return findings

    def take_confirmed(self) -> list[Confirmed]:
        """Return what the sensor saw since the last call."""
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def _miss(self, number: int, awaited: _Awaited) -> None:
        if awaited.record.action is Action.REJECT:
            self._find(Outcome.UNCONFIRMED if awaited.doubtful else Outcome.ESCAPED, number, awaited.record)

    def _compare(self, record: ActionRecord, number: int, seen_in: int) -> None:
        self._confirmed.append(Confirmed(record, number, seen_in))
        if record.action is Action.REJECT and seen_in != Bin.REJECT:
            self._find(Outcome.ESCAPED, number, record)
        elif record.action is Action.ACCEPT and seen_in == Bin.REJECT:
            self._find(Outcome.DIVERTED, number, record)

    def _find(self, outcome: Outcome, number: int, record: ActionRecord) -> None:
        self.escaped += outcome is Outcome.ESCAPED
        self._findings.append(Finding(outcome, number, record.job_id))
