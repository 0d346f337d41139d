"""The archive of a configuration."""

from __future__ import annotations

from pathlib import Path

from patchline import config
from patchline.archive.database import Access
from patchline.archive.folder_store import FolderStore
from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.store import Store

FILE = "archive.sqlite"
PICTURES = "pictures"


def target(settings: config.Config) -> Path | str:
    """Return the file of SQLite, or the url of PostgreSQL."""
    return settings.archive.url or settings.paths.archive / FILE


def open_archive(settings: config.Config, access: Access = Access.MAKE, limit_s: float | None = None) -> LedgerDatabase:
    """Return the archive of a configuration. See `Database` for the limit and the errors."""
    return LedgerDatabase(target(settings), access, lambda: config.archive_url(settings.archive), limit_s)


def open_store(settings: config.Config) -> Store:
    """Return the store of the pictures. Raises SetupError if it cannot be used as it is configured."""
    rules = settings.archive.pictures
    if not rules.store:
        return _folder(settings)
    from patchline.archive.s3_store import S3Store
    from patchline.runtime.bucket import Bucket

    return S3Store(Bucket(rules.store, rules.endpoint, rules.region))


def make_folder(settings: config.Config) -> None:
    """Make the folder of the pictures, unless they are in S3. Raises StoreUnavailable."""
    if not settings.archive.pictures.store:
        _folder(settings).make()


def _folder(settings: config.Config) -> FolderStore:
    return FolderStore(settings.paths.archive / PICTURES, settings.archive.pictures.min_free_bytes)
