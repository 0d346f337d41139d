"""The ledger of each part in SQLite or PostgreSQL, beside the verdicts. Uses SQLAlchemy, like `database`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from patchline.archive import score_table, scores, shadow_table
from patchline.archive.base import Record, Saved, Unreadable
from patchline.archive.database import FURTHER, METADATA, UNREADABLE, VERDICTS, Database, of_bank
from patchline.archive.ledger import (
    OF_A_SENSOR,
    SEEN,
    Acted,
    Announced,
    Count,
    Entry,
    Found,
    Gap,
    GapKind,
    GapSearch,
    Judged,
    LabelledScore,
    LabelSearch,
    newest_of_each,
)
from patchline.archive.scores import BankUse, ScoreCounts, ScoreKey, ScoreSearch
from patchline.archive.shadow_table import SHADOWS
from patchline.archive.shadows import ShadowCount, Shadowed, ShadowSearch
from patchline.protocol.gate_messages import Action, ActState
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision

_SHORT, _TEXT, _INTEGER = sa.String, sa.Text, sa.BigInteger
_MAY_BE_ACCEPTED = (Decision.PASS, Decision.REVIEW)
_FLAGGED = (Decision.PASS, Decision.REVIEW, Decision.FAIL)


def _required(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _part() -> list[sa.Column[Any]]:
    names = (("job_id", 128), ("line", 63), ("category", 63), ("part_id", 128))
    return [*(sa.Column(name, _SHORT(size), nullable=False) for name, size in names), sa.Column("number", _INTEGER)]


def _message() -> list[sa.Column[Any]]:
    return [*_required(_INTEGER, "archived_at"), *_required(_TEXT, "document"), *_required(_SHORT(64), "digest")]


ANNOUNCEMENTS = sa.Table(
    "announcements",
    METADATA,
    *_part(),
    *_required(_INTEGER, "captured_at", "announced_at"),
    sa.Column("deadline", _INTEGER),
    *_required(_INTEGER, "archived_at"),
    *_required(_TEXT, "document"),
    sa.PrimaryKeyConstraint("job_id"),
    sa.Index("announcements_part", "part_id", "announced_at"),
    sa.Index("announcements_time", "announced_at"),
)
ACTS = sa.Table(
    "acts",
    METADATA,
    *_part(),
    *_required(_SHORT(16), "action", "state"),
    *_required(_TEXT, "because"),
    *_required(sa.Boolean, "stale"),
    *_required(_TEXT, "gate"),
    *_required(_INTEGER, "acted_at"),
    *_message(),
    sa.PrimaryKeyConstraint("job_id", "digest"),
    sa.Index("acts_part", "part_id", "acted_at"),
    sa.Index("acts_action", "state", "action", "acted_at"),
)
OUTCOMES = sa.Table(
    "outcomes",
    METADATA,
    *_required(_SHORT(128), "job_id"),
    *_required(_SHORT(63), "line"),
    *_required(_INTEGER, "number"),
    *_required(_TEXT, "outcome"),
    sa.Column("bin", _TEXT),
    *_required(_TEXT, "gate"),
    *_required(_INTEGER, "found_at"),
    *_message(),
    sa.PrimaryKeyConstraint("job_id", "digest"),
    sa.Index("outcomes_line", "line", "outcome"),
)
_JUDGEMENTS = sa.Table(
    "judgements",
    METADATA,
    *_required(_SHORT(128), "job_id"),
    *_required(_SHORT(16), "judgement"),
    sa.Column("kind", _TEXT),
    *_required(_TEXT, "judged_by"),
    sa.Column("note", _TEXT),
    *_required(_INTEGER, "judged_at"),
    *_message(),
    sa.PrimaryKeyConstraint("job_id", "digest"),
    sa.Index("judgements_time", "judged_at"),
)
_EARLIER_MS = 86_400_000  # a judge whose clock is behind by less says the same as one whose clock is right
_TABLES: dict[type[Entry], sa.Table] = {
    Announced: ANNOUNCEMENTS,
    Acted: ACTS,
    Found: OUTCOMES,
    Judged: _JUDGEMENTS,
    Shadowed: SHADOWS,
}


class LedgerDatabase(Database):
    """Implements `patchline.archive.ledger.Ledger`. See `Database` for its arguments and errors."""

    def save_ledger(self, entries: list[Entry], unreadable: list[Unreadable]) -> Saved:
        """See `ledger.Ledger`."""
        with self.transaction() as connection:
            new = {
                table.name: self._add(connection, table, [row for row in entries if isinstance(row, kind)])
                for kind, table in _TABLES.items()
            }
            return Saved(unreadable=self._add(connection, UNREADABLE, unreadable), **new)

    def jobs_of(self, name: str, most: int) -> list[str]:
        """See `ledger.Ledger`."""
        found = sa.union_all(
            *(sa.select(table.c.job_id, _time(table).label("at")).where(_names(table, name)) for table in _NAMED)
        ).subquery()
        latest = sa.select(found.c.job_id, sa.func.max(found.c.at).label("at")).group_by(found.c.job_id)
        query = latest.order_by(sa.func.max(found.c.at).desc(), found.c.job_id).limit(most)
        return [row["job_id"] for row in self.read(query)]

    def entries(self, job_id: str) -> list[Entry]:
        """See `ledger.Ledger`."""
        found: list[Any] = [
            kind(**row)
            for kind, table in _TABLES.items()
            for row in self.read(sa.select(table).where(table.c.job_id == job_id).order_by(_time(table)))
        ]
        return sorted(found, key=lambda entry: entry.archived_at)

    def judgements_of(self, job_ids: Sequence[str]) -> dict[str, Judged]:
        """See `ledger.Ledger`."""
        rows = self.read(sa.select(_JUDGEMENTS).where(_JUDGEMENTS.c.job_id.in_(job_ids)))
        return newest_of_each(Judged(**row) for row in rows)

    def gaps(self, kind: GapKind, search: GapSearch) -> Iterator[Gap]:
        """See `ledger.Ledger`."""
        found: set[str] = set()
        for row in self.read(gap_query(kind, search)):
            if len(found) == search.most:
                return
            if row["job_id"] not in found:  # several gates may have done the same
                found.add(row["job_id"])
                yield Gap(kind, **row)

    def label_counts(self, search: LabelSearch) -> list[Count]:
        """See `ledger.Ledger`."""
        column = VERDICTS.c
        bank = sa.func.coalesce(column.bank_version, column.memory_bank).label("bank")
        said = newest_judgement(column.job_id).label("judgement")
        inner = sa.select(column.line, column.category, bank, column.decision, said).where(*_judged(search)).subquery()
        query = sa.select(*inner.c, sa.func.count().label("parts")).group_by(*inner.c).order_by(*inner.c)
        return [Count(**row) for row in self.read(query)]

    def labelled_scores(self, search: LabelSearch) -> list[LabelledScore]:
        """See `ledger.Ledger`."""
        newest = newest_judgements()
        column = VERDICTS.c
        joined = VERDICTS.join(newest, newest.c.job_id == column.job_id)
        query = sa.select(column.memory_bank, column.score, column.decision, newest.c.judgement).select_from(joined)
        query = query.where(newest.c.judgement.in_((Label.GOOD, Label.DEFECT)), *_judged(search))
        return [LabelledScore(**row) for row in self.read(query.order_by(column.score, column.job_id))]

    def score_counts(self, search: ScoreSearch) -> ScoreCounts:
        """See `ledger.Ledger`."""
        too_early = list(self.read(score_table.last_time(search)))
        since = too_early[0]["decided_at"] + 1 if too_early else search.since
        newest = newest_judgements(since - _EARLIER_MS)
        totals = self.read(score_table.totals(search, since, self._is_sqlite))
        labelled = self.read(score_table.labelled(search, since, self._is_sqlite, newest))
        found = [(_score_key(row), row["parts"]) for row in totals]
        judged = [(_score_key(row), row["judgement"], row["parts"]) for row in labelled]
        return ScoreCounts(since, scores.merged(found, judged))

    def banks_of(self, category: str, most: int) -> list[BankUse]:
        """See `ledger.Ledger`."""
        found, after = list[BankUse](), ""
        for _ in range(most):
            name = [row["memory_bank"] for row in self.read(score_table.next_bank(category, after))]
            if not name:
                break
            after = name[0]
            latest = (Record(**row) for row in self.read(score_table.latest_of_bank(category, after)))
            found += [use for use in map(BankUse.of, latest) if use is not None]
        return sorted(found, key=lambda bank: (-bank.last_at, bank.memory_bank))

    def shadow_counts(self, search: ShadowSearch) -> list[ShadowCount]:
        """See `ledger.Ledger`."""
        return [ShadowCount(**row) for row in self.read(shadow_table.counts(search))]

    def shadow_time(self, search: ShadowSearch, number: int) -> int | None:
        """See `ledger.Ledger`."""
        return next((int(row["judged_at"]) for row in self.read(shadow_table.times(search, number))), None)

    def shadow_differences(self, search: ShadowSearch) -> Iterator[Shadowed]:
        """See `ledger.Ledger`."""
        for row in self.read(shadow_table.differences(search)):
            yield Shadowed(**row)


_NAMED = (VERDICTS, ANNOUNCEMENTS, ACTS, OUTCOMES, _JUDGEMENTS)
_TIMES = {
    VERDICTS: "decided_at",
    ANNOUNCEMENTS: "announced_at",
    ACTS: "acted_at",
    OUTCOMES: "found_at",
    _JUDGEMENTS: "judged_at",
    SHADOWS: "judged_at",
}


def _time(table: sa.Table) -> sa.Column[Any]:
    return table.c[_TIMES[table]]


def _names(table: sa.Table, name: str) -> sa.ColumnElement[bool]:
    """The id of a job, or of a part in the tables that have it."""
    by_job = table.c.job_id == name
    return sa.or_(by_job, table.c.part_id == name) if "part_id" in table.c else by_job


def _score_key(row: dict[str, Any]) -> ScoreKey:
    return row["step"], row["cut"], row["decision"], bool(row["below"])


def newest_judgement(job_id: sa.ColumnElement[str]) -> sa.ScalarSelect[str]:
    """Return the judgement that counts of the job of each row, by one look-up: SQLite would join all judgements."""
    column = _JUDGEMENTS.c
    return sa.select(column.judgement).where(column.job_id == job_id).order_by(*_counts()).limit(1).scalar_subquery()


def newest_judgements(since: int | None = None) -> sa.Subquery:
    """Return the job and the judgement that counts of each job that somebody has judged."""
    column = _JUDGEMENTS.c
    rank = sa.func.row_number().over(partition_by=column.job_id, order_by=_counts()).label("rank")
    ranked = sa.select(column.job_id, column.judgement, rank).where(*between(column.judged_at, since, None)).subquery()
    return sa.select(ranked.c.job_id, ranked.c.judgement).where(ranked.c.rank == 1).subquery()


def _counts() -> tuple[sa.ColumnElement[Any], ...]:
    """The order of the judgements of a job, as `ledger.newest` has it: that which counts comes first."""
    column, back = _JUDGEMENTS.c, _JUDGEMENTS.alias()
    same = back.c.job_id == column.job_id, back.c.judged_by == column.judged_by
    later = back.c.judgement == Label.WITHDRAWN, back.c.judged_at >= column.judged_at  # or the row that takes back
    is_taken_back = sa.exists().where(*same, *later).correlate(_JUDGEMENTS)
    newest = column.judged_at.desc(), column.archived_at.desc(), column.digest.desc()
    return sa.case((is_taken_back, 1), else_=0), *newest


def _judged(search: LabelSearch) -> Iterator[sa.ColumnElement[bool]]:
    """The first verdicts that a bank has given on parts of the line."""
    column = VERDICTS.c
    yield from (column.score.is_not(None), column.memory_bank.is_not(None), sa.not_(column.replay))
    yield column.decision.in_(_FLAGGED)
    for name, value in (("line", search.line), ("category", search.category)):
        if value is not None:
            yield column[name] == value
    if search.bank is not None:
        yield of_bank(search.bank)
    if search.prefix is not None:
        yield begins_with(column.part_id, search.prefix)
    yield from between(column.decided_at, search.since, search.until)


def begins_with(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text begins with another one, letter by letter in every database.

    LIKE of SQLite takes small and capital letters for the same, and a range means another order in each PostgreSQL.
    """
    return sa.func.substr(column, 1, len(prefix)) == prefix


def between(column: sa.Column[Any], since: int | None, until: int | None) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions that a time is in a span."""
    if since is not None:
        yield column >= since
    if until is not None:
        yield column < until


def gap_query(kind: GapKind, search: GapSearch) -> sa.Select[Any]:
    """Return the query of a kind of gap. A job may occur several times."""
    queries = {
        GapKind.NO_ACT: _without_act,
        GapKind.OPPOSITE_ACTS: _opposite,
        GapKind.NOT_PASSED: _not_passed,
        GapKind.NOT_CONFIRMED: _not_confirmed,
    }
    return queries[kind](search)


def _gap(table: sa.Table, detail: sa.ColumnElement[Any]) -> sa.Select[Any]:
    names = ("job_id", "line", "category", "part_id", "number")
    return sa.select(*(table.c[name] for name in names), _time(table).label("at"), detail.label("detail"))


def _within(query: sa.Select[Any], table: sa.Table, search: GapSearch) -> sa.Select[Any]:
    chosen = (("line", search.line), ("job_id", search.job_id))
    equal = (table.c[name] == value for name, value in chosen if value is not None)
    query = query.where(*equal, *between(_time(table), search.since, search.until))
    return query.order_by(_time(table).desc(), table.c.job_id)


def not_by_index(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Keep SQLite from using an index on this column: it would read all acts of a state, not those of a job."""
    return sa.func.coalesce(column, "")


def _done(table: Any, job_id: sa.ColumnElement[str], action: Action | None = None) -> sa.ColumnElement[bool]:
    actions = () if action is None else (not_by_index(table.c.action) == action,)
    return sa.exists().where(table.c.job_id == job_id, not_by_index(table.c.state) == ActState.DONE, *actions)


def _without_act(search: GapSearch) -> sa.Select[Any]:
    column = ANNOUNCEMENTS.c
    joined = ANNOUNCEMENTS.outerjoin(VERDICTS, VERDICTS.c.job_id == column.job_id)
    query = _gap(ANNOUNCEMENTS, VERDICTS.c.decision).select_from(joined)
    due = sa.or_(column.deadline.is_(None), column.deadline < search.until)
    return _within(query.where(due, sa.not_(_done(ACTS, column.job_id))), ANNOUNCEMENTS, search)


def _acts_done(action: Action, search: GapSearch) -> sa.Select[Any]:
    state = ACTS.c.state if search.job_id is None else not_by_index(ACTS.c.state)
    return _gap(ACTS, ACTS.c.because).where(state == ActState.DONE, ACTS.c.action == action)


def _opposite(search: GapSearch) -> sa.Select[Any]:
    other = ACTS.alias()
    query = _acts_done(Action.REJECT, search).where(_done(other, ACTS.c.job_id, Action.ACCEPT))
    return _within(query, ACTS, search)


def _not_passed(search: GapSearch) -> sa.Select[Any]:
    allowed = (
        sa.exists().where(table.c.job_id == ACTS.c.job_id, table.c.decision.in_(_MAY_BE_ACCEPTED))
        for table in (VERDICTS, FURTHER)
    )
    return _within(_acts_done(Action.ACCEPT, search).where(*(sa.not_(one) for one in allowed)), ACTS, search)


def _not_confirmed(search: GapSearch) -> sa.Select[Any]:
    column, other = OUTCOMES.c, OUTCOMES.alias()
    seen = sa.exists().where(column.job_id == ACTS.c.job_id, column.outcome == SEEN, column.bin == "reject")
    has_sensor = sa.exists().where(other.c.line == ACTS.c.line, other.c.outcome.in_(OF_A_SENSOR))
    return _within(_acts_done(Action.REJECT, search).where(has_sensor, sa.not_(seen)), ACTS, search)
