"""An archive in memory, for tests. It keeps the contract of `base.Archive` within one process."""

from __future__ import annotations

from collections.abc import Iterator

from patchline.archive.base import Record, Saved, Search, Unavailable, Unreadable, is_of_bank


class MemoryArchive:
    """Implements `patchline.archive.base.Archive`. While `away` is set it does not answer."""

    def __init__(self) -> None:
        self.away = False
        self._verdicts: dict[str, Record] = {}
        self._further: dict[tuple[str, str], Record] = {}
        self._unreadable: dict[str, Unreadable] = {}

    def save(self, records: list[Record], unreadable: list[Unreadable]) -> Saved:
        """See `base.Archive`."""
        self.check()
        before = len(self._verdicts), len(self._further), len(self._unreadable)
        for record in records:
            first = self._verdicts.setdefault(record.job_id, record)
            if first.digest != record.digest:
                self._further.setdefault((record.job_id, record.digest), record)
        for message in unreadable:
            self._unreadable.setdefault(message.digest, message)
        after = len(self._verdicts), len(self._further), len(self._unreadable)
        return Saved(*(now - then for now, then in zip(after, before, strict=True)))

    def check(self) -> None:
        """See `base.Archive`."""
        if self.away:
            raise Unavailable("the archive in memory is away")

    def get(self, job_id: str) -> Record | None:
        """See `base.Archive`."""
        self.check()
        return self._verdicts.get(job_id)

    def further(self, job_id: str) -> list[Record]:
        """See `base.Archive`."""
        self.check()
        found = [record for record in self._further.values() if record.job_id == job_id]
        return sorted(found, key=lambda record: (record.decided_at, record.digest))

    def find(self, search: Search) -> Iterator[Record]:
        """See `base.Archive`."""
        self.check()
        found = [record for record in self._verdicts.values() if _matches(record, search)]
        found.sort(key=lambda record: (-record.decided_at, record.job_id))
        yield from found[: search.most]

    def unreadable(self, most: int) -> list[Unreadable]:
        """See `base.Archive`."""
        self.check()
        found = sorted(self._unreadable.values(), key=lambda message: (-message.arrived_at, message.digest))
        return found[:most]

    def close(self) -> None:
        """See `base.Archive`."""


def _matches(record: Record, search: Search) -> bool:
    equal = ((search.part, record.part_id), (search.line, record.line), (search.category, record.category))
    lowest, highest = search.min_score, search.max_score
    return (
        all(wanted is None or wanted == value for wanted, value in equal)
        and (not search.decisions or record.decision in search.decisions)
        and (search.bank is None or is_of_bank(record, search.bank))
        and (search.since is None or record.decided_at >= search.since)
        and (search.until is None or record.decided_at < search.until)
        and (lowest is None or (record.score is not None and record.score >= lowest))
        and (highest is None or (record.score is not None and record.score <= highest))
        and (search.before is None or (-record.decided_at, record.job_id) > (-search.before[0], search.before[1]))
    )
