"""What the broker has not confirmed, on disk: SQLite, written through before anybody is told that it is there.

Policy: entries leave in the order they came. Full in bytes, or its disk nearly so, it takes no more, and the publisher
waits with its source. Emptied, it gives its disk back. An entry that has become too old is given up, and said so: its
gate has long rejected the part.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from inspection.errors import PatchlineError, SetupError
from inspection.message import Job

# The index spares SQLite to read every image for its size: without it a deep spool could not be emptied.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, job TEXT, image BLOB, size INTEGER, added_ms INTEGER
);
CREATE INDEX IF NOT EXISTS sizes ON entries (size);
"""


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


class Spool:
    """Jobs in one file; several threads and processes may share it."""

    def __init__(self, path: Path, max_bytes: int, max_age_s: float, min_free_bytes: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes  # to let an entry leave takes some disk too
        self._max_age_ms = int(max_age_s * 1000)
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            self._file.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            advice = "move a damaged spool aside, its images are in its table `entries`"
            raise SetupError(f"{path}: cannot be used as a spool ({error}); {advice}") from error

    def put(self, job: Job, image: bytes, now_ms: int) -> None:
        """Keep a job; when this returns it is on disk. The same job again changes nothing.

        Raises:
            SpoolFullError: the limit in bytes is reached, or the disk has too little left.
        """
        row = (job.job_id, job.model_dump_json(), image, len(image), now_ms)
        with self._in_use() as file:
            self._require_room(len(image))
            file.execute(
                "INSERT OR IGNORE INTO entries (job_id, job, image, size, added_ms) VALUES (?, ?, ?, ?, ?)", row
            )

    def oldest(self) -> Entry | None:
        """The entry that leaves next."""
        with self._in_use() as file:
            row = file.execute("SELECT number, job, added_ms, image FROM entries ORDER BY number LIMIT 1").fetchone()
            if row is None and file.execute("PRAGMA freelist_count").fetchone()[0]:
                file.execute("VACUUM")
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return None if row is None else Entry(row[0], Job.model_validate_json(row[1]), row[2], row[3])

    def is_too_old(self, entry: Entry, now_ms: int) -> bool:
        """It waited longer than a job may."""
        return now_ms - entry.added_ms > self._max_age_ms

    def remove(self, entry: Entry) -> None:
        """The broker has it, or it is given up."""
        with self._in_use() as file:
            file.execute("DELETE FROM entries WHERE number = ?", (entry.number,))

    def depth(self) -> int:
        """How many jobs wait."""
        with self._in_use() as file:
            return int(file.execute("SELECT count(*) FROM entries").fetchone()[0])

    def oldest_age_s(self, now_ms: int) -> float:
        """How long the oldest has waited, in seconds; 0 where none waits."""
        with self._in_use() as file:
            oldest = file.execute("SELECT added_ms FROM entries ORDER BY number LIMIT 1").fetchone()
        return 0.0 if oldest is None else max(0.0, (now_ms - oldest[0]) / 1000)

    def close(self) -> None:
        """Leave the file as it is."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _in_use(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._file
            except sqlite3.Error as error:
                raise SpoolError(f"{self._path}: the spool cannot be used now ({error})") from error

    def _require_room(self, size: int) -> None:
        (used,) = self._file.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()
        if used + size > self._max_bytes:
            raise SpoolFullError(f"the spool holds {used} of {self._max_bytes} bytes (publisher.spool_max_bytes)")
        free = shutil.disk_usage(self._path.parent).free
        if free - size < self._min_free_bytes:
            least = f"publisher.spool_min_free_bytes is {self._min_free_bytes}"
            raise SpoolFullError(f"the disk of {self._path} has {free} bytes left, and {least}")
