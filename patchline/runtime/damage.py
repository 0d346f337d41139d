"""Damaged files of a process: what can be read of them is kept, and the file is set aside for a person.

A new SQLite file is written beside the damaged one before either is renamed, so that a crash loses nothing.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from patchline.protocol.errors import DamagedError
from patchline.runtime import disk
from patchline.runtime.metrics import Gauge, Registry

_log = structlog.get_logger(__name__)
_MARK = ".damaged-"
_RESCUED = ".rescued"
_LOG_AND_INDEX = ("-wal", "-shm")  # files that SQLite keeps beside a database
_Key = TypeVar("_Key", int, bytes)
_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass
class Rescue:
    """Numbers of rows. A damaged page may hide more than is known to be lost."""

    kept: int = 0
    known_lost: int = 0
    without_image: int = 0


def is_damage(error: BaseException) -> bool:
    """Return True if an error says that the content of a file is damaged, or of the wrong encoding.

    Damaged lengths make SQLite ask for more memory than there is.
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "decode to UTF-8" in str(error)
    return code & 0xFF in _CODES or "unsupported file format" in str(error)


def replace(path: Path, reason: str, copy: Callable[[sqlite3.Connection, sqlite3.Connection], Rescue]) -> None:
    """Replace a damaged SQLite file by one with what can be read of it. Nobody else may use the file.

    Args:
        path: the file; it is renamed.
        reason: what is wrong, for the log.
        copy: copies from the damaged file to the new, empty one.

    Raises:
        DamagedError: the new file cannot be written. The damaged one is still in its place.
    """
    rescued = path.with_name(path.name + _RESCUED)
    try:
        for left_over in (rescued, rescued.with_name(rescued.name + "-journal")):
            left_over.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as damaged, closing(sqlite3.connect(rescued)) as fresh, fresh:
            result = copy(damaged, fresh)
        damaged_path = set_aside(path)
        rescued.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise _cannot_be_replaced(path, reason, error) from error
    _report(path, damaged_path, reason, result)


def finish(path: Path) -> None:
    """Complete a replacement that a crash has interrupted."""
    rescued = path.with_name(path.name + _RESCUED)
    if rescued.exists() and not path.exists():
        rescued.replace(path)


def set_aside(path: Path) -> Path:
    """Rename a file, with what SQLite keeps beside it. Return the new path."""
    target = _second_name(path)
    for suffix in (*_LOG_AND_INDEX, ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(target.with_name(target.name + suffix))
    return target


def replace_text(path: Path, readable: bytes, unreadable: int) -> None:
    """Replace a file of lines by those that can be read. The damaged file is kept if whole lines are not readable.

    Raises:
        DamagedError: the new file cannot be written. The damaged one is still in its place.
    """
    rescued = path.with_name(path.name + _RESCUED)
    reason = f"{unreadable} lines are not readable"
    try:
        rescued.write_bytes(readable)
        disk.sync(rescued)  # the next power failure must not leave an empty file
        rescued.chmod(path.stat().st_mode)
        if unreadable:
            damaged_path = _second_name(path)
            os.link(path, damaged_path)
            _report(path, damaged_path, reason, Rescue(readable.count(b"\n"), unreadable))
        rescued.replace(path)
    except OSError as error:
        raise _cannot_be_replaced(path, reason, error) from error


def keys(
    damaged: sqlite3.Connection, table: str, key: str, type_: type[_Key], indexes: dict[str, str] | None = None
) -> list[_Key]:
    """Return the keys of all rows that can be found, sorted: from both ends of the table, and by its indexes.

    Args:
        damaged: the file.
        table: the table.
        key: its primary key.
        type_: the type of the keys.
        indexes: the names of indexes, and the column of each.
    """
    found: set[_Key] = set()
    scans = [("NOT INDEXED", key), *((f"INDEXED BY {name}", column) for name, column in (indexes or {}).items())]
    for scan, column in scans:
        for direction in ("ASC", "DESC"):
            results = rows(damaged, f"SELECT {key} FROM {table} {scan} ORDER BY {column} {direction}")
            found.update(value for (value,) in results if isinstance(value, type_))
    return sorted(found)


def rows(damaged: sqlite3.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows until the end, or until a damaged page."""
    with suppress(sqlite3.Error, MemoryError):
        yield from damaged.execute(statement)


def row(damaged: sqlite3.Connection, statement: str, *values: object) -> tuple[Any, ...] | None:
    """Return one row, or None if it cannot be read."""
    try:
        result: tuple[Any, ...] | None = damaged.execute(statement, values).fetchone()
    except (sqlite3.Error, MemoryError):
        return None
    return result


def show(registry: Registry, line: str, folder: Path) -> None:
    """Show how many damaged files of a line lie in a folder. It is 0 again when a person has removed them."""
    gauge = Gauge("patchline_damaged_files", "Damaged files that were set aside.", ["line"], registry=registry)
    gauge.labels(line).set_function(lambda: len(set_aside_files(folder, line)))


def set_aside_files(folder: Path, line: str) -> list[Path]:
    """Return the damaged files of a line in a folder."""
    files = folder.glob(f"{line}.*{_MARK}*")
    return sorted(path for path in files if not path.name.endswith(_LOG_AND_INDEX))


def _second_name(path: Path) -> Path:
    return path.with_name(f"{path.name}{_MARK}{time.time_ns() // 1_000_000}")


def _report(path: Path, damaged_path: Path, reason: str, rescue: Rescue) -> None:
    message = "damaged file set aside, going on with what can be read"
    _log.error(message, path=str(path), set_aside=str(damaged_path), reason=reason, **asdict(rescue))


def _cannot_be_replaced(path: Path, reason: str, error: Exception) -> DamagedError:
    return DamagedError(
        f"{path}: is damaged ({reason}), and what can be read of it cannot be saved ({error}); "
        "make its folder writable, with as much free space as the file has, or go on without it: move it away"
    )
