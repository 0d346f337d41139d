"""What was known last, in the file of the console: a restart of it forgets no process and no verdict."""

from __future__ import annotations

from collections.abc import Mapping

from patchline.console.database import ConsoleDatabase

KEPT_MS = 7 * 86_400_000


class Known:
    """Values by their keys, each with the time at which it was known. Thread-safe.

    Args:
        database: the file of the console.
    """

    def __init__(self, database: ConsoleDatabase) -> None:
        self._database = database

    def save(self, values: Mapping[str, tuple[int, str]]) -> None:
        """Store values with their times, in epoch milliseconds, and forget those of seven days ago.

        Raises:
            SetupError: the file cannot be written.
        """
        rows = [(key, at, value) for key, (at, value) in values.items()]
        with self._database.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", rows)
            connection.execute("DELETE FROM known WHERE at < ?", (self._database.now_ms() - KEPT_MS,))

    def all(self) -> dict[str, tuple[int, str]]:
        """Return the values of the last seven days. Raises SetupError."""
        query = "SELECT key, at, value FROM known WHERE at >= ?"
        return {key: (at, value) for key, at, value in self._database.read(query, self._database.now_ms() - KEPT_MS)}
