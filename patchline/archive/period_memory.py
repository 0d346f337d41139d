"""The counts of a span of time from an archive in memory, for tests. They keep the contract of `period.PeriodIndex`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from patchline.archive.base import Record, Search
from patchline.archive.ledger import SEEN, Acted, Announced, Found, GapKind, GapSearch
from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.period import (
    ActCount,
    Announcements,
    OutcomeCount,
    Pause,
    Scope,
    StepCount,
    VerdictCount,
    WorkerCount,
)
from patchline.protocol.judgement_message import Label


class MemoryPeriods:
    """Implements `PeriodIndex`.

    Args:
        archive: is counted.
    """

    def __init__(self, archive: MemoryLedger) -> None:
        self._archive = archive

    def extent(self, scope: Scope) -> tuple[int, int] | None:
        """See `PeriodIndex`."""
        times = [record.decided_at for record in self._records(scope)]
        return (min(times), max(times)) if times else None

    def has_more(self, scope: Scope, most: int) -> bool:
        """See `PeriodIndex`."""
        return len(list(self._records(scope))) > most

    def verdicts(self, scope: Scope) -> list[VerdictCount]:
        """See `PeriodIndex`."""
        groups: dict[tuple[Any, ...], list[Record]] = {}
        for one in self._records(scope):
            bank = one.bank_version or one.memory_bank or ""
            key = (one.line, one.category, bank, one.decision, one.reason, one.replay)
            groups.setdefault(key, []).append(one)
        found = [_count(key, rows) for key, rows in groups.items()]
        return sorted(found, key=lambda row: (row.line, row.category, row.bank, row.decision, row.reason or ""))

    def further(self, scope: Scope) -> int:
        """See `PeriodIndex`."""
        jobs = (record.job_id for record in self._archive.find(Search()))
        rows = (row for job in jobs for row in self._archive.further(job))
        return sum(_is_named(row, row.decided_at, scope) for row in rows)

    def steps(self, scope: Scope, width_ms: int) -> list[StepCount]:
        """See `PeriodIndex`."""
        records = (one for one in self._records(scope) if not one.replay)
        counts = Counter(((one.decided_at - scope.since) // width_ms, one.decision) for one in records)
        return [StepCount(*key, parts) for key, parts in sorted(counts.items())]

    def workers(self, scope: Scope) -> list[WorkerCount]:
        """See `PeriodIndex`."""
        times: dict[tuple[str, str], list[int]] = {}
        for one in self._records(scope):
            times.setdefault((one.worker, one.device), []).append(one.decided_at)
        return [WorkerCount(*key, len(at), min(at), max(at)) for key, at in sorted(times.items())]

    def worst(self, scope: Scope, most: int) -> list[Record]:
        """See `PeriodIndex`."""

        def excess(one: Record) -> float:
            return (one.score or 0.0) / (one.fail_threshold or 1.0)

        found = [
            one
            for one in self._records(scope)
            if one.decision in ("fail", "review") and not one.replay and None not in (one.score, one.fail_threshold)
        ]
        return sorted(found, key=lambda one: (-excess(one), one.job_id))[:most]

    def missed(self, scope: Scope, most: int) -> list[Record]:
        """See `PeriodIndex`."""
        passed = [one for one in self._records(scope) if one.decision == "pass" and not one.replay]
        said = self._archive.judgements_of([one.job_id for one in passed])
        defects = {job for job, one in said.items() if one.judgement == Label.DEFECT}
        found = [one for one in passed if one.job_id in defects and one.score is not None]
        return sorted(found, key=lambda one: (-(one.score or 0.0), one.job_id))[:most]

    def announcements(self, scope: Scope) -> Announcements:
        """See `PeriodIndex`."""
        found = [one for one in self._entries(Announced) if _is_named(one, one.announced_at, scope)]
        return Announcements(len(found), sum(self._archive.get(one.job_id) is None for one in found))

    def acts(self, scope: Scope) -> list[ActCount]:
        """See `PeriodIndex`."""
        done = (one for one in self._entries(Acted) if one.state == "done" and _is_named(one, one.acted_at, scope))
        jobs = {(one.line, one.action, one.because, one.stale, one.job_id) for one in done}
        counts = Counter(key[:-1] for key in jobs)
        return [ActCount(*key, parts) for key, parts in sorted(counts.items())]

    def outcomes(self, scope: Scope, lines: Sequence[str]) -> list[OutcomeCount]:
        """See `PeriodIndex`."""
        announced = {
            one.job_id
            for one in self._entries(Announced)
            if scope.category in (None, one.category) and one.part_id.startswith(scope.prefix or "")
        }
        is_of_all = scope.category is None and scope.prefix is None
        jobs = {
            (one.line, one.outcome, one.job_id)
            for one in self._entries(Found)
            if one.line in lines
            and one.outcome != SEEN
            and scope.since <= one.found_at < scope.until
            and (is_of_all or one.job_id in announced)
        }
        counts = Counter(key[:-1] for key in jobs)
        return [OutcomeCount(*key, parts) for key, parts in sorted(counts.items())]

    def gaps(self, scope: Scope) -> dict[GapKind, int]:
        """See `PeriodIndex`."""
        search = GapSearch(until=scope.until, since=scope.since, line=scope.line)
        return {
            kind: sum(
                scope.category in (None, gap.category) and gap.part_id.startswith(scope.prefix or "")
                for gap in self._archive.gaps(kind, search)
            )
            for kind in GapKind
        }

    def pauses(self, scope: Scope, line: str, longer_ms: int, most: int) -> list[Pause]:
        """See `PeriodIndex`."""
        at = sorted(one.decided_at for one in self._records(scope) if one.line == line)
        found = [Pause(line, one, two) for one, two in itertools.pairwise(at) if two - one > longer_ms]
        return sorted(found, key=lambda one: (one.since - one.until, one.since))[:most]

    def _records(self, scope: Scope) -> Iterator[Record]:
        return (one for one in self._archive.find(Search()) if _is_named(one, one.decided_at, scope))

    def _entries(self, kind: Callable[..., Any]) -> Iterator[Any]:
        return (one for one in self._archive.all_entries() if isinstance(one, kind))  # type: ignore[arg-type]


def _count(key: tuple[Any, ...], rows: list[Record]) -> VerdictCount:
    times = [row.decided_at for row in rows]
    review, fail = _ends(row.review_threshold for row in rows), _ends(row.fail_threshold for row in rows)
    line, category, bank, decision, reason, replay = key
    counted = (line, category, bank, decision, reason, replay, len(rows), min(times), max(times))
    return VerdictCount(*counted, *review, *fail)


def _ends(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (None, None)


def _is_named(row: Record | Announced | Acted, at: int, scope: Scope) -> bool:
    return (
        scope.since <= at < scope.until
        and scope.line in (None, row.line)
        and scope.category in (None, row.category)
        and row.part_id.startswith(scope.prefix or "")
    )
