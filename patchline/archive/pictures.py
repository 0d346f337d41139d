"""The rows of the archive about pictures, and an index of them in memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from patchline.archive.base import Unavailable

Key = tuple[str, str]  # job id and kind


@dataclass(frozen=True, slots=True)
class PictureRow:
    """A picture that is in the store.

    Attributes:
        kind: `image` or `heat_map`.
        digest: SHA-256 of the bytes, by which the store knows them.
        bytes: their number.
        stored_at: epoch milliseconds.
        decision: on the part, when the picture was sent.
        hold: why it is never deleted; None: it may be.
        leaving: it is being deleted.
    """

    job_id: str
    kind: str
    digest: str
    content_type: str
    bytes: int
    stored_at: int
    decision: str
    line: str
    category: str
    hold: str | None = None
    leaving: bool = False

    @property
    def key(self) -> Key:
        """What a row is known by."""
        return self.job_id, self.kind


class PictureIndex(Protocol):
    """The rows of pictures. All methods raise `patchline.archive.base.Unavailable`."""

    def known(self, job_ids: Sequence[str]) -> set[Key]:
        """Return which pictures of some jobs there are."""
        ...

    def add(self, rows: Sequence[PictureRow]) -> int:
        """Add rows in one transaction. The first picture of its kind of a job stays. Return the number of new ones.

        Raises:
            Unstorable: a row can never be stored. None of them is.
        """
        ...

    def of_job(self, job_id: str) -> list[PictureRow]:
        """Return the pictures of a job, by kind; without those that are leaving."""
        ...

    def kinds(self, job_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the kinds of pictures of those jobs that have any, in order; without those that are leaving."""
        ...

    def hold(self, job_id: str, reason: str | None) -> int:
        """Keep the pictures of a job whatever the rules say, or with None no longer. Return their number."""
        ...

    def bytes_by_decision(self) -> dict[str, int]:
        """Return how many bytes the pictures have."""
        ...

    def oldest(self, decision: str, before: int | None, most: int) -> list[PictureRow]:
        """Return the oldest pictures of a decision that may be deleted, without those that are leaving.

        Args:
            decision: of the parts.
            before: stored before this time, in epoch milliseconds; None: at any time.
            most: their number at most.
        """
        ...

    def leaving(self, most: int) -> list[PictureRow]:
        """Return pictures whose removal has begun, `most` at the most."""
        ...

    def begin_removal(self, rows: Sequence[PictureRow]) -> list[PictureRow]:
        """Mark rows as leaving, unless they are held meanwhile. Return those that are marked now."""
        ...

    def is_needed(self, digest: str) -> bool:
        """Return True if a row that stays has this digest."""
        ...

    def end_removal(self, rows: Sequence[PictureRow]) -> None:
        """Delete rows that are leaving."""
        ...


class MemoryPictures:
    """Implements `PictureIndex` within one process. While `away` is set it does not answer."""

    def __init__(self) -> None:
        self.away = False
        self._rows: dict[Key, PictureRow] = {}

    def known(self, job_ids: Sequence[str]) -> set[Key]:
        """See `PictureIndex`."""
        self._check()
        return {key for key in self._rows if key[0] in job_ids}

    def add(self, rows: Sequence[PictureRow]) -> int:
        """See `PictureIndex`."""
        self._check()
        before = len(self._rows)
        for row in rows:
            self._rows.setdefault(row.key, row)
        return len(self._rows) - before

    def of_job(self, job_id: str) -> list[PictureRow]:
        """See `PictureIndex`."""
        self._check()
        found = [row for row in self._rows.values() if row.job_id == job_id and not row.leaving]
        return sorted(found, key=lambda row: row.kind)

    def kinds(self, job_ids: Sequence[str]) -> dict[str, list[str]]:
        """See `PictureIndex`."""
        found = {job_id: [row.kind for row in self.of_job(job_id)] for job_id in job_ids}
        return {job_id: kinds for job_id, kinds in found.items() if kinds}

    def hold(self, job_id: str, reason: str | None) -> int:
        """See `PictureIndex`."""
        rows = self.of_job(job_id)
        self._rows |= {row.key: replace(row, hold=reason) for row in rows}
        return len(rows)

    def bytes_by_decision(self) -> dict[str, int]:
        """See `PictureIndex`."""
        self._check()
        sums: dict[str, int] = {}
        for row in self._rows.values():
            sums[row.decision] = sums.get(row.decision, 0) + row.bytes
        return sums

    def oldest(self, decision: str, before: int | None, most: int) -> list[PictureRow]:
        """See `PictureIndex`."""
        self._check()
        found = [
            row
            for row in self._rows.values()
            if row.decision == decision and row.hold is None and (before is None or row.stored_at < before)
        ]
        return sorted((row for row in found if not row.leaving), key=lambda row: (row.stored_at, row.key))[:most]

    def leaving(self, most: int) -> list[PictureRow]:
        """See `PictureIndex`."""
        self._check()
        return [row for row in self._rows.values() if row.leaving][:most]

    def begin_removal(self, rows: Sequence[PictureRow]) -> list[PictureRow]:
        """See `PictureIndex`."""
        self._check()
        marked = [replace(self._rows[row.key], leaving=True) for row in rows if self._rows[row.key].hold is None]
        self._rows |= {row.key: row for row in marked}
        return marked

    def is_needed(self, digest: str) -> bool:
        """See `PictureIndex`."""
        self._check()
        return any(row.digest == digest and not row.leaving for row in self._rows.values())

    def end_removal(self, rows: Sequence[PictureRow]) -> None:
        """See `PictureIndex`."""
        self._check()
        for row in rows:
            if row.key in self._rows and self._rows[row.key].leaving:
                del self._rows[row.key]

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the archive in memory is away")
