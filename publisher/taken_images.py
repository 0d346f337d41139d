"""Remembers on disk (SQLite) which images of a watched folder were taken, by path and signature.

No clock decides what is new, so neither a wrong clock nor a restart hides an image or sends it twice. A thread writes,
in batches: what a crash makes it forget is sent again as the same job. All rows are in memory too, so that a disk that
is full, or does not answer, holds up no image.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import structlog

from patchline.protocol.errors import PatchlineError, SetupError
from patchline.publisher.watched_folder import Signature
from patchline.runtime import damage, locks

_log = structlog.get_logger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS taken (
    path BLOB PRIMARY KEY, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, digest BLOB
) WITHOUT ROWID
"""
_INSERT = "INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT * FROM taken"
_SELECT_ONE = "SELECT * FROM taken WHERE path = ?"
_DELETE = "DELETE FROM taken WHERE path = ?"
_CLOCK_TICK_NS = 20_000_000  # upper bound of the resolution of file times
_LATE_S = 5.0  # a disk that has written nothing for this long is reported
_CLOSE_S = 10.0
_STARTED = 1  # user_version of a memory that knows what was in the folder at its first start

_T = TypeVar("_T")
Row = tuple[bytes, int, int, int, int, bytes | None]


class TakenImages:
    """The taken images of one folder. One process at a time uses the file.

    Args:
        path: the file; created if missing.
        in_use: what to say if another process uses it.

    Raises:
        SetupError: the file cannot be used, or another process uses it.
        DamagedError: it is damaged and cannot be replaced. Other calls may raise this, too.
    """

    def __init__(self, path: Path, in_use: str = "another process remembers the images of this folder") -> None:
        self._path = path
        self._lock = threading.Lock()
        self._begun: dict[str, Row] = {}
        self._unwritten: dict[str, Row | None] = {}  # None: to be deleted
        self._unwritten_since: float | None = None
        self._failing = self._late = False
        self._error: PatchlineError | None = None  # of the thread that writes
        self._wake, self._ended = threading.Event(), False
        self._writer = threading.Thread(target=self._write_behind, name="taken-images", daemon=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._process_lock = locks.claim(path.with_name(path.name + ".lock"), in_use)
            damage.finish(path)
            self._sqlite = _connect(path)
            self._use(_prepare)
            self._rows: dict[str, Row] = {os.fsdecode(row[0]): row for row in self._use(_all_rows)}
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used to remember taken images ({error})") from error

    @property
    def is_new(self) -> bool:
        """True until `start`."""
        (version,) = self._use(lambda sqlite: sqlite.execute("PRAGMA user_version").fetchone())
        return bool(version < _STARTED)

    def start(self, taken: Mapping[str, Signature]) -> None:
        """Remember what counts as taken at the first start.

        Raises:
            SetupError: the file cannot be written.
        """
        self._rows = {path: _row(path, signature, None) for path, signature in taken.items()}
        try:
            self._sqlite.execute("BEGIN IMMEDIATE")
            self._sqlite.executemany(_INSERT, self._rows.values())
            self._sqlite.execute(f"PRAGMA user_version={_STARTED}")
            self._sqlite.execute("COMMIT")
        except sqlite3.Error as error:
            raise SetupError(f"{self._path}: cannot be written ({error}); free disk space and start again") from error

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of the remembered images, by path."""
        return {path: Signature(*row[1:5]) for path, row in self._rows.items()}

    def knows(self, path: str, signature: Signature, image_digest: bytes) -> bool:
        """Return True if this content was taken or begun, and only what the file system says of it is new.

        That is another inode or change time, as after a mount or a chmod, or a modification time that a program has
        set, as after a copy that preserves times: it differs from the change time then. An image that was left out at
        the first start was never read: it is known by its size and modification time, which a chmod leaves alone.
        """
        with self._lock:
            row = self._begun.get(path) or self._rows.get(path)
        if row is None:
            return False
        if row[5] is None:
            return row[2:4] == (signature.size, signature.mtime_ns)
        if row[5] != image_digest:
            return False
        was_set = abs(signature.ctime_ns - signature.mtime_ns) > _CLOCK_TICK_NS
        return row[3] == signature.mtime_ns or (row[1] == signature.inode and was_set)

    def begin(self, path: str, signature: Signature, image_digest: bytes) -> None:
        """Note an image that is being sent. A restart forgets it."""
        with self._lock:
            self._begun[path] = _row(path, signature, image_digest)

    def add(self, path: str, signature: Signature, image_digest: bytes) -> None:
        """Remember an image that was accepted. The next flush writes it. Called by any thread."""
        row = _row(path, signature, image_digest)
        with self._lock:
            self._unwritten[path] = self._rows[path] = row
            if self._begun.get(path) == row:
                del self._begun[path]

    def remove(self, paths: Iterable[str]) -> None:
        """Forget images that are gone. The next flush writes it."""
        with self._lock:
            for path in paths:
                self._unwritten[path] = None
                self._rows.pop(path, None)

    def flush_later(self) -> None:
        """Have the thread write what has changed. It waits for no disk, and says once if the disk does not answer.

        Raises:
            DamagedError: the file is damaged and cannot be replaced.
        """
        if self._error is not None:
            raise self._error
        if not self._unwritten:
            return
        if self._unwritten_since is None:
            self._unwritten_since = time.monotonic()
        if self._writer.ident is None:
            self._writer.start()
        self._wake.set()
        if self.unwritten_s() > _LATE_S and not (self._late or self._failing):
            self._late = True
            _log.error(
                "taken images are not remembered: the disk of paths.spool does not answer; images are still sent",
                path=str(self._path),
                for_s=round(self.unwritten_s(), 1),
            )

    def unwritten_s(self) -> float:
        """Return for how long changes have waited to be written, in seconds; 0 if everything is on disk."""
        since = self._unwritten_since
        return 0.0 if since is None else time.monotonic() - since

    def flush(self) -> None:
        """Write what has changed. What cannot be written now is written later."""
        with self._lock:
            changes = dict(self._unwritten)
        if not changes:
            return
        try:
            self._use(lambda sqlite: _write(sqlite, changes))
        except sqlite3.Error as error:
            if not self._failing:
                _log.error("taken images are not remembered on disk, retrying", path=str(self._path), reason=str(error))
            self._failing = True
            return
        self._failing = False
        with self._lock:
            for path, row in changes.items():
                if self._unwritten.get(path) == row:
                    self._unwritten.pop(path, None)
        self._unwritten_since, self._late = None, False

    def close(self) -> None:
        """Write what has changed and close the file. If the disk does not answer, leave it: the images come again."""
        self._ended = True
        self._wake.set()
        if self._writer.ident is not None:
            self._writer.join(_CLOSE_S)
            if self._writer.is_alive():
                _log.error("taken images are not remembered: the disk does not answer", path=str(self._path))
                return
        self.flush()
        self._sqlite.close()
        os.close(self._process_lock)

    def _write_behind(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except PatchlineError as error:
                self._error = error
                return

    def _use(self, operation: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return the result of an operation. It is repeated once if the file is damaged, on what can be read of it."""
        try:
            return operation(self._sqlite)
        except sqlite3.Error as error:
            if not damage.is_damage(error):
                raise
            self._sqlite.close()
            damage.replace(self._path, str(error), _copy)
            self._sqlite = _connect(self._path)
            _prepare(self._sqlite)
        return operation(self._sqlite)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)


def _all_rows(sqlite: sqlite3.Connection) -> list[Row]:
    return sqlite.execute(_SELECT).fetchall()


def _prepare(sqlite: sqlite3.Connection) -> None:
    sqlite.execute("PRAGMA journal_mode=WAL")
    sqlite.execute("PRAGMA synchronous=NORMAL")
    sqlite.execute(_SCHEMA)


def _write(sqlite: sqlite3.Connection, changes: Mapping[str, Row | None]) -> None:
    sqlite.execute("BEGIN IMMEDIATE")
    try:
        sqlite.executemany(_INSERT, [row for row in changes.values() if row is not None])
        sqlite.executemany(_DELETE, [(os.fsencode(path),) for path, row in changes.items() if row is None])
        sqlite.execute("COMMIT")
    except sqlite3.Error:
        if sqlite.in_transaction:
            sqlite.execute("ROLLBACK")
        raise


def _copy(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> damage.Rescue:
    """Copy what can be read. An image that is forgotten is sent again, as the same job."""
    fresh.execute(_SCHEMA)
    fresh.execute(f"PRAGMA user_version={_STARTED}")
    rescue = damage.Rescue()
    for path in damage.keys(damaged, "taken", "path", bytes):
        row = damage.row(damaged, _SELECT_ONE, path)
        if row is not None and all(isinstance(value, int) for value in row[1:5]):
            fresh.execute(_INSERT, row)
            rescue.kept += 1
        else:
            rescue.known_lost += 1
    return rescue


def digest(image: bytes) -> bytes:
    """Return a digest of an image's content."""
    return hashlib.blake2b(image, digest_size=16).digest()


def _row(path: str, signature: Signature, image_digest: bytes | None) -> Row:
    return os.fsencode(path), *signature, image_digest
