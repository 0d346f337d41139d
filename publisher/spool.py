"""Jobs that the broker has not confirmed, on disk (SQLite).

Entries leave in the order they came. A new entry is on disk before `put` returns. The spool takes no entry beyond its
limit in bytes or on a nearly full disk; the publisher then waits. An empty spool gives its disk space back. An entry
that is too old is given up: the gate has rejected its part long ago. Its age is time for which the machine was on, as
far as this start of the machine has seen it: the wall clock may be corrected by days, and then no image must be lost.

Deletions are batched and not synced, so that a slow disk can drain the spool while images arrive. Entries that reappear
after a crash are sent again as the same jobs.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from patchline.protocol.messages import Job
from patchline.publisher.spool_file import Entry, SpoolError, SpoolFile, checksum, entry_of
from patchline.runtime import uptime

_INSERT = """
INSERT OR IGNORE INTO entries (job_id, job, image, size, added_ms, boot_id, boot_s, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_DELETE = "DELETE FROM entries WHERE number <= ?"
_SINCE = "iif(entries.boot_id = boot.boot_id, entries.boot_s, boot.opened_s)"
_OLDEST = f"""
SELECT number, CAST(job AS BLOB), image, checksum, {_SINCE} FROM entries, boot WHERE number > ? ORDER BY number LIMIT 1
"""
_OLDEST_SINCE = f"SELECT {_SINCE} FROM entries, boot WHERE number > ? ORDER BY number LIMIT 1"
_BYTES = "SELECT bytes FROM totals"
_DEPTH = "SELECT jobs - (SELECT count(*) FROM entries WHERE number <= ?) FROM totals"  # without what was just removed
_DELETE_BATCH = 32


class SpoolFullError(SpoolError):
    """The spool has no room for this image. Retry after the broker has taken some, or free disk space."""


class Spool:
    """Jobs in one file. Several threads and processes may share it.

    Any call replaces a damaged file by what can be read of it, and raises DamagedError if that is not possible.

    Args:
        path: the file; created if missing.
        max_bytes: upper bound of the sum of the image sizes.
        max_age_s: age in seconds above which an entry is too old.
        min_free_bytes: free bytes to leave on the disk; removing an entry needs some, too.
        boot_s: seconds since the start of the machine.
        boot_id: id of this start of the machine.

    Raises:
        SetupError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        max_age_s: float,
        min_free_bytes: int = 0,
        boot_s: Callable[[], float] = uptime.boot_s,
        boot_id: str | None = None,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._max_age_s = max_age_s
        self._boot_s, self._boot_id = boot_s, boot_id or uptime.boot_id()
        self._last_removed = 0  # number of the entry that was removed last
        self._undeleted = 0  # removed entries that are still in the file
        self._file = SpoolFile(path, self._boot_id, boot_s())

    def put(self, job: Job, image: bytes, now_ms: int) -> None:
        """Save a job; it is on disk when this returns. Saving the same job again changes nothing.

        Raises:
            SpoolFullError: the limit in bytes is reached, or the disk has too little free space.
            SpoolError: the file cannot be written, or its folder is gone.
        """
        text = job.model_dump_json()
        times = (now_ms, self._boot_id, self._boot_s())
        row = (job.job_id, text, image, len(image), *times, checksum(text.encode(), image))

        def insert(sqlite: sqlite3.Connection) -> None:
            with sqlite:
                sqlite.execute("BEGIN IMMEDIATE")
                sqlite.execute(
                    _DELETE, (self._last_removed,)
                )  # or this job could be ignored as a copy of a removed one
                self._require_room(sqlite, len(image))
                sqlite.execute(_INSERT, row)

        self._file.use(insert, synced=True)

    def oldest(self, after: int = 0) -> Entry | None:
        """Return the oldest entry with a number above `after`, or None if there is none."""

        def read(sqlite: sqlite3.Connection) -> Entry | None:
            row = sqlite.execute(_OLDEST, (max(after, self._last_removed),)).fetchone()
            if row is not None:
                return entry_of(*row)
            if after <= self._last_removed:
                self._delete_removed(sqlite)
                self._shrink(sqlite)
            return None

        return self._file.use(read)

    def is_too_old(self, entry: Entry) -> bool:
        """Return True if the entry has waited longer than the limit. A correction of the clock makes none old."""
        return self._boot_s() - entry.since_s > self._max_age_s

    def remove(self, entry: Entry) -> None:
        """Remove the oldest entry."""

        def remove(sqlite: sqlite3.Connection) -> None:
            self._last_removed = entry.number
            self._undeleted += 1
            if self._undeleted >= _DELETE_BATCH:
                self._delete_removed(sqlite)

        self._file.use(remove)

    def depth(self) -> int:
        """Return the number of jobs."""
        return self._file.use(lambda sqlite: int(sqlite.execute(_DEPTH, (self._last_removed,)).fetchone()[0]))

    def oldest_age_s(self) -> float:
        """Return the age of the oldest job in seconds, or 0 if the spool is empty."""
        row = self._file.use(lambda sqlite: sqlite.execute(_OLDEST_SINCE, (self._last_removed,)).fetchone())
        return 0.0 if row is None else max(0.0, self._boot_s() - row[0])

    def close(self) -> None:
        """Delete what was removed and close the file."""
        with contextlib.suppress(SpoolError):
            self._file.use(self._delete_removed)
        self._file.close()

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
        try:
            free = shutil.disk_usage(self._path.parent).free
        except OSError as error:
            raise SpoolError(f"the folder of {self._path} cannot be used ({error.strerror}); restore it") from error
        if free - size < self._min_free_bytes:
            limit = f"publisher.spool_min_free_bytes is {self._min_free_bytes}"
            raise SpoolFullError(f"the disk of {self._path} has {free} bytes free, and {limit}")
