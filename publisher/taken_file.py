"""The file of the taken images of a folder (SQLite): its tables, and what can be read of them if it is damaged.

`taken` has the images that were accepted. `begun` has those that were handed on, with the time of capture of their job:
a publisher that was killed may have sent them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from patchline.publisher.watched_folder import Signature
from patchline.runtime import damage

_FILE = "path BLOB PRIMARY KEY, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, digest BLOB"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS taken ({_FILE}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS begun ({_FILE}, captured_at INTEGER) WITHOUT ROWID;
"""
STARTED = 1  # user_version of a memory that knows what was in the folder at its first start
_INSERT_TAKEN = "INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_BEGUN = "INSERT OR REPLACE INTO begun VALUES (?, ?, ?, ?, ?, ?, ?)"


class Taken(NamedTuple):
    """An image that was accepted. `digest` is None if it was left out at the first start, and never read."""

    signature: Signature
    digest: bytes | None


class Begun(NamedTuple):
    """An image that was handed on, with the time of capture of its job (epoch milliseconds)."""

    signature: Signature
    digest: bytes
    captured_at: int


class State(NamedTuple):
    """What is remembered of one path. Nothing: it is forgotten."""

    taken: Taken | None = None
    begun: Begun | None = None


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that several threads may use, one at a time."""
    return sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)


def prepare(sqlite: sqlite3.Connection) -> None:
    """Make the tables, unless they exist."""
    sqlite.execute("PRAGMA journal_mode=WAL")
    sqlite.execute("PRAGMA synchronous=NORMAL")
    sqlite.executescript(SCHEMA)


def load_taken(sqlite: sqlite3.Connection) -> dict[str, Taken]:
    """Return the images that were accepted, by path.

    Raises:
        ValueError: a row makes no sense.
    """
    return dict(_taken(row) for row in sqlite.execute("SELECT * FROM taken"))


def load_begun(sqlite: sqlite3.Connection) -> dict[str, Begun]:
    """Return the images that were handed on and not accepted, by path.

    Raises:
        ValueError: a row makes no sense.
    """
    return dict(_begun(row) for row in sqlite.execute("SELECT * FROM begun"))


def start(sqlite: sqlite3.Connection, taken: Mapping[str, Taken]) -> None:
    """Write what counts as taken at the first start."""
    sqlite.execute("BEGIN IMMEDIATE")
    sqlite.executemany(_INSERT_TAKEN, [_taken_row(path, row) for path, row in taken.items()])
    sqlite.execute(f"PRAGMA user_version={STARTED}")
    sqlite.execute("COMMIT")


def write(sqlite: sqlite3.Connection, changes: Mapping[str, State]) -> None:
    """Write the states of some paths in one transaction."""
    taken = [_taken_row(path, state.taken) for path, state in changes.items() if state.taken is not None]
    begun = [
        (os.fsencode(path), *state.begun.signature, *state.begun[1:])
        for path, state in changes.items()
        if state.begun is not None
    ]
    sqlite.execute("BEGIN IMMEDIATE")
    try:
        sqlite.executemany("DELETE FROM taken WHERE path = ?", _paths(changes, "taken"))
        sqlite.executemany("DELETE FROM begun WHERE path = ?", _paths(changes, "begun"))
        sqlite.executemany(_INSERT_TAKEN, taken)
        sqlite.executemany(_INSERT_BEGUN, begun)
        sqlite.execute("COMMIT")
    except sqlite3.Error:
        if sqlite.in_transaction:
            sqlite.execute("ROLLBACK")
        raise


def copy_readable(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> damage.Rescue:
    """Copy what can be read. An image that is forgotten is sent again, as the same job."""
    fresh.executescript(SCHEMA)
    fresh.execute(f"PRAGMA user_version={STARTED}")
    rescue = damage.Rescue()
    for table, insert, parse in (("taken", _INSERT_TAKEN, _taken), ("begun", _INSERT_BEGUN, _begun)):
        for path in damage.keys(damaged, table, "path", bytes):
            row = damage.row(damaged, f"SELECT * FROM {table} WHERE path = ?", path) or ()
            try:
                parse(row)
            except ValueError:
                rescue.known_lost += 1
            else:
                fresh.execute(insert, row)
                rescue.kept += 1
    return rescue


def _taken(row: Sequence[object]) -> tuple[str, Taken]:
    match row:
        case bytes() as path, int() as inode, int() as size, int() as mtime, int() as ctime, bytes() | None as digest:
            return os.fsdecode(path), Taken(Signature(inode, size, mtime, ctime), digest)
    raise ValueError("a taken image has values of the wrong types")


def _begun(row: Sequence[object]) -> tuple[str, Begun]:
    match row:
        case bytes(), int(), int(), int(), int(), bytes() as digest, int() as captured_at:
            path, taken = _taken(row[:6])
            return path, Begun(taken.signature, digest, captured_at)
    raise ValueError("an image that was begun has values of the wrong types")


def _taken_row(path: str, taken: Taken) -> tuple[bytes | int | None, ...]:
    return os.fsencode(path), *taken.signature, taken.digest


def _paths(changes: Mapping[str, State], field: str) -> list[tuple[bytes]]:
    return [(os.fsencode(path),) for path, state in changes.items() if getattr(state, field) is None]
