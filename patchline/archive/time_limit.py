"""Ends a query of SQLite that takes too long. PostgreSQL has `statement_timeout` for that."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_S = 30.0
_CANCELLED = "57014"  # by statement_timeout (PostgreSQL, appendix A)
_STEPS = 50_000  # of SQLite's machine between two looks at the clock: some milliseconds


@contextmanager
def limited(connection: sqlite3.Connection, limit_s: float) -> Iterator[None]:
    """Have SQLite interrupt what the connection does in this block, once the block has taken `limit_s` seconds."""
    ends_at = time.monotonic() + limit_s
    connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def was_ended(error: BaseException) -> bool:
    """Return True for the error of a driver whose query has taken too long."""
    is_interrupted = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    return is_interrupted or getattr(error, "sqlstate", None) == _CANCELLED
