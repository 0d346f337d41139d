"""Who has changed what, by the console. Entries are never changed or deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from patchline.console.database import ConsoleDatabase
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A change.

    Attributes:
        at: epoch milliseconds.
        who: an account; or `command line`, with the user of the host.
        what: a word for the kind of the change.
        detail: whom or what it concerns.
    """

    at: int
    who: str
    what: str
    detail: str


def write(connection: sqlite3.Connection, at: int, who: str, what: str, detail: str) -> None:
    """Write an entry within a transaction, so that no change is without one."""
    connection.execute("INSERT INTO audit (at, who, what, detail) VALUES (?, ?, ?, ?)", (at, who, what, detail))


def record(database: ConsoleDatabase, who: str, what: str, detail: str) -> None:
    """Write an entry of its own about something that is done already.

    While the file of the console takes none, such as on a full disk, the log of this process has it instead: what is
    done would be shown as an error, and done again.
    """
    try:
        with database.transaction() as connection:
            write(connection, database.now_ms(), who, what, detail)
    except SetupError as error:
        _log.error("an entry of the audit log is only here", who=who, what=what, detail=detail, reason=str(error))


def latest(database: ConsoleDatabase, most: int) -> list[Entry]:
    """Return the latest entries, the newest first. Raises SetupError."""
    query = "SELECT at, who, what, detail FROM audit ORDER BY number DESC LIMIT ?"
    return [Entry(*row) for row in database.read(query, most)]


def between(database: ConsoleDatabase, since: int, until: int, kinds: Sequence[str], most: int) -> list[Entry]:
    """Return the latest entries of some kinds in a span of time, the newest first. Raises SetupError."""
    places = ", ".join("?" * len(kinds))
    query = f"SELECT at, who, what, detail FROM audit WHERE at >= ? AND at < ? AND what IN ({places})"
    rows = database.read(f"{query} ORDER BY number DESC LIMIT ?", since, until, *kinds, most)
    return [Entry(*row) for row in rows]
