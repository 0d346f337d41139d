"""What the broker has not confirmed, on disk: SQLite, written through before anybody is told that it is there.

Policy: entries leave in the order they came. Full in bytes, or its disk nearly so, it takes no more, and the publisher
waits with its source. Emptied, it gives its disk back. An entry that has become too old is given up, and said so: its
gate has long rejected the part.

Only what comes in is written through. What leaves does not wait for the disk, or a slow one could not be emptied while
images come. Entries are taken out some at a time, unsynced; those that a crash brings back are sent as the same job.
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
from patchline.protocol.messages import Job

# The index spares SQLite to read every image for its size: without it a deep spool could not be emptied.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, job TEXT, image BLOB, size INTEGER, added_ms INTEGER
);
CREATE INDEX IF NOT EXISTS sizes ON entries (size);
"""
_TAKE_OUT = "DELETE FROM entries WHERE number <= ?"
_COUNT = "SELECT count(*) FROM entries WHERE +number > ?"  # the plus: by the index, without a look at the images
_TOGETHER = 32  # entries that are taken out at once


class SpoolError(PatchlineError):
    """The file cannot be used now (a full disk, a broken one): what it holds is still there, try again."""


class SpoolFullError(SpoolError):
    """There is no room for another image; wait until the broker takes some, or somebody makes room."""


@dataclass(frozen=True)
class Entry:
    """One job that waits for the broker."""

    number: int
    job: Job
    added_ms: int
    image: bytes = field(repr=False)


class _File:
    """A connection to the file, which threads use in turn."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._turn = threading.Lock()
        self.connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(f"PRAGMA synchronous={synchronous}")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                yield self.connection
            except sqlite3.Error as error:
                raise SpoolError(f"{self._path}: the spool cannot be used now ({error})") from error


class Spool:
    """Jobs in one file; several threads and processes may share it."""

    def __init__(self, path: Path, max_bytes: int, max_age_s: float, min_free_bytes: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes  # to let an entry leave takes some disk too
        self._max_age_ms = int(max_age_s * 1000)
        self._left = 0  # number of the last entry that has left
        self._left_in_file = 0  # of them, how many are still there
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._in, self._out = _File(path, "FULL"), _File(path, "NORMAL")
            self._in.connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            advice = "move a damaged spool aside, its images are in its table `entries`"
            raise SetupError(f"{path}: cannot be used as a spool ({error}); {advice}") from error

    def put(self, job: Job, image: bytes, now_ms: int) -> None:
        """Keep a job; when this returns it is on disk. The same job again changes nothing.

        Raises:
            SpoolFullError: the limit in bytes is reached, or the disk has too little left.
        """
        row = (job.job_id, job.model_dump_json(), image, len(image), now_ms)
        with self._in.in_use() as file, file:
            file.execute("BEGIN IMMEDIATE")
            file.execute(_TAKE_OUT, (self._left,))  # or one that was given up would stand in its own way
            self._require_room(file, len(image))
            file.execute(
                "INSERT OR IGNORE INTO entries (job_id, job, image, size, added_ms) VALUES (?, ?, ?, ?, ?)", row
            )

    def oldest(self) -> Entry | None:
        """The entry that leaves next."""
        next_one = "SELECT number, job, added_ms, image FROM entries WHERE number > ? ORDER BY number LIMIT 1"
        with self._out.in_use() as file:
            row = file.execute(next_one, (self._left,)).fetchone()
            if row is None:
                self._take_out(file)
                self._give_disk_back(file)
        return None if row is None else Entry(row[0], Job.model_validate_json(row[1]), row[2], row[3])

    def is_too_old(self, entry: Entry, now_ms: int) -> bool:
        """It waited longer than a job may."""
        return now_ms - entry.added_ms > self._max_age_ms

    def remove(self, entry: Entry) -> None:
        """The broker has it, or it is given up. The entry is the oldest."""
        with self._out.in_use() as file:
            self._left = entry.number
            self._left_in_file += 1
            if self._left_in_file % _TOGETHER == 0:
                self._take_out(file)

    def depth(self) -> int:
        """How many jobs wait."""
        with self._out.in_use() as file:
            return int(file.execute(_COUNT, (self._left,)).fetchone()[0])

    def oldest_age_s(self, now_ms: int) -> float:
        """How long the oldest has waited, in seconds; 0 where none waits."""
        of_oldest = "SELECT added_ms FROM entries WHERE number > ? ORDER BY number LIMIT 1"
        with self._out.in_use() as file:
            oldest = file.execute(of_oldest, (self._left,)).fetchone()
        return 0.0 if oldest is None else max(0.0, (now_ms - oldest[0]) / 1000)

    def close(self) -> None:
        """Take out what has left, and leave the rest as it is."""
        with contextlib.suppress(SpoolError), self._out.in_use() as file:
            self._take_out(file)
        for each in (self._in, self._out):
            each.connection.close()

    def _take_out(self, file: sqlite3.Connection) -> None:
        if self._left_in_file:
            file.execute(_TAKE_OUT, (self._left,))
            self._left_in_file = 0

    def _give_disk_back(self, file: sqlite3.Connection) -> None:
        """Of an empty file."""
        if file.execute("PRAGMA freelist_count").fetchone()[0]:
            file.execute("VACUUM")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _require_room(self, file: sqlite3.Connection, size: int) -> None:
        (used,) = file.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()
        if used + size > self._max_bytes:
            raise SpoolFullError(f"the spool holds {used} of {self._max_bytes} bytes (publisher.spool_max_bytes)")
        free = shutil.disk_usage(self._path.parent).free
        if free - size < self._min_free_bytes:
            least = f"publisher.spool_min_free_bytes is {self._min_free_bytes}"
            raise SpoolFullError(f"the disk of {self._path} has {free} bytes left, and {least}")
