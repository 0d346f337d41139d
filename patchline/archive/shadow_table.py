"""The table of what shadow banks say, and its queries. Uses SQLAlchemy, like `database`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from patchline.archive.database import METADATA
from patchline.archive.shadows import ShadowSearch

_SHORT, _TEXT, _INTEGER = sa.String, sa.Text, sa.BigInteger

SHADOWS = sa.Table(
    "shadows",
    METADATA,
    sa.Column("job_id", _SHORT(128), nullable=False),
    sa.Column("shadow_version", _SHORT(64), nullable=False),
    *(sa.Column(name, _SHORT(63), nullable=False) for name in ("line", "category")),
    sa.Column("part_id", _SHORT(128), nullable=False),
    sa.Column("bank_version", _SHORT(64), nullable=False),
    sa.Column("decision", _SHORT(16), nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("shadow_decision", _SHORT(16), nullable=False),
    sa.Column("shadow_score", sa.Double, nullable=False),
    *(sa.Column(name, _INTEGER, nullable=False) for name in ("judged_at", "archived_at")),
    sa.Column("document", _TEXT, nullable=False),
    sa.PrimaryKeyConstraint("job_id", "shadow_version"),
    sa.Index("shadows_version", "category", "shadow_version", "judged_at"),
)


def counts(search: ShadowSearch) -> sa.Select[Any]:
    """Return the query of how many parts had each pair of decisions."""
    column = SHADOWS.c
    group = (column.line, column.bank_version, column.decision, column.shadow_decision)
    query = sa.select(*group, sa.func.count().label("parts")).where(*_conditions(search))
    return query.group_by(*group).order_by(*group)


def times(search: ShadowSearch, number: int) -> sa.Select[Any]:
    """Return the query of the time of the `number`-th part from the latest one, which reads the index only."""
    query = sa.select(SHADOWS.c.judged_at).where(*_conditions(search)).order_by(SHADOWS.c.judged_at.desc())
    return query.limit(1).offset(number - 1)


def differences(search: ShadowSearch) -> sa.Select[Any]:
    """Return the query of the parts with two decisions, the latest first."""
    column = SHADOWS.c
    query = sa.select(SHADOWS).where(*_conditions(search), column.decision != column.shadow_decision)
    return query.order_by(column.judged_at.desc(), column.job_id)


def _conditions(search: ShadowSearch) -> Iterator[sa.ColumnElement[bool]]:
    column = SHADOWS.c
    yield from (column.category == search.category, column.shadow_version == search.version)
    if search.line is not None:
        yield column.line == search.line
    if search.since is not None:
        yield column.judged_at >= search.since
    if search.until is not None:
        yield column.judged_at < search.until
