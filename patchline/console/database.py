"""The file of the console: accounts, log-ins, the audit log, and what was known last of the plant (SQLite).

It is not the archive's database: the console reads that one only, people can log in while it is away, and no log-in
waits for a batch of verdicts.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patchline.protocol.errors import DamagedError, MismatchError, SetupError
from patchline.runtime import damage, disk

_BUSY_S = 5.0
_ROOM = 2_000_000  # bytes: what a change adds, and what the log of changes may grow by until it is written back
# What each version of the file adds to the one before.
_VERSIONS = (
    """
CREATE TABLE accounts (name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL, changed_at INTEGER NOT NULL);
CREATE TABLE sessions (digest TEXT PRIMARY KEY, name TEXT NOT NULL, csrf TEXT NOT NULL, started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL);
CREATE INDEX sessions_name ON sessions (name);
CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL,
    what TEXT NOT NULL, detail TEXT NOT NULL);
""",
    """
ALTER TABLE accounts ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN must_change INTEGER NOT NULL DEFAULT 0;
""",
    """
ALTER TABLE accounts ADD COLUMN subject TEXT;
CREATE UNIQUE INDEX accounts_subject ON accounts (subject);
""",
    "CREATE TABLE known (key TEXT PRIMARY KEY, at INTEGER NOT NULL, value TEXT NOT NULL);",
)
Row = tuple[Any, ...]


class ConsoleDatabase:
    """The file, made if it is missing. Thread-safe: one statement at a time. Other processes may use it, too.

    Args:
        path: the file; only its owner can read it.
        now_ms: the wall clock.

    Raises:
        SetupError: it cannot be made or opened; DiskFull, which is one: there is no room.
        MismatchError: a later build has made it.
        DamagedError: it is damaged.
    """

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._path, self.now_ms = path, now_ms
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise SetupError(f"{path}: cannot be written ({error.strerror}); see console.database") from error
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare()

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(_VERSIONS):
                raise MismatchError(f"{self._path} was changed by a later build of Patchline; run that build")
            for statements in _VERSIONS[version:]:
                for statement in filter(str.strip, statements.split(";")):
                    connection.execute(statement)
            if version < len(_VERSIONS):  # a full disk takes no page, and keeps no console from starting
                connection.execute(f"PRAGMA user_version={len(_VERSIONS)}")

    def require_room(self, size: int = 0) -> None:
        """Raise DiskFull if there is no room for some changes, and `size` bytes of files beside the database."""
        disk.require_room(self._path.parent, _ROOM + size)

    def read(self, query: str, *values: object) -> list[Row]:
        """Return the rows of a query. Raises SetupError."""
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Enclose statements that are committed together, and survive a power failure. Raises SetupError."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            try:
                self._connection.execute("COMMIT")
            except sqlite3.Error:  # a full disk: SQLite may have undone it, or not
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if damage.is_damage(error):
                advice = "move it away with its -wal and -shm files and restore a backup, or add the accounts anew"
                raise DamagedError(f"{self._path}: is damaged ({error}); {advice}") from error
            if disk.is_full(error):
                raise disk.full(self._path) from error
            raise SetupError(f"{self._path}: cannot be used ({error})") from error
