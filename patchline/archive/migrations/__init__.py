"""Brings the tables of an archive up to date. Each change of them is a file in `versions/`, run by Alembic.

Nothing here reads a configuration: the connection comes from `patchline.archive.database`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def upgrade(connection: Any) -> None:
    """Run the changes that a database does not have, in the transaction of its connection (SQLAlchemy)."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_current(connection: Any) -> bool:
    """Return True if a database has all changes."""
    return _version(connection) == ScriptDirectory.from_config(_config()).get_current_head()


def is_of_a_later_build(connection: Any) -> bool:
    """Return True if a database has changes that this build does not know."""
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    version = _version(connection)
    return version is not None and version not in known


def _version(connection: Any) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
