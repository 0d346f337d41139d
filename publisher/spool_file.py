"""The file of a spool (SQLite): its tables, its connections, and its replacement if it is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from patchline.protocol.errors import DamagedError, PatchlineError, SetupError
from patchline.protocol.messages import UNKNOWN_FIELDS, Job
from patchline.runtime import connections, damage

# Triggers keep the totals, whichever process writes: counting and adding up a deep spool for each image would take too
# long. They are checked when the spool is opened; without the index SQLite would read every image for that.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, job TEXT, image BLOB, size INTEGER, added_ms INTEGER
);
CREATE INDEX IF NOT EXISTS sizes ON entries (size);
CREATE TABLE IF NOT EXISTS totals (jobs INTEGER, bytes INTEGER);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON entries
    BEGIN UPDATE totals SET jobs = jobs + 1, bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON entries
    BEGIN UPDATE totals SET jobs = jobs - 1, bytes = bytes - OLD.size; END;
DELETE FROM totals;
INSERT INTO totals SELECT count(*), coalesce(sum(size), 0) FROM entries;
COMMIT;
"""
_INDEXES = {"sizes": "size", "sqlite_autoindex_entries_1": "job_id"}
_READ = "SELECT CAST(job AS BLOB), image, added_ms FROM entries WHERE number = ?"
_READ_JOB = "SELECT CAST(job AS BLOB), NULL, ? FROM entries WHERE number = ?"
_COPY = "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?)"
_T = TypeVar("_T")


class SpoolError(PatchlineError):
    """The file cannot be used at the moment, for example because the disk is full. Its entries are kept; retry."""


class SpoolDamagedError(SpoolError):
    """The content of the file is damaged."""


@dataclass(frozen=True)
class Entry:
    """One job that waits for the broker. `image` is None if it was damaged: its part can only be announced."""

    number: int
    job: Job
    added_ms: int
    image: bytes | None = field(repr=False)


class _Connection:
    """An SQLite connection that several threads share. `lock` is held while it is used or replaced."""

    sqlite: sqlite3.Connection

    def __init__(self, synchronous: str) -> None:
        self.lock = threading.Lock()
        self._synchronous = synchronous

    def open(self, path: Path) -> None:
        self.sqlite = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        self.sqlite.execute("PRAGMA journal_mode=WAL")
        self.sqlite.execute(f"PRAGMA synchronous={self._synchronous}")


class SpoolFile:
    """The file with its two connections. If it is damaged, it is replaced by what can be read of it.

    Several threads and processes may share it. They hold a lock on a file beside it: it is replaced only while no
    other process uses it, or what that one writes would be lost.

    Raises:
        SetupError: the file cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced, self._unsynced = _Connection("FULL"), _Connection("NORMAL")
        self._replacements = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            damage.finish(path)
            self._open_or_replace()
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used as a spool ({error})") from error

    def use(self, operation: Callable[[sqlite3.Connection], _T], synced: bool = False) -> _T:
        """Return the result of an operation. It is repeated once if the file is damaged.

        Args:
            operation: gets the connection. It may raise SpoolDamagedError.
            synced: what is written is on disk when this returns.

        Raises:
            SpoolError: the file cannot be used at the moment.
            DamagedError: it is damaged and cannot be replaced.
        """
        replacements = self._replacements
        try:
            return self._use(operation, synced)
        except SpoolDamagedError as error:
            with self._synced.lock, self._unsynced.lock:
                if self._replacements == replacements:  # no other thread has done it
                    self._replace(str(error))
        return self._use(operation, synced)

    def close(self) -> None:
        """Close the file."""
        self._close()
        os.close(self._lock)

    def _use(self, operation: Callable[[sqlite3.Connection], _T], synced: bool) -> _T:
        connection = self._synced if synced else self._unsynced
        with connection.lock:
            try:
                return operation(connection.sqlite)
            except sqlite3.Error as error:
                if damage.is_damage(error):
                    raise SpoolDamagedError(str(error)) from error
                raise SpoolError(f"{self.path}: the spool cannot be used at the moment ({error})") from error

    def _open_or_replace(self) -> None:
        try:
            self._open()
        except sqlite3.Error as error:
            if not damage.is_damage(error):
                raise
            self._replace(str(error))

    def _open(self) -> None:
        for connection in (self._synced, self._unsynced):
            connection.open(self.path)
        self._synced.sqlite.executescript(_SCHEMA)

    def _close(self) -> None:
        for connection in (self._synced, self._unsynced):
            if hasattr(connection, "sqlite"):
                connection.sqlite.close()

    def _replace(self, reason: str) -> None:
        """Replace the file. The caller holds the locks of both connections."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DamagedError(
                f"{self.path}: is damaged ({reason}), and another process uses it; end every publisher that uses it, "
                "then start one, which goes on with what can be read"
            ) from error
        self._close()
        damage.replace(self.path, reason, _copy)
        self._open()
        self._replacements += 1
        fcntl.flock(self._lock, fcntl.LOCK_SH)


def entry_of(number: int, job: object, image: object, added_ms: object) -> Entry:
    """Return the entry of a row.

    Raises:
        SpoolDamagedError: its values cannot have been written by a spool.
    """
    if not isinstance(job, bytes) or not isinstance(image, bytes | None) or not isinstance(added_ms, int):
        raise SpoolDamagedError(f"entry {number} has values of the wrong types")
    try:
        return Entry(number, Job.model_validate_json(job, extra=UNKNOWN_FIELDS), added_ms, image)
    except ValueError as error:
        raise SpoolDamagedError(f"the job of entry {number} cannot be read") from error


def _copy(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> damage.Rescue:
    """Copy what can be read. An entry without a readable image keeps its job, so that its part can be announced."""
    fresh.executescript(_SCHEMA)
    rescue = damage.Rescue()
    numbers = damage.keys(damaged, "entries", "number", int, _INDEXES)
    for number in numbers:
        entry = _rescued(damaged, number)
        if entry is None:
            rescue.known_lost += 1
            continue
        image = entry.image
        row = (number, entry.job.job_id, entry.job.model_dump_json(), image, len(image or b""), entry.added_ms)
        fresh.execute(_COPY, row)
        rescue.kept += image is not None
        rescue.without_image += image is None
    _continue_numbers(damaged, fresh)
    return rescue


def _rescued(damaged: sqlite3.Connection, number: int) -> Entry | None:
    """Return what can be read of an entry. The columns after a damaged image cannot be read either."""
    for statement, values in ((_READ, (number,)), (_READ_JOB, (connections.now_ms(), number))):
        row = damage.row(damaged, statement, *values)
        with suppress(SpoolDamagedError):
            if row is not None:
                return entry_of(number, *row)
    return None


def _continue_numbers(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """Give no number a second time: the publisher may remember it as that of a removed entry."""
    row = damage.row(damaged, "SELECT seq FROM sqlite_sequence WHERE name = ?", "entries")
    last = row[0] if row is not None and isinstance(row[0], int) else connections.now_ms()
    fresh.execute("INSERT OR IGNORE INTO entries (number, size) VALUES (?, 0)", (last + 1,))
    fresh.execute("DELETE FROM entries WHERE number = ?", (last + 1,))
