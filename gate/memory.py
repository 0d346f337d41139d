"""What a gate must not forget when it restarts: the parts that it expects, and the jobs that it has acted on.

SQLite in write-ahead mode: an entry survives the process, whichever way that ends; the last ones may not survive a
loss of power, and then the parts on the line have to be looked at anyway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from gate.decide import Action
from inspection.errors import SetupError
from inspection.message import Announcement

_log = structlog.get_logger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS expected (job_id TEXT PRIMARY KEY, part TEXT);
CREATE TABLE IF NOT EXISTS acted (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, because TEXT);
"""


class Memory:
    """One line's file; one gate uses it."""

    def __init__(self, path: Path, remember: int) -> None:
        self._remember = remember
        self._kept_last = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=10.0, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used as a gate's memory ({error}); move it aside") from error

    def expect(self, part: Announcement) -> None:
        """A part was announced."""
        with self._kept() as file:
            file.execute("INSERT OR IGNORE INTO expected VALUES (?, ?)", (part.job_id, part.model_dump_json()))

    def acted(self, action: Action) -> None:
        """The gate has acted: once, and it waits no longer."""
        with self._kept() as file:
            file.execute("DELETE FROM expected WHERE job_id = ?", (action.job_id,))
            file.execute("INSERT OR IGNORE INTO acted (job_id, because) VALUES (?, ?)", (action.job_id, action.because))
            file.execute("DELETE FROM acted WHERE number <= (SELECT max(number) FROM acted) - ?", (self._remember,))

    def expected(self) -> list[Announcement]:
        """The parts that were announced and not acted on."""
        rows = self._file.execute("SELECT part FROM expected ORDER BY rowid").fetchall()
        return [Announcement.model_validate_json(part) for (part,) in rows]

    def remembered(self) -> list[tuple[str, str]]:
        """Job ids that were acted on, and because of what, oldest first."""
        return self._file.execute("SELECT job_id, because FROM acted ORDER BY number").fetchall()

    def close(self) -> None:
        """Leave the file as it is."""
        self._file.close()

    @contextmanager
    def _kept(self) -> Iterator[sqlite3.Connection]:
        """One transaction. On a full disk parts go by all the same: what cannot be kept, this process still knows."""
        try:
            with self._file:
                self._file.execute("BEGIN")
                yield self._file
        except sqlite3.Error as error:
            if self._kept_last:  # said once, not for each part
                _log.error("the memory cannot be written: a restart would forget parts", why=str(error))
            self._kept_last = False
        else:
            self._kept_last = True
