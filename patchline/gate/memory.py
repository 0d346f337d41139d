"""What a gate must not forget when it restarts: the parts that it expects, and the jobs that it has acted on.

SQLite in write-ahead mode: an entry survives the process, whichever way that ends; the last ones may not survive a
loss of power, and then the parts on the line have to be looked at anyway. A thread of its own writes: a disk can take
seconds for it, and parts do not wait.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog

from patchline.gate.decide import Action
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Announcement

_log = structlog.get_logger(__name__)
_Statement = tuple[str, tuple[str | int, ...]]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS expected (job_id TEXT PRIMARY KEY, part TEXT);
CREATE TABLE IF NOT EXISTS acted (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, because TEXT);
"""


class Memory:
    """One line's file; one gate uses it. What it is told is written down in order, soon after."""

    def __init__(self, path: Path, remember: int) -> None:
        self._remember = remember
        self._kept_last = True
        self._fault: Exception | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="memory")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used as a gate's memory ({error}); move it aside") from error

    def expect(self, part: Announcement) -> None:
        """A part was announced."""
        self._tell(("INSERT OR IGNORE INTO expected VALUES (?, ?)", (part.job_id, part.model_dump_json())))

    def acted(self, action: Action) -> None:
        """The gate has acted: once, and it waits no longer."""
        self._tell(
            ("DELETE FROM expected WHERE job_id = ?", (action.job_id,)),
            ("INSERT OR IGNORE INTO acted (job_id, because) VALUES (?, ?)", (action.job_id, action.because)),
            ("DELETE FROM acted WHERE number <= (SELECT max(number) FROM acted) - ?", (self._remember,)),
        )

    def then(self, task: Callable[[], None]) -> None:
        """Have something done when all that was told before is written down. Raises what an earlier task has raised."""
        if self._fault is not None:
            raise self._fault
        self._writer.submit(self._do, task)

    def expected(self) -> list[Announcement]:
        """The parts that were announced and not acted on."""
        rows = self._file.execute("SELECT part FROM expected ORDER BY rowid").fetchall()
        return [Announcement.model_validate_json(part) for (part,) in rows]

    def remembered(self) -> list[tuple[str, str]]:
        """Job ids that were acted on, and because of what, oldest first."""
        return self._file.execute("SELECT job_id, because FROM acted ORDER BY number").fetchall()

    def close(self) -> None:
        """Write down what is left, and leave the file as it is. Raises what a task has raised."""
        self._writer.shutdown()
        self._file.close()
        if self._fault is not None:
            raise self._fault

    def _tell(self, *statements: _Statement) -> None:
        self.then(partial(self._write, statements))

    # From here on everything runs on the thread that writes.

    def _do(self, task: Callable[[], None]) -> None:
        try:
            if self._fault is None:
                task()
        except Exception as fault:  # noqa: BLE001 - for whoever tells something next
            self._fault = fault

    def _write(self, statements: Sequence[_Statement]) -> None:
        """One transaction. On a full disk parts go by all the same: what cannot be kept, this process still knows."""
        try:
            with self._file:
                self._file.execute("BEGIN")
                for statement in statements:
                    self._file.execute(*statement)
        except sqlite3.Error as error:
            if self._kept_last:  # said once, not for each part
                _log.error("the memory cannot be written: a restart would forget parts", why=str(error))
            self._kept_last = False
        else:
            self._kept_last = True
