"""What shadow banks say of parts, as rows of the archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shadowed:
    """The verdict on a part, and what a shadow would have said. A job has one row for each shadow, the first one.

    Attributes:
        shadow_version: the digest of the shadow.
        bank_version: the digest of the bank of the verdict.
        judged_at: when the shadow has judged, in epoch milliseconds.
        archived_at: when the archive has received it.
        document: the message, as it came.
    """

    job_id: str
    shadow_version: str
    line: str
    category: str
    part_id: str
    bank_version: str
    decision: str
    score: float
    shadow_decision: str
    shadow_score: float
    judged_at: int
    archived_at: int
    document: str


@dataclass(frozen=True, slots=True)
class ShadowSearch:
    """Which parts to compare. None does not restrict. Times are epoch milliseconds.

    Attributes:
        version: the digest of the shadow.
        since: the earliest time at which the shadow has judged.
        until: the time before which it has judged.
    """

    category: str
    version: str
    line: str | None = None
    since: int | None = None
    until: int | None = None

    def has(self, row: Shadowed) -> bool:
        """Return True if a row is one of these."""
        return (
            (row.category, row.shadow_version) == (self.category, self.version)
            and self.line in (None, row.line)
            and (self.since is None or row.judged_at >= self.since)
            and (self.until is None or row.judged_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class ShadowCount:
    """How many parts of a line had a pair of decisions, by the bank of their verdicts."""

    line: str
    bank_version: str
    decision: str
    shadow_decision: str
    parts: int
