"""Queries that count scores in steps. A SQLAlchemy user, like `ledger_database`.

All of them read the index `verdicts_scores` and no row of the table, so their time is that of the index's part between
two times, which `ScoreSearch.most` bounds.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from patchline.archive.database import VERDICTS
from patchline.archive.scores import ScoreSearch
from patchline.protocol.messages import Decision

_COUNTED = (Decision.PASS, Decision.REVIEW, Decision.FAIL)


def last_time(search: ScoreSearch) -> sa.Select[Any]:
    """Return the query of the latest time that is too early, because there are more verdicts than wanted."""
    column = VERDICTS.c
    query = sa.select(column.decided_at).where(*_within(search), *_counted()).order_by(column.decided_at.desc())
    return query.limit(1).offset(search.most)


def totals(search: ScoreSearch, since: int, is_sqlite: bool) -> sa.Select[Any]:
    """Return the query that counts all parts."""
    return _counts(sa.select(*_keys(search, is_sqlite)).where(*_within(search, since), *_counted()))


def labelled(search: ScoreSearch, since: int, is_sqlite: bool, newest: sa.Subquery) -> sa.Select[Any]:
    """Return the query that counts the parts that people have judged.

    Args:
        search: the steps.
        since: the earliest time.
        is_sqlite: and not PostgreSQL.
        newest: the judgement that counts of each job, with its `job_id`.
    """
    joined = newest.join(VERDICTS, VERDICTS.c.job_id == newest.c.job_id)
    query = sa.select(*_keys(search, is_sqlite), newest.c.judgement).select_from(joined)
    return _counts(query.where(*_within(search, since), *_counted()))


def next_bank(category: str, after: str) -> sa.Select[Any]:
    """Return the query of the first name of a bank that follows another one."""
    column = VERDICTS.c
    query = sa.select(column.memory_bank).where(column.category == category, column.memory_bank > after)
    return query.order_by(column.memory_bank).limit(1)


def latest_of_bank(category: str, memory_bank: str) -> sa.Select[Any]:
    """Return the query of the latest verdict of a bank. It reads one row of the table."""
    column = VERDICTS.c
    query = sa.select(VERDICTS).where(column.category == category, column.memory_bank == memory_bank)
    query = query.where(column.score.is_not(None), column.review_threshold.is_not(None))
    return query.order_by(column.decided_at.desc()).limit(1)


def _counts(rows: sa.Select[Any]) -> sa.Select[Any]:
    """Count equal rows. PostgreSQL takes two places of a value for two values, so they stand in a query below."""
    columns = list(rows.subquery().c)
    return sa.select(*columns, sa.func.count().label("parts")).group_by(*columns)


def _within(search: ScoreSearch, since: int | None = None) -> tuple[sa.ColumnElement[bool], ...]:
    column = VERDICTS.c
    return (
        column.category == search.category,
        column.memory_bank == search.memory_bank,
        column.decided_at >= (search.since if since is None else since),
        column.decided_at < search.until,
    )


def _counted() -> tuple[sa.ColumnElement[bool], ...]:
    column = VERDICTS.c
    return column.score.is_not(None), sa.not_(column.replay), _decision().in_(_COUNTED)


def _decision() -> sa.ColumnElement[str]:
    """Keep SQLite from using the index on decisions, which has no scores: it would read each row of the table."""
    return sa.func.coalesce(VERDICTS.c.decision, "")


def _keys(search: ScoreSearch, is_sqlite: bool) -> tuple[sa.ColumnElement[Any], ...]:
    """What `scores.key_of` says, in SQL. A cast cuts off in SQLite, and rounds in PostgreSQL."""
    score = VERDICTS.c.score
    number = score / search.step
    whole = sa.cast(number if is_sqlite else sa.func.floor(number), sa.Integer)
    last = search.step * search.steps
    step = sa.case((score >= last, search.steps - 1), (score < 0, 0), else_=whole)
    cut = sum((sa.case((score >= one, 1), else_=0) for one in search.cuts), sa.literal(0))
    below = sa.func.coalesce(score < VERDICTS.c.review_threshold, sa.false())
    return step.label("step"), cut.label("cut"), _decision().label("decision"), below.label("below")
