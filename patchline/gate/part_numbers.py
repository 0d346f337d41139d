"""Which jobs belong to the part numbers of a PLC, and where it saw them. Uses no connection and no clock.

A PLC may use a number again. What was announced long before its trigger was an earlier part, and is superseded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from patchline.plc.register_map import NO_COUNT

_Key = TypeVar("_Key", int, str)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Sighting:
    """A part at the trigger: the count of the encoder, the time, and the code of its product."""

    count: int
    at: float
    category: int


class PartNumbers:
    """The numbers of the parts of one line. All times are seconds on a monotonic clock.

    Args:
        announce_s: a part that the PLC has triggered must be announced within this time.
        remember: number of parts to remember.
        is_same: returns True unless two counts of the encoder belong to different parts.
    """

    def __init__(self, announce_s: float, remember: int, is_same: Callable[[int, int], bool]) -> None:
        self._announce_s = announce_s
        self._remember = remember
        self._is_same = is_same
        self._former: dict[int, dict[str, tuple[float, int]]] = {}  # jobs from before the PLC counted anew
        self._triggered: OrderedDict[int, Sighting] = OrderedDict()
        self._announced: OrderedDict[int, dict[str, tuple[float, int]]] = OrderedDict()  # time and count by job
        self._superseded: OrderedDict[str, None] = OrderedDict()  # jobs
        self._unheard: OrderedDict[int, Sighting] = OrderedDict()  # triggered, and not announced yet
        self._refused: OrderedDict[int, None] = OrderedDict()

    def on_trigger(self, number: int, sighting: Sighting, reported_at: float) -> None:
        """Take note of a trigger. All triggers before `reported_at` were known then."""
        self.pardon(number)
        self._supersede(number, reported_at - self._announce_s)
        self._recover(number, sighting.count)
        put(self._triggered, number, sighting, self._remember)
        if number not in self._announced:
            self._unheard[number] = sighting

    def on_announcement(self, number: int, job_id: str, now: float, count: int = NO_COUNT) -> None:
        """Take note of an announced part, and of the encoder's count at its trigger."""
        put(self._announced, number, {job_id: (now, count)} | self._announced.get(number, {}), self._remember)
        self._unheard.pop(number, None)

    def supersede_all(self, now: float) -> None:
        """Forget all parts that are announced: the PLC has started again. Nothing is to be done about them.

        Some may have been announced after the start. Their triggers say so, by the encoder's count.
        """
        self._former = dict(self._announced)
        for number in list(self._announced):
            self._supersede(number, now)

    def is_superseded(self, job_id: str) -> bool:
        """Return True if the number of a job belongs to a later part."""
        return job_id in self._superseded

    def is_refused(self, number: int) -> bool:
        """Return True if a part was found to be unannounced."""
        return number in self._refused

    def pardon(self, number: int) -> None:
        """Refuse a part no longer."""
        self._refused.pop(number, None)

    def sighting(self, number: int | None) -> Sighting | None:
        """Return where the PLC saw a part at the trigger. None: it has not said so."""
        return None if number is None else self._triggered.get(number)

    def jobs(self, number: int) -> list[str]:
        """Return the announced jobs of a part."""
        return list(self._announced.get(number, {}))

    def announced_at(self, number: int | None) -> float | None:
        """Return when a part was announced first."""
        jobs = {} if number is None else self._announced.get(number, {})
        return min((at for at, _ in jobs.values()), default=None)

    def take_unannounced(self, now: float) -> list[tuple[int, Sighting]]:
        """Return the parts that were not announced in time. Each is found once, and refused from then on."""
        found = [item for item in self._unheard.items() if now >= item[1].at + self._announce_s]
        for number, _ in found:
            del self._unheard[number]
            put(self._refused, number, None, self._remember)
        return found

    def _supersede(self, number: int, announced_before: float) -> None:
        jobs = dict(self._announced.pop(number, {}))
        for job_id in [job_id for job_id, (at, _) in jobs.items() if at <= announced_before]:
            del jobs[job_id]
            put(self._superseded, job_id, None, self._remember)
        if jobs:
            self._announced[number] = jobs

    def _recover(self, number: int, count: int) -> None:
        """Take back that the jobs of a part are superseded: they were announced after the PLC had started again."""
        for job_id, (at, announced) in self._former.pop(number, {}).items():
            if NO_COUNT not in (announced, count) and self._is_same(announced, count):
                self._superseded.pop(job_id, None)
                self.on_announcement(number, job_id, at, announced)


def put(items: OrderedDict[_Key, _Value], key: _Key, value: _Value, remember: int) -> None:
    """Add an item as the newest one, and forget the oldest ones."""
    items.pop(key, None)
    items[key] = value
    while len(items) > remember:
        items.popitem(last=False)
