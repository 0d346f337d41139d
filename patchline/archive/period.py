"""What the archive counts of a span of time, or of a batch: the figures of a report, before anything is made of them.

Everything is counted in the database. The rows that come back are groups, and the few parts that are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from patchline.archive.base import Record
from patchline.archive.ledger import GapKind


@dataclass(frozen=True, slots=True)
class Scope:
    """Which parts to count. None does not restrict. Times are epoch milliseconds.

    Attributes:
        since: the earliest time of the verdict; likewise of the announcement, the act and the outcome.
        until: the time before which it was.
        prefix: the beginning of the ids of the parts.
    """

    since: int
    until: int
    line: str | None = None
    category: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class VerdictCount:
    """First verdicts that have the same of everything that is named here.

    Attributes:
        bank: its version; of verdicts that do not say it, its name; empty if no bank has judged.
        replay: the jobs are replayed dead letters, whose parts have left the line long ago.
        first: the earliest decision.
        last: the latest one.
        review_low: the lowest threshold for a review, and so on; None without thresholds.
    """

    line: str
    category: str
    bank: str
    decision: str
    reason: str | None
    replay: bool
    parts: int
    first: int
    last: int
    review_low: float | None
    review_high: float | None
    fail_low: float | None
    fail_high: float | None


@dataclass(frozen=True, slots=True)
class StepCount:
    """First verdicts of a step of time, without replays. Steps are counted from 0."""

    step: int
    decision: str
    parts: int


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """What a worker has judged on a device."""

    worker: str
    device: str
    parts: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Announcements:
    """Announced parts, and how many of them have no verdict."""

    parts: int
    without_verdict: int


@dataclass(frozen=True, slots=True)
class ActCount:
    """Acts that are done. Two gates that have done the same on a part count once.

    Attributes:
        stale: the parts had probably left the line.
    """

    line: str
    action: str
    because: str
    stale: bool
    parts: int


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """What became of parts, if it is not what was to be expected."""

    line: str
    outcome: str
    parts: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A time without a verdict on a line."""

    line: str
    since: int
    until: int


class PeriodIndex(Protocol):
    """Counts what the archive has of a scope. All methods raise `patchline.archive.base.Unavailable`."""

    def extent(self, scope: Scope) -> tuple[int, int] | None:
        """Return the times of the first and the last verdict; None without any."""
        ...

    def has_more(self, scope: Scope, most: int) -> bool:
        """Return True if there are more than `most` verdicts, without counting further."""
        ...

    def verdicts(self, scope: Scope) -> list[VerdictCount]:
        """Return the counts of first verdicts, in the order of their names."""
        ...

    def further(self, scope: Scope) -> int:
        """Return how many verdicts differ from the first one on their job."""
        ...

    def steps(self, scope: Scope, width_ms: int) -> list[StepCount]:
        """Return the counts of the steps of this width that have any, in order."""
        ...

    def workers(self, scope: Scope) -> list[WorkerCount]:
        """Return who has judged, in the order of the names."""
        ...

    def worst(self, scope: Scope, most: int) -> list[Record]:
        """Return rejected parts, those the furthest above their threshold first, `most` at the most."""
        ...

    def missed(self, scope: Scope, most: int) -> list[Record]:
        """Return parts that passed and that people call a defect, the highest scores first, `most` at the most."""
        ...

    def announcements(self, scope: Scope) -> Announcements:
        """Return how many parts were announced."""
        ...

    def acts(self, scope: Scope) -> list[ActCount]:
        """Return the counts of acts that are done, in the order of their names."""
        ...

    def outcomes(self, scope: Scope, lines: Sequence[str]) -> list[OutcomeCount]:
        """Return the counts of outcomes on some lines, without what the sensor saw as it was to be expected.

        With a category or a prefix, only outcomes of announced parts count: others have neither.
        """
        ...

    def gaps(self, scope: Scope) -> dict[GapKind, int]:
        """Return how many jobs have each kind of gap: see `ledger.Ledger.gaps`."""
        ...

    def pauses(self, scope: Scope, line: str, longer_ms: int, most: int) -> list[Pause]:
        """Return times between two verdicts on a line that were longer than this, the longest first."""
        ...
