"""The table of the pictures, in the database of the archive. A SQLAlchemy user, beside `database.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from patchline.archive.database import METADATA, Database
from patchline.archive.pictures import Key, PictureRow

_PICTURES = sa.Table(
    "pictures",
    METADATA,
    sa.Column("job_id", sa.String(128), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_at", sa.BigInteger, nullable=False),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("line", sa.String(63), nullable=False),
    sa.Column("category", sa.String(63), nullable=False),
    sa.Column("hold", sa.Text),
    sa.Column("leaving", sa.Boolean, nullable=False),
    sa.Index("pictures_digest", "digest"),
    sa.Index("pictures_age", "decision", "stored_at", "bytes"),
    sa.Index("pictures_leaving", "leaving"),
)
_COLUMN = _PICTURES.c
_STAYS = _COLUMN.leaving.is_(sa.false())


class PictureTable:
    """Implements `patchline.archive.pictures.PictureIndex`.

    Args:
        database: of the archive. It may be used by other threads at the same time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, job_ids: Sequence[str]) -> set[Key]:
        """See `PictureIndex`."""
        rows = self._read(sa.select(_COLUMN.job_id, _COLUMN.kind).where(_COLUMN.job_id.in_(job_ids)))
        return {(row["job_id"], row["kind"]) for row in rows}

    def add(self, rows: Sequence[PictureRow]) -> int:
        """See `PictureIndex`."""
        if not rows:
            return 0
        with self._database.transaction() as connection:
            return int(connection.execute(self._database.insert(_PICTURES), [asdict(row) for row in rows]).rowcount)

    def of_job(self, job_id: str) -> list[PictureRow]:
        """See `PictureIndex`."""
        return self._rows(sa.select(_PICTURES).where(_COLUMN.job_id == job_id, _STAYS).order_by(_COLUMN.kind))

    def kinds(self, job_ids: Sequence[str]) -> dict[str, list[str]]:
        """See `PictureIndex`."""
        query = sa.select(_COLUMN.job_id, _COLUMN.kind).where(_COLUMN.job_id.in_(job_ids), _STAYS)
        found: dict[str, list[str]] = {}
        for row in self._read(query.order_by(_COLUMN.kind)):
            found.setdefault(row["job_id"], []).append(row["kind"])
        return found

    def hold(self, job_id: str, reason: str | None) -> int:
        """See `PictureIndex`."""
        return self._change(sa.update(_PICTURES).where(_COLUMN.job_id == job_id, _STAYS).values(hold=reason))

    def bytes_by_decision(self) -> dict[str, int]:
        """See `PictureIndex`."""
        query = sa.select(_COLUMN.decision, sa.func.sum(_COLUMN.bytes).label("sum")).group_by(_COLUMN.decision)
        return {row["decision"]: int(row["sum"]) for row in self._read(query)}

    def oldest(self, decision: str, before: int | None, most: int) -> list[PictureRow]:
        """See `PictureIndex`."""
        query = sa.select(_PICTURES).where(_COLUMN.decision == decision, _COLUMN.hold.is_(None), _STAYS)
        if before is not None:
            query = query.where(_COLUMN.stored_at < before)
        return self._rows(query.order_by(_COLUMN.stored_at, _COLUMN.job_id, _COLUMN.kind).limit(most))

    def leaving(self, most: int) -> list[PictureRow]:
        """See `PictureIndex`."""
        return self._rows(sa.select(_PICTURES).where(_COLUMN.leaving.is_(sa.true())).limit(most))

    def begin_removal(self, rows: Sequence[PictureRow]) -> list[PictureRow]:
        """See `PictureIndex`."""
        if not rows:
            return []
        marks = sa.update(_PICTURES).where(_is_one_of(rows), _COLUMN.hold.is_(None)).values(leaving=True)
        self._change(marks)
        return self._rows(sa.select(_PICTURES).where(_is_one_of(rows), _COLUMN.leaving.is_(sa.true())))

    def is_needed(self, digest: str) -> bool:
        """See `PictureIndex`."""
        return bool(self._read(sa.select(_COLUMN.job_id).where(_COLUMN.digest == digest, _STAYS).limit(1)))

    def end_removal(self, rows: Sequence[PictureRow]) -> None:
        """See `PictureIndex`."""
        if rows:
            self._change(sa.delete(_PICTURES).where(_is_one_of(rows), _COLUMN.leaving.is_(sa.true())))

    def _change(self, statement: Any) -> int:
        with self._database.transaction() as connection:
            return int(connection.execute(statement).rowcount)

    def _rows(self, query: sa.Select[Any]) -> list[PictureRow]:
        return [PictureRow(**row) for row in self._read(query)]

    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        return list(self._database.read(query))


def _is_one_of(rows: Sequence[PictureRow]) -> sa.ColumnElement[bool]:
    return sa.or_(*(sa.and_(_COLUMN.job_id == row.job_id, _COLUMN.kind == row.kind) for row in rows))
