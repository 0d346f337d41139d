"""The archive of a configuration."""

from __future__ import annotations

from pathlib import Path

from patchline import config
from patchline.archive.ledger_database import LedgerDatabase

FILE = "archive.sqlite"


def target(settings: config.Config) -> Path | str:
    """Return the file of SQLite, or the url of PostgreSQL."""
    return settings.archive.url or settings.paths.archive / FILE


def open_archive(settings: config.Config, read_only: bool = False) -> LedgerDatabase:
    """Return the archive of a configuration. See `Database` for the errors."""
    return LedgerDatabase(target(settings), read_only)
