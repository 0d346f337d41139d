"""What an archive of verdicts is: its rows, a search, and the errors that decide what happens to a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Unavailable(Exception):
    """The database does not answer, or takes nothing at the moment. Nothing is stored: try the same batch later."""


class TookTooLong(Unavailable):
    """The database has ended a query: it took more than `time_limit.LIMIT_S`. A question about less may be answered."""


class Unstorable(Exception):
    """The database can never store something in the batch. Nothing of the batch is stored."""


@dataclass(frozen=True, slots=True)
class Record:
    """A verdict as a row. Times are epoch milliseconds.

    Attributes:
        review_threshold: the score from which a part is reviewed.
        fail_threshold: the score from which a part fails.
        memory_bank: the name of the bank: its category and the first digits of the digest of its index.
        bank_version: the digest of the version of the bank, as `patchline banks list` shows it. None of verdicts that
            builds before it have sent or archived.
        number: the number by which the PLC knows the part.
        replay: the job is a replayed dead letter.
        archived_at: when the archive has received the verdict.
        document: the message, as it came. It has what a later build has added.
        digest: SHA-256 of the document, as hexadecimal digits.
    """

    job_id: str
    line: str
    category: str
    part_id: str
    decision: str
    reason: str | None
    detail: str | None
    score: float | None
    review_threshold: float | None
    fail_threshold: float | None
    backbone: str | None
    memory_bank: str | None
    bank_version: str | None
    device: str
    worker: str
    number: int | None
    captured_at: int | None
    received_at: int
    decided_at: int
    archived_at: int
    replay: bool
    document: str
    digest: str

    @property
    def is_trial(self) -> bool:
        """True if its bank was a trial, which fails no part whatever `fail_threshold` says: see `Thresholds`."""
        return (json.loads(self.document).get("thresholds") or {}).get("trial") is True


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message of the queue of the verdicts that is no verdict.

    Attributes:
        digest: SHA-256 of its id, type and body: another delivery of it has the same.
        reason: what is wrong with it.
        arrived_at: epoch milliseconds.
    """

    digest: str
    reason: str
    arrived_at: int
    message_id: str | None
    type: str | None
    routing_key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Saved:
    """What a batch has added.

    Attributes:
        verdicts: first verdicts on their jobs.
        further: verdicts that differ from the first one on their job.
        unreadable: messages that are no verdicts, or nothing of the ledger.
        announcements: see `patchline.archive.ledger`, as for the next ones.
        acts: intended, or done.
        outcomes: and confirmations.
        judgements: by people.
        shadows: what shadow banks say.
    """

    verdicts: int = 0
    further: int = 0
    unreadable: int = 0
    announcements: int = 0
    acts: int = 0
    outcomes: int = 0
    judgements: int = 0
    shadows: int = 0

    def __add__(self, other: Saved) -> Saved:
        return Saved(*(getattr(self, name) + getattr(other, name) for name in Saved.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Search:
    """Which verdicts to find. None, or nothing, does not restrict.

    Attributes:
        part: the id of the part.
        bank: the beginning of the digest of the bank's version or of its index, or of its name.
        since: the earliest time of the decision, in epoch milliseconds.
        until: the time before which it was made.
        min_score: the lowest score.
        max_score: the highest score.
        before: the decision time and the job of a verdict: only what follows it in the order of `Archive.find`.
        most: the number of verdicts at most.
    """

    part: str | None = None
    line: str | None = None
    category: str | None = None
    decisions: tuple[str, ...] = ()
    bank: str | None = None
    since: int | None = None
    until: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    most: int | None = None
    before: tuple[int, str] | None = None


def is_of_bank(record: Record, bank: str) -> bool:
    """Return True if a verdict is by a bank, which is named as in `Search`."""
    version, name = record.bank_version or json.loads(record.document).get("bank_version") or "", record.memory_bank
    digits = bank.lower()
    return version.startswith(digits) or (name is not None and (name.startswith(bank) or f"@{digits}" in name))


class Archive(Protocol):
    """A store of verdicts. All methods raise Unavailable."""

    def save(self, records: list[Record], unreadable: list[Unreadable]) -> Saved:
        """Store a batch in one transaction, which survives a power failure. What is there already is left as it is.

        The first verdict on a job is the one of its part. One with another content is kept beside it.

        Raises:
            Unstorable: something in it can never be stored.
        """
        ...

    def check(self) -> None:
        """Ask the database for a sign of life."""
        ...

    def get(self, job_id: str) -> Record | None:
        """Return the verdict on a job, or None."""
        ...

    def further(self, job_id: str) -> list[Record]:
        """Return the verdicts on a job that differ from its first one, in the order of their decisions."""
        ...

    def find(self, search: Search) -> Iterator[Record]:
        """Yield verdicts, the latest decision first, and those of the same time by their jobs."""
        ...

    def unreadable(self, most: int) -> list[Unreadable]:
        """Return messages that are no verdicts, the latest first, `most` at the most."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
