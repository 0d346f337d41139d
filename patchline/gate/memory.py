"""The state of a gate on disk: the parts it expects and the jobs it has acted on.

SQLite in write-ahead mode. An entry survives the end of the process. The last entries may not survive a power failure;
the parts on the line have to be checked by hand then. Writes run on a separate thread, because a slow disk can take
seconds and parts do not wait.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog

from patchline.gate import memory_tables
from patchline.gate.memory_tables import ExpectedPart
from patchline.protocol.errors import DamagedError, SetupError
from patchline.protocol.messages import Announcement
from patchline.runtime import damage

_log = structlog.get_logger(__name__)
_Statement = tuple[str, tuple[str | int, ...]]


class Memory:
    """The file of one gate instance. Writes are queued and run in order on a separate thread.

    Args:
        path: the file; created if missing.
        remember: number of actions to keep.
        legacy: the file of an earlier build, which becomes the file of the first instance that starts.

    Raises:
        SetupError: the file cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path, remember: int, legacy: Path | None = None) -> None:
        self._path, self._remember = path, remember
        self._last_write_succeeded = True
        self._failure: Exception | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="memory")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            migrated = legacy is not None and _take_over(legacy, path)
            damage.finish(path)
            self._open()
            if migrated:
                self._migrate()
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used as a gate's memory ({error})") from error

    def save_part(self, part: Announcement, arrived_at: int) -> None:
        """Save an announced part with the time of its arrival (epoch milliseconds)."""
        values = (part.job_id, part.model_dump_json(), arrived_at)
        self._enqueue_write(("INSERT OR IGNORE INTO expected VALUES (?, ?, ?)", values))

    def forget_part(self, job_id: str) -> None:
        """Delete a part that another gate must have acted on."""
        self._enqueue_write(("DELETE FROM expected WHERE job_id = ?", (job_id,)))

    def save_held_last(self, held_last: bool) -> None:
        """Save whether this instance was the last one to hold the lease."""
        self._enqueue_write(("DELETE FROM lease", ()), ("INSERT INTO lease VALUES (?)", (int(held_last),)))

    def save_has_partner(self, has_partner: bool) -> None:
        """Save whether the line has another gate."""
        self._enqueue_write(("DELETE FROM partner", ()), ("INSERT INTO partner VALUES (?)", (int(has_partner),)))

    def save_action(self, job_id: str, because: str) -> None:
        """Save that a gate has acted, and delete the part."""
        self._enqueue_write(
            ("DELETE FROM expected WHERE job_id = ?", (job_id,)),
            ("INSERT OR IGNORE INTO acted (job_id, because) VALUES (?, ?)", (job_id, because)),
            ("DELETE FROM acted WHERE number <= (SELECT max(number) FROM acted) - ?", (self._remember,)),
        )

    def enqueue(self, task: Callable[[], None]) -> None:
        """Run a task after all writes that were queued before. Raises the error of an earlier task."""
        if self._failure is not None:
            raise self._failure
        self._executor.submit(self._run, task)

    def load_expected(self) -> list[ExpectedPart]:
        """Return the parts that were announced and not acted on."""
        rows = self._sqlite.execute("SELECT * FROM expected ORDER BY rowid").fetchall()
        return [memory_tables.expected_part(*row) for row in rows]

    def load_held_last(self) -> bool:
        """Return whether this instance was the last one to hold the lease."""
        return bool(self._sqlite.execute("SELECT max(held_last) FROM lease").fetchone()[0])

    def load_has_partner(self) -> bool:
        """Return whether the line had another gate."""
        return bool(self._sqlite.execute("SELECT max(known) FROM partner").fetchone()[0])

    def load_acted(self) -> list[tuple[str, str]]:
        """Return job id and reason of each remembered action, oldest first."""
        return self._sqlite.execute("SELECT job_id, because FROM acted ORDER BY number").fetchall()

    def close(self) -> None:
        """Finish the queued tasks and close the file. Raises the error of a task."""
        self._executor.shutdown()
        self._sqlite.close()
        if self._failure is not None:
            raise self._failure

    def _open(self) -> None:
        """Open the file. What is there is read once: a damaged file is replaced by what can be read of it."""
        self._connect()
        try:
            self._prepare()
            for load in (self.load_expected, self.load_acted, self.load_held_last, self.load_has_partner):
                load()
        except (sqlite3.Error, MemoryError, ValueError) as error:
            if not isinstance(error, ValueError) and not damage.is_damage(error):
                raise
            self._replace(error)

    def _connect(self) -> None:
        self._sqlite = sqlite3.connect(self._path, timeout=10.0, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        self._sqlite.execute("PRAGMA journal_mode=WAL")
        self._sqlite.execute("PRAGMA synchronous=NORMAL")
        self._sqlite.executescript(memory_tables.SCHEMA)

    def _replace(self, error: Exception) -> None:
        self._sqlite.close()
        damage.replace(self._path, str(error).splitlines()[0], memory_tables.copy_readable)
        self._connect()
        self._prepare()

    def _migrate(self) -> None:
        """Add what the memory of an earlier build does not have. Its gate was the only one of the line."""
        with contextlib.suppress(sqlite3.OperationalError):  # has the column already
            self._sqlite.execute("ALTER TABLE expected ADD COLUMN arrived_at INTEGER")
        self._sqlite.execute("INSERT INTO lease VALUES (1)")

    def _enqueue_write(self, *statements: _Statement) -> None:
        self.enqueue(partial(self._write, statements))

    # The methods below run on the executor's thread.

    def _run(self, task: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                task()
        except Exception as failure:  # noqa: BLE001 - the next call of `enqueue` raises it
            self._failure = failure

    def _write(self, statements: Sequence[_Statement]) -> None:
        """Write one transaction. An error, for example a full disk, is logged and does not stop the gate."""
        try:
            try:
                self._run_all(statements)
            except (sqlite3.Error, MemoryError) as error:
                if not damage.is_damage(error):
                    raise
                self._replace(error)
                self._run_all(statements)
        except (sqlite3.Error, DamagedError) as error:
            if self._last_write_succeeded:  # log the first failure only, not one per part
                _log.error("gate memory cannot be written, a restart would forget parts", reason=str(error))
            self._last_write_succeeded = False
        else:
            self._last_write_succeeded = True

    def _run_all(self, statements: Sequence[_Statement]) -> None:
        with self._sqlite:
            self._sqlite.execute("BEGIN")
            for statement in statements:
                self._sqlite.execute(*statement)


def _take_over(legacy: Path, path: Path) -> bool:
    """Rename the file of an earlier build, with its write-ahead log, unless there is a newer one."""
    if path.exists() or not legacy.exists():
        return False
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            legacy.with_name(legacy.name + suffix).replace(path.with_name(path.name + suffix))
    return True
