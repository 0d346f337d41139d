"""The tables of a gate's memory (SQLite), and what can be read of them if their file is damaged."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from patchline.protocol.messages import UNKNOWN_FIELDS, Announcement
from patchline.runtime import damage
from patchline.runtime.damage import Rescue

SCHEMA = """
CREATE TABLE IF NOT EXISTS expected (job_id TEXT PRIMARY KEY, part TEXT, arrived_at INTEGER);
CREATE TABLE IF NOT EXISTS acted (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, because TEXT);
CREATE TABLE IF NOT EXISTS lease (held_last INTEGER);
CREATE TABLE IF NOT EXISTS partner (known INTEGER);
"""
_EXPECTED_INDEX, _ACTED_INDEX = "sqlite_autoindex_expected_1", "sqlite_autoindex_acted_1"
_UNKNOWN_REASON = ""


@dataclass(frozen=True)
class ExpectedPart:
    """A part that was announced and not acted on, with the time of its arrival (epoch milliseconds)."""

    part: Announcement
    arrived_at: int


def expected_part(_: object, part: object, arrived_at: object = None) -> ExpectedPart:
    """Return the part of a row; that of an earlier build has no time of arrival.

    Raises:
        ValueError: the row makes no sense.
    """
    if not isinstance(part, str) or not isinstance(arrived_at, int | None):
        raise ValueError("an expected part has values of the wrong types")
    announcement = Announcement.model_validate_json(part, extra=UNKNOWN_FIELDS)
    return ExpectedPart(announcement, arrived_at or announcement.captured_at)


def copy_readable(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> Rescue:
    """Copy what can be read to a new file."""
    fresh.executescript(SCHEMA)
    rescue = Rescue()
    for number in damage.keys(damaged, "expected", "rowid", int, {_EXPECTED_INDEX: "job_id"}):
        row = damage.row(damaged, "SELECT * FROM expected WHERE rowid = ?", number)
        _count(rescue, row is not None and _copy_expected(row, fresh))
    _copy_acted(damaged, fresh, rescue)
    for table, column in (("lease", "held_last"), ("partner", "known")):
        value = damage.row(damaged, f"SELECT max({column}) FROM {table}")
        fresh.execute(f"INSERT INTO {table} VALUES (?)", (int(value is not None and value[0] == 1),))
    return rescue


def _copy_expected(row: tuple[object, ...], fresh: sqlite3.Connection) -> bool:
    with suppress(ValueError):
        expected = expected_part(*row)
        values = (expected.part.job_id, expected.part.model_dump_json(), expected.arrived_at)
        fresh.execute("INSERT OR IGNORE INTO expected VALUES (?, ?, ?)", values)
        return True
    return False


def _copy_acted(damaged: sqlite3.Connection, fresh: sqlite3.Connection, rescue: Rescue) -> None:
    """Copy the actions. The index still has the job id of one whose row is damaged: the gate must not act again."""
    indexed = dict(damage.rows(damaged, f"SELECT number, job_id FROM acted INDEXED BY {_ACTED_INDEX} ORDER BY job_id"))
    for number in sorted({*indexed, *damage.keys(damaged, "acted", "number", int)}):
        row = damage.row(damaged, "SELECT job_id, because FROM acted WHERE number = ?", number)
        job_id, because = row or (indexed.get(number), _UNKNOWN_REASON)
        usable = isinstance(job_id, str) and isinstance(because, str)
        if usable:
            fresh.execute("INSERT OR IGNORE INTO acted VALUES (?, ?, ?)", (number, job_id, because))
        _count(rescue, usable)


def _count(rescue: Rescue, kept: bool) -> None:
    if kept:
        rescue.kept += 1
    else:
        rescue.known_lost += 1
