"""The parts that a PLC has triggered and on which no gate has acted, as far as is known. Uses no connection, no clock.

A PLC rejects what it gets no result for. So a part that nobody acts on is safe, but nobody knows of it: no gate ran, or
all that ran have missed its announcement, its verdict, or its trigger. A gate that can act has to record it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from patchline.gate.part_numbers import Sighting, put
from patchline.plc import encoder
from patchline.plc.register_map import NO_COUNT

_SETTLED_S = 10.0  # after a PLC has lost its memory: other gates may still say what they have done
_REMEMBER = 10_000  # parts: a gate that hears its PLC but not RabbitMQ acts on none of them


@dataclass(frozen=True)
class UnactedPart:
    """A part. `count` is the encoder's count at its trigger; NO_COUNT: not known."""

    number: int
    count: int = NO_COUNT


class Unacted:
    """Compares the triggers of a PLC with the acts of all gates.

    Args:
        near: counts that differ by no more than this belong to one part. None: counts say nothing.
    """

    def __init__(self, near: int | None) -> None:
        self._near = near
        self._open: OrderedDict[int, Sighting] = OrderedDict()
        self._overwritten: OrderedDict[int, None] = OrderedDict()
        self._former: list[UnactedPart] = []  # their numbers belong to later parts
        self._former_at = 0.0
        self._acted: OrderedDict[int, int] = OrderedDict()  # counts by number; their triggers have not been read

    def on_trigger(self, number: int, sighting: Sighting) -> None:
        """Take note of a trigger. The act on its part may have come before."""
        self._overwritten.pop(number, None)
        acted = number in self._acted and self.is_same(self._acted.pop(number), sighting.count)
        if not acted:
            put(self._open, number, sighting, _REMEMBER)

    def on_overwritten(self, number: int) -> None:
        """Take note of a part whose trigger was overwritten unread: it has left the belt."""
        if self._acted.pop(number, None) is None:
            put(self._overwritten, number, None, _REMEMBER)

    def on_act(self, number: int, count: int = NO_COUNT) -> None:
        """Take note that a gate has acted on a part, or that it is recorded."""
        self._former = [part for part in self._former if part.number != number or not self.is_same(part.count, count)]
        if self._overwritten.pop(number, self) is None:
            return
        sighting = self._open.get(number)
        if sighting is None:
            put(self._acted, number, count, _REMEMBER)
        elif self.is_same(count, sighting.count):
            del self._open[number]

    def restart(self, now: float) -> None:
        """Take note that the PLC counts anew: nothing reaches the parts before."""
        self._former_at = now
        self._former += [UnactedPart(number, sighting.count) for number, sighting in self._open.items()]
        self._former += [UnactedPart(number) for number in self._overwritten]
        self._open.clear()
        self._overwritten.clear()
        self._acted.clear()

    def take_former(self, now: float) -> list[UnactedPart]:
        """Return once each the parts from before the PLC counted anew, some time after that."""
        if now < self._former_at + _SETTLED_S:
            return []
        former, self._former = self._former, []
        return former[-_REMEMBER:]

    def behind(self, has_passed: Callable[[int, Sighting], bool], most: int) -> list[UnactedPart]:
        """Return parts that nothing reaches any more, oldest first, up to `most`."""
        parts = [UnactedPart(number) for number in self._overwritten]
        for number, sighting in self._open.items():
            if len(parts) >= most or not has_passed(number, sighting):
                break
            parts.append(UnactedPart(number, sighting.count))
        return parts[:most]

    def is_same(self, count: int, other: int) -> bool:
        """Return True unless two counts belong to different parts that had one number."""
        if self._near is None or NO_COUNT in (count, other):
            return True
        return abs(encoder.difference(count, other)) <= self._near
