"""Jobs that the broker has not confirmed, on disk (SQLite).

Entries leave in the order they came. A new entry is on disk before `put` returns. The spool takes no entry beyond its
limit in bytes or on a nearly full disk; the publisher then waits. An empty spool gives its disk space back. An entry
that is too old is given up: the gate has rejected its part long ago.

Deletions are batched and not synced, so that a slow disk can drain the spool while images arrive. Entries that reappear
after a crash are sent again as the same jobs.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from patchline.protocol.errors import PatchlineError, SetupError
from patchline.protocol.messages import UNKNOWN_FIELDS, Job

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
_INSERT = "INSERT OR IGNORE INTO entries (job_id, job, image, size, added_ms) VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM entries WHERE number <= ?"
_OLDEST = "SELECT number, job, added_ms, image FROM entries WHERE number > ? ORDER BY number LIMIT 1"
_OLDEST_TIME = "SELECT added_ms FROM entries WHERE number > ? ORDER BY number LIMIT 1"
_BYTES = "SELECT bytes FROM totals"
_DEPTH = "SELECT jobs - (SELECT count(*) FROM entries WHERE number <= ?) FROM totals"  # without what was just removed
_DELETE_BATCH = 32


class SpoolError(PatchlineError):
    """The file cannot be used at the moment, for example because the disk is full. Its entries are kept; retry."""


class SpoolFullError(SpoolError):
    """The spool has no room for this image. Retry after the broker has taken some, or free disk space."""


@dataclass(frozen=True)
class Entry:
    """One job that waits for the broker."""

    number: int
    job: Job
    added_ms: int
    image: bytes = field(repr=False)


class _Connection:
    """An SQLite connection that several threads share."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.sqlite = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        self.sqlite.execute("PRAGMA journal_mode=WAL")
        self.sqlite.execute(f"PRAGMA synchronous={synchronous}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock. Turn errors of SQLite into SpoolError."""
        with self._lock:
            try:
                yield self.sqlite
            except sqlite3.Error as error:
                raise SpoolError(f"{self._path}: the spool cannot be used at the moment ({error})") from error


class Spool:
    """Jobs in one file. Several threads and processes may share it.

    Args:
        path: the file; created if missing.
        max_bytes: upper bound of the sum of the image sizes.
        max_age_s: age in seconds above which an entry is too old.
        min_free_bytes: free bytes to leave on the disk; removing an entry needs some, too.

    Raises:
        SetupError: the file cannot be used.
    """

    def __init__(self, path: Path, max_bytes: int, max_age_s: float, min_free_bytes: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._max_age_ms = int(max_age_s * 1000)
        self._last_removed = 0  # number of the entry that was removed last
        self._undeleted = 0  # removed entries that are still in the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._synced, self._unsynced = _Connection(path, "FULL"), _Connection(path, "NORMAL")
            self._synced.sqlite.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            advice = "move a damaged spool to another folder, its images are in its table `entries`"
            raise SetupError(f"{path}: cannot be used as a spool ({error}); {advice}") from error

    def put(self, job: Job, image: bytes, now_ms: int) -> None:
        """Save a job; it is on disk when this returns. Saving the same job again changes nothing.

        Raises:
            SpoolFullError: the limit in bytes is reached, or the disk has too little free space.
            SpoolError: the file cannot be written.
        """
        row = (job.job_id, job.model_dump_json(), image, len(image), now_ms)
        with self._synced.locked() as sqlite, sqlite:
            sqlite.execute("BEGIN IMMEDIATE")
            sqlite.execute(_DELETE, (self._last_removed,))  # or this job could be ignored as a copy of a removed one
            self._require_room(sqlite, len(image))
            sqlite.execute(_INSERT, row)

    def oldest(self, after: int = 0) -> Entry | None:
        """Return the oldest entry with a number above `after`, or None if there is none."""
        with self._unsynced.locked() as sqlite:
            row = sqlite.execute(_OLDEST, (max(after, self._last_removed),)).fetchone()
            if row is None and after <= self._last_removed:
                self._delete_removed(sqlite)
                self._shrink(sqlite)
        return (
            None
            if row is None
            else Entry(row[0], Job.model_validate_json(row[1], extra=UNKNOWN_FIELDS), row[2], row[3])
        )

    def is_too_old(self, entry: Entry, now_ms: int) -> bool:
        """Return True if the entry has waited longer than the limit."""
        return now_ms - entry.added_ms > self._max_age_ms

    def remove(self, entry: Entry) -> None:
        """Remove the oldest entry."""
        with self._unsynced.locked() as sqlite:
            self._last_removed = entry.number
            self._undeleted += 1
            if self._undeleted % _DELETE_BATCH == 0:
                self._delete_removed(sqlite)

    def depth(self) -> int:
        """Return the number of jobs."""
        with self._unsynced.locked() as sqlite:
            return int(sqlite.execute(_DEPTH, (self._last_removed,)).fetchone()[0])

    def oldest_age_s(self, now_ms: int) -> float:
        """Return the age of the oldest job in seconds, or 0 if the spool is empty."""
        with self._unsynced.locked() as sqlite:
            row = sqlite.execute(_OLDEST_TIME, (self._last_removed,)).fetchone()
        return 0.0 if row is None else max(0.0, (now_ms - row[0]) / 1000)

    def close(self) -> None:
        """Delete what was removed and close the file."""
        with contextlib.suppress(SpoolError), self._unsynced.locked() as sqlite:
            self._delete_removed(sqlite)
        for connection in (self._synced, self._unsynced):
            connection.sqlite.close()

    def _delete_removed(self, sqlite: sqlite3.Connection) -> None:
        if self._undeleted:
            sqlite.execute(_DELETE, (self._last_removed,))
            self._undeleted = 0

    def _shrink(self, sqlite: sqlite3.Connection) -> None:
        """Give the disk space of an empty spool back."""
        if sqlite.execute("PRAGMA freelist_count").fetchone()[0]:
            sqlite.execute("VACUUM")
            sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _require_room(self, sqlite: sqlite3.Connection, size: int) -> None:
        (used,) = sqlite.execute(_BYTES).fetchone()
        if used + size > self._max_bytes:
            raise SpoolFullError(f"the spool holds {used} of {self._max_bytes} bytes (publisher.spool_max_bytes)")
        free = shutil.disk_usage(self._path.parent).free
        if free - size < self._min_free_bytes:
            limit = f"publisher.spool_min_free_bytes is {self._min_free_bytes}"
            raise SpoolFullError(f"the disk of {self._path} has {free} bytes free, and {limit}")
