"""Finds the parts on which a PLC has acted without the gate, and makes the records that are missing.

The PLC rejects by itself what it gets no result for, and it keeps the results of gates that were killed before they
could announce them. Nothing here tells the arm anything: what is recorded has been done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from patchline.gate.belt import Belt
from patchline.gate.decide import Gate
from patchline.gate.tracker import TOLD, UNATTENDED
from patchline.gate.unacted import UnactedPart
from patchline.plc import register_map as registers
from patchline.plc.register_map import NO_COUNT
from patchline.plc.station import Result, Station
from patchline.protocol.gate_messages import Action, ActionRecord
from patchline.protocol.messages import UNKNOWN

_MOST = 20  # parts at once: each takes a request to the PLC


def made_job_id(line: str, number: int, count: int) -> str:
    """Return the job id of a part without a job. All gates of the line make it in the same way."""
    return f"unannounced-{line}-{number}-{count}"


class Reckoner:
    """Compares what a gate has in hand with what the PLC has seen, and with what it was told.

    Args:
        line: the line.
        station: the PLC.
        belt: the places of the parts.
        gate: the parts in hand.
        now_ms: the wall clock.
    """

    def __init__(self, line: str, station: Station, belt: Belt, gate: Gate, now_ms: Callable[[], int]) -> None:
        self._line, self._station, self._belt, self._gate = line, station, belt, gate
        self._now_ms = now_ms

    def records(self, now: float, serving: bool) -> Iterator[ActionRecord]:
        """Yield the acts that nobody has recorded. Each is to be remembered before the next one is asked for.

        Args:
            now: the time.
            serving: this gate may accept parts. Another one only forgets the parts that have a result.

        Raises:
            PlcError: the PLC has not answered. The same parts come again.
        """
        if serving:
            yield from self._told_in_hand(now)
        for part in self._belt.behind(now, _MOST):
            made = made_job_id(self._line, part.number, part.count)
            jobs = self._jobs_in_hand(part)
            if not jobs or (jobs == [made] and not serving):  # a standby rejects it only if no other gate has acted
                yield from self._reckon(part, serving)
        for part in self._belt.take_former(now) if serving else ():
            job_id = made_job_id(self._line, part.number, part.count)
            if job_id not in self._gate.parts.acted and not self._jobs_in_hand(part):
                yield self._record(part, job_id, None)

    def _reckon(self, part: UnactedPart, serving: bool) -> Iterator[ActionRecord]:
        """Yield the act on a part that no gate is going to act on, unless it is known or another gate's to record."""
        jobs = [*self._belt.jobs(part.number), made_job_id(self._line, part.number, part.count)]
        result = self._result(part)
        if any(job_id in self._gate.parts.acted for job_id in jobs) or (result is not None and not serving):
            self._gate.drop_unannounced(part.number)
            self._belt.settle(part)
        elif serving:
            yield self._record(part, jobs[0], result)

    def _jobs_in_hand(self, part: UnactedPart) -> list[str]:
        """Return the jobs with which the gate is going to act on a part."""
        return [job.job_id for job in self._gate.parts.open_jobs() if self._belt.is_of(job, part)]

    def _told_in_hand(self, now: float) -> Iterator[ActionRecord]:
        """Yield what another gate has told the PLC about parts in hand. It was killed or cut off before it said so."""
        told = self._station.take_told()
        for part in self._gate.parts.open_jobs() if told else ():
            result = told.get(part.number or 0)
            if result is None or not self._belt.is_result_of(part.encoder_count, result.count):
                continue
            action = _action(result)
            if action is Action.REJECT or self._gate.stands_by_accept(part, now):
                yield self._act(part.job_id, part.category, part.part_id, part.number or 0, part.encoder_count, action)

    def _result(self, part: UnactedPart) -> Result | None:
        """Return what a gate has told the PLC about a part."""
        if part.count == NO_COUNT:
            return None  # its slot belongs to a later part
        result = self._station.told([part.number]).get(part.number)
        return result if result is not None and self._belt.is_result_of(part.count, result.count) else None

    def _record(self, part: UnactedPart, job_id: str, result: Result | None) -> ActionRecord:
        count = None if part.count == NO_COUNT else part.count
        action = None if result is None else _action(result)
        return self._act(job_id, UNKNOWN, f"number-{part.number}", part.number, count, action)

    def _act(
        self, job_id: str, category: str, part_id: str, number: int, count: int | None, told: Action | None
    ) -> ActionRecord:
        return ActionRecord(
            job_id=job_id,
            line=self._line,
            category=category,
            part_id=part_id,
            action=told or Action.REJECT,
            because=UNATTENDED if told is None else TOLD,
            stale=True,
            acted_at=self._now_ms(),
            number=number,
            encoder_count=count,
        )


def _action(result: Result) -> Action:
    return Action.ACCEPT if result.result is registers.Result.ACCEPT else Action.REJECT
