"""The file of a spool (SQLite): its tables, its connections, and its replacement if it is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import zlib
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
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, job TEXT, image BLOB, size INTEGER, added_ms INTEGER,
    boot_id TEXT, boot_s REAL, checksum INTEGER
);
CREATE TABLE IF NOT EXISTS boot (boot_id TEXT UNIQUE, opened_s REAL);
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
# An earlier build has made the table without them, and leaves them empty.
_ADDED_COLUMNS = {"boot_id": "TEXT", "boot_s": "REAL", "checksum": "INTEGER"}
_READ = "SELECT CAST(job AS BLOB), image, checksum, added_ms, boot_id, boot_s FROM entries WHERE number = ?"
_READ_OLD = "SELECT CAST(job AS BLOB), image, NULL, added_ms, NULL, NULL FROM entries WHERE number = ?"
_READ_JOB = "SELECT CAST(job AS BLOB), NULL, NULL, ?, NULL, NULL FROM entries WHERE number = ?"
_COPY = "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_T = TypeVar("_T")


class SpoolError(PatchlineError):
    """The file cannot be used at the moment, for example because the disk is full. Its entries are kept; retry."""


class SpoolDamagedError(SpoolError):
    """The content of the file is damaged."""


@dataclass(frozen=True)
class Entry:
    """One job that waits for the broker.

    Attributes:
        number: its place in the spool.
        job: the job.
        image: None if it was damaged: the part can only be announced.
        since_s: from when on its age counts, in seconds since the start of the machine.
    """

    number: int
    job: Job
    image: bytes | None = field(repr=False)
    since_s: float


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

    Args:
        path: the file; created if missing.
        boot_id: id of this start of the machine.
        now_s: seconds since then. The age of the entries of an earlier start counts from here.

    Raises:
        SetupError: the file cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path, boot_id: str, now_s: float) -> None:
        self.path = path
        self._boot = (boot_id, now_s)
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
            except (sqlite3.Error, MemoryError) as error:
                if damage.is_damage(error):
                    raise SpoolDamagedError(str(error)) from error
                raise SpoolError(f"{self.path}: the spool cannot be used at the moment ({error})") from error

    def _open_or_replace(self) -> None:
        try:
            self._open()
        except (sqlite3.Error, MemoryError) as error:
            if not damage.is_damage(error):
                raise
            self._replace(str(error))

    def _open(self) -> None:
        for connection in (self._synced, self._unsynced):
            connection.open(self.path)
        sqlite = self._synced.sqlite
        sqlite.executescript(_SCHEMA)
        for name in _ADDED_COLUMNS.keys() - _columns(sqlite):
            sqlite.execute(f"ALTER TABLE entries ADD COLUMN {name} {_ADDED_COLUMNS[name]}")
        sqlite.execute("DELETE FROM boot WHERE boot_id <> ?", self._boot[:1])
        sqlite.execute("INSERT OR IGNORE INTO boot VALUES (?, ?)", self._boot)

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


def checksum(job: bytes, image: bytes) -> int:
    """Return a checksum of the text of a job and its image: SQLite does not notice every damage."""
    return zlib.crc32(image, zlib.crc32(job))


def entry_of(number: int, job: object, image: object, expected: object, since_s: object) -> Entry:
    """Return the entry of a row.

    Args:
        number: of the entry.
        job: its text.
        image: the encoded image, or None.
        expected: the checksum; None if there is no image, or an earlier build wrote the row.
        since_s: see `Entry`.

    Raises:
        SpoolDamagedError: these values cannot have been written by a spool.
    """
    if not isinstance(image, bytes | None) or not isinstance(since_s, float):
        raise SpoolDamagedError(f"entry {number} has values of the wrong types")
    parsed = _job_of(number, job)
    if expected is not None and isinstance(job, bytes) and checksum(job, image or b"") != expected:
        raise SpoolDamagedError(f"the image of entry {number} is not the one that was written")
    return Entry(number, parsed, image, since_s)


def _job_of(number: int, job: object) -> Job:
    try:
        if isinstance(job, bytes):
            return Job.model_validate_json(job, extra=UNKNOWN_FIELDS)
    except ValueError:
        pass
    raise SpoolDamagedError(f"the job of entry {number} cannot be read")


def _copy(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> damage.Rescue:
    """Copy what can be read. An entry without a readable image keeps its job, so that its part can be announced."""
    fresh.executescript(_SCHEMA)
    rescue = damage.Rescue()
    read = _READ if "checksum" in _columns(damaged) else _READ_OLD
    for number in damage.keys(damaged, "entries", "number", int, _INDEXES):
        row = _readable(damaged, read, number)
        if row is None:
            rescue.known_lost += 1
            continue
        fresh.execute(_COPY, row)
        rescue.kept += row[3] is not None
        rescue.without_image += row[3] is None
    _continue_numbers(damaged, fresh)
    return rescue


def _columns(sqlite: sqlite3.Connection) -> set[str]:
    return {name for _, name, *_ in damage.rows(sqlite, "PRAGMA table_info(entries)")}


def _readable(damaged: sqlite3.Connection, read: str, number: int) -> tuple[object, ...] | None:
    """Return what can be read of an entry. The columns after a damaged image cannot be read either."""
    for statement, values in ((read, (number,)), (_READ_JOB, (connections.now_ms(), number))):
        row = damage.row(damaged, statement, *values)
        if row is None:
            continue
        text, image, expected, added_ms, boot_id, boot_s = row
        with suppress(SpoolDamagedError):
            job = entry_of(number, text, image, expected, 0.0).job
            times = (boot_id, boot_s) if isinstance(boot_s, float) else (None, None)
            json = job.model_dump_json()
            fresh = None if image is None else checksum(json.encode(), image)
            return number, job.job_id, json, image, len(image or b""), added_ms, *times, fresh
    return None


def _continue_numbers(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """Give no number a second time: the publisher may remember it as that of a removed entry."""
    row = damage.row(damaged, "SELECT seq FROM sqlite_sequence WHERE name = ?", "entries")
    last = row[0] if row is not None and isinstance(row[0], int) else connections.now_ms()
    fresh.execute("INSERT OR IGNORE INTO entries (number, size) VALUES (?, 0)", (last + 1,))
    fresh.execute("DELETE FROM entries WHERE number = ?", (last + 1,))
