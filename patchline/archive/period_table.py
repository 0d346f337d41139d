"""Counts what the database of the archive has of a span of time, or of a batch. Uses SQLAlchemy, like `database`.

Each query reads one span of one index: `verdicts_line` or `verdicts_time`, `verdicts_decision` for the parts that are
named, `announcements_time`, `acts_action`; the rest is looked up by the id of the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from patchline.archive.base import Record
from patchline.archive.database import FURTHER, VERDICTS
from patchline.archive.ledger import SEEN, GapKind, GapSearch
from patchline.archive.ledger_database import (
    ACTS,
    ANNOUNCEMENTS,
    OUTCOMES,
    LedgerDatabase,
    begins_with,
    between,
    gap_query,
    newest_judgement,
    not_by_index,
)
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
from patchline.protocol.gate_messages import ActState
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision

_REJECTED = (Decision.FAIL, Decision.REVIEW)
_VERDICT, _ACT = VERDICTS.c, ACTS.c
_PARTS = sa.func.count().label("parts")
_FIRST, _LAST = sa.func.min(_VERDICT.decided_at).label("first"), sa.func.max(_VERDICT.decided_at).label("last")


class PeriodTable:
    """Implements `patchline.archive.period.PeriodIndex`.

    Args:
        database: of the archive. It may be used by other threads at the same time.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def extent(self, scope: Scope) -> tuple[int, int] | None:
        """See `PeriodIndex`."""
        (row,) = self._read(sa.select(_FIRST, _LAST).where(*self._of(VERDICTS, scope)))
        return None if row["first"] is None else (row["first"], row["last"])

    def has_more(self, scope: Scope, most: int) -> bool:
        """See `PeriodIndex`."""
        some = sa.select(_VERDICT.decided_at).where(*self._of(VERDICTS, scope)).limit(most + 1).subquery()
        return self._number(sa.select(sa.func.count()).select_from(some)) > most

    def verdicts(self, scope: Scope) -> list[VerdictCount]:
        """See `PeriodIndex`."""
        bank = sa.func.coalesce(_VERDICT.bank_version, _VERDICT.memory_bank, "").label("bank")
        group = (_VERDICT.line, _VERDICT.category, bank, _VERDICT.decision, _VERDICT.reason, _VERDICT.replay)
        limits = (
            function(_VERDICT[f"{name}_threshold"]).label(f"{name}_{end}")
            for name in ("review", "fail")
            for end, function in (("low", sa.func.min), ("high", sa.func.max))
        )
        query = sa.select(*group, _PARTS, _FIRST, _LAST, *limits).where(*self._of(VERDICTS, scope))
        rows = [VerdictCount(**row) for row in self._read(query.group_by(*group))]
        return sorted(rows, key=lambda row: (row.line, row.category, row.bank, row.decision, row.reason or ""))

    def further(self, scope: Scope) -> int:
        """See `PeriodIndex`."""
        return self._number(sa.select(sa.func.count()).select_from(FURTHER).where(*self._of(FURTHER, scope)))

    def steps(self, scope: Scope, width_ms: int) -> list[StepCount]:
        """See `PeriodIndex`."""
        step = ((_VERDICT.decided_at - scope.since) // width_ms).label("step")
        conditions = (sa.not_(_VERDICT.replay), *self._of(VERDICTS, scope))
        inner = sa.select(step, _VERDICT.decision).where(*conditions).subquery()
        group = (inner.c.step, inner.c.decision)
        return [StepCount(**row) for row in self._read(sa.select(*group, _PARTS).group_by(*group).order_by(*group))]

    def workers(self, scope: Scope) -> list[WorkerCount]:
        """See `PeriodIndex`."""
        group = (_VERDICT.worker, _VERDICT.device)
        query = sa.select(*group, _PARTS, _FIRST, _LAST).where(*self._of(VERDICTS, scope)).group_by(*group)
        rows = [WorkerCount(**row) for row in self._read(query)]
        return sorted(rows, key=lambda row: (row.worker, row.device))

    def worst(self, scope: Scope, most: int) -> list[Record]:
        """See `PeriodIndex`."""
        excess = _VERDICT.score / _VERDICT.fail_threshold
        rejected = (_VERDICT.decision.in_(_REJECTED), _VERDICT.score.is_not(None), sa.not_(_VERDICT.replay))
        query = sa.select(VERDICTS).where(*rejected, _VERDICT.fail_threshold.is_not(None))
        query = query.where(*self._of(VERDICTS, scope, by_name=False)).order_by(excess.desc(), _VERDICT.job_id)
        return [Record(**row) for row in self._read(query.limit(most))]

    def missed(self, scope: Scope, most: int) -> list[Record]:
        """See `PeriodIndex`."""
        passed = (
            not_by_index(_VERDICT.decision) == Decision.PASS,
            sa.not_(_VERDICT.replay),
            _VERDICT.score.is_not(None),
        )
        is_defect = newest_judgement(_VERDICT.job_id) == Label.DEFECT
        query = sa.select(VERDICTS).where(*self._of(VERDICTS, scope), *passed, is_defect)
        query = query.order_by(_VERDICT.score.desc(), _VERDICT.job_id).limit(most)
        return [Record(**row) for row in self._read(query)]

    def announcements(self, scope: Scope) -> Announcements:
        """See `PeriodIndex`."""
        column = ANNOUNCEMENTS.c
        judged = sa.exists().where(_VERDICT.job_id == column.job_id)
        without = sa.func.sum(sa.case((judged, 0), else_=1)).label("without_verdict")
        (row,) = self._read(sa.select(_PARTS, without).where(*self._of(ANNOUNCEMENTS, scope)))
        return Announcements(row["parts"], int(row["without_verdict"] or 0))

    def acts(self, scope: Scope) -> list[ActCount]:
        """See `PeriodIndex`."""
        group = (_ACT.line, _ACT.action, _ACT.because, _ACT.stale)
        parts = sa.func.count(_ACT.job_id.distinct()).label("parts")
        done = (_ACT.state == ActState.DONE, _ACT.action.in_(("accept", "reject")))
        query = sa.select(*group, parts).where(*done, *self._of(ACTS, scope)).group_by(*group)
        rows = [ActCount(**row) for row in self._read(query)]
        return sorted(rows, key=lambda row: (row.line, row.action, row.because, row.stale))

    def outcomes(self, scope: Scope, lines: Sequence[str]) -> list[OutcomeCount]:
        """See `PeriodIndex`."""
        column, announced = OUTCOMES.c, ANNOUNCEMENTS.c
        group = (column.line, column.outcome)
        conditions = [column.line.in_(lines), column.outcome != SEEN, *self._span(OUTCOMES, scope)]
        if scope.category is not None or scope.prefix is not None:
            of_part = list(_named(ANNOUNCEMENTS, Scope(0, 0, None, scope.category, scope.prefix)))
            conditions.append(sa.exists().where(announced.job_id == column.job_id, *of_part))
        parts = sa.func.count(column.job_id.distinct()).label("parts")
        query = sa.select(*group, parts).where(*conditions).group_by(*group)
        rows = [OutcomeCount(**row) for row in self._read(query)]
        return sorted(rows, key=lambda row: (row.line, row.outcome))

    def gaps(self, scope: Scope) -> dict[GapKind, int]:
        """See `PeriodIndex`."""
        search = GapSearch(until=scope.until, since=scope.since, line=scope.line)
        found = {kind: gap_query(kind, search).order_by(None).subquery() for kind in GapKind}
        return {
            kind: self._number(sa.select(sa.func.count(gap.c.job_id.distinct())).where(*_named(gap, scope)))
            for kind, gap in found.items()
        }

    def pauses(self, scope: Scope, line: str, longer_ms: int, most: int) -> list[Pause]:
        """See `PeriodIndex`."""
        before = sa.func.lag(_VERDICT.decided_at).over(order_by=_VERDICT.decided_at).label("before")
        conditions = (_VERDICT.line == line, *self._of(VERDICTS, scope))
        inner = sa.select(_VERDICT.decided_at.label("after"), before).where(*conditions).subquery()
        length = inner.c.after - inner.c.before
        query = sa.select(inner.c.before, inner.c.after).where(length > longer_ms)
        rows = self._read(query.order_by(length.desc(), inner.c.before).limit(most))
        return [Pause(line, row["before"], row["after"]) for row in rows]

    def _of(self, table: sa.Table, scope: Scope, by_name: bool = True) -> list[sa.ColumnElement[bool]]:
        """The conditions on a table; unless `by_name`, no index of the line or the category is used."""
        return [*self._span(table, scope), *_named(table, scope, by_name)]

    def _span(self, table: sa.Table, scope: Scope) -> Iterator[sa.ColumnElement[bool]]:
        return between(table.c[_TIMES[table.name]], scope.since, scope.until)

    def _number(self, query: Any) -> int:
        (row,) = self._read(query)
        return int(next(iter(row.values())))

    def _read(self, query: Any) -> list[dict[str, Any]]:
        return list(self._database.read(query))


_TIMES = {
    "verdicts": "decided_at",
    "further_verdicts": "decided_at",
    "announcements": "announced_at",
    "acts": "acted_at",
    "outcomes": "found_at",
}


def _named(table: Any, scope: Scope, by_name: bool = True) -> Iterator[sa.ColumnElement[bool]]:
    for name, value in (("line", scope.line), ("category", scope.category)):
        if value is not None and name in table.c:
            yield (table.c[name] if by_name else not_by_index(table.c[name])) == value
    if scope.prefix is not None:
        yield begins_with(table.c.part_id, scope.prefix)
