"""What the rules of a gate need to know of the belt. A gate without a PLC knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

from patchline.plc.register_map import NO_COUNT
from patchline.protocol.gate_messages import ActionRecord
from patchline.protocol.messages import Announcement, Verdict

NO_NUMBER = "no part number"
UNANNOUNCED = "unannounced"
OTHER_CATEGORY = "other category than the PLC's"
MISSED = "too late for the arm"
SUPERSEDED = "a later part has its number"
OTHER_IMAGE = "another image of the part"
UNATTENDED = "unattended"  # the PLC has rejected it by itself
TOLD = "told by another gate"  # the PLC has a result that no gate has announced
BELT_REASONS = (NO_NUMBER, UNANNOUNCED, OTHER_CATEGORY, MISSED, SUPERSEDED, OTHER_IMAGE)
Part = Announcement | Verdict | ActionRecord


class Place(Enum):
    """Where a part is on its way to the arm."""

    UNKNOWN = "unknown"
    BEFORE = "before"
    WINDOW = "window"
    PAST = "past"
    GONE = "gone"  # twice as far, or behind the sensor: nothing reaches it


class Outcome(StrEnum):
    """What became of a part, as far as it is not what was to be expected."""

    ESCAPED = "escaped"  # rejected, and the sensor has not seen it in the reject bin
    UNCONFIRMED = "unconfirmed"  # rejected, and the PLC was off or not read while it passed the sensor
    DIVERTED = "diverted"  # accepted, and seen in the reject bin
    MISSED = "missed"  # its action came too late for the arm
    UNATTENDED = "unattended"  # passed the arm, and no gate could act or knew of it: the PLC has rejected it
    UNANNOUNCED = "unannounced"  # seen by the PLC, and nobody announced it


@dataclass(frozen=True)
class Finding:
    """An outcome. `job_id` is None if the part was not announced; `count` is the encoder's count at its trigger."""

    outcome: Outcome
    number: int
    job_id: str | None = None
    count: int = NO_COUNT


class Tracker(Protocol):
    """What the rules of a gate need to know of the belt."""

    @property
    def knows_places(self) -> bool: ...
    @property
    def remembers(self) -> int: ...
    def place(self, part: Part, now: float) -> Place: ...
    def objection(self, part: Part) -> str | None: ...
    def holds(self, part: Part, now: float) -> bool: ...
    def on_part(self, part: Part, now: float) -> None: ...
    def on_done(self, record: ActionRecord, now: float) -> None: ...
    def on_act_of_other(self, record: ActionRecord, now: float) -> None: ...
    def pardon(self, number: int) -> None: ...


class NoBelt:
    """The tracker of a gate that knows nothing of the belt."""

    knows_places = False
    remembers = 0

    def place(self, part: Part, now: float) -> Place:
        """See `Belt`."""
        return Place.UNKNOWN

    def objection(self, part: Part) -> str | None:
        """See `Belt`."""
        return None

    def holds(self, part: Part, now: float) -> bool:
        """See `Belt`."""
        return False

    def on_part(self, part: Part, now: float) -> None:
        """See `Belt`."""

    def on_done(self, record: ActionRecord, now: float) -> None:
        """See `Belt`."""

    def on_act_of_other(self, record: ActionRecord, now: float) -> None:
        """See `Belt`."""

    def pardon(self, number: int) -> None:
        """See `Belt`."""
