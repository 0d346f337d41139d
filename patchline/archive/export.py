"""Verdicts of a search as a file: CSV for spreadsheets, Parquet for analysis. The only pyarrow user."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from patchline.archive import times
from patchline.archive.base import Record
from patchline.protocol.errors import SetupError

_TIMES = ("captured_at", "received_at", "decided_at", "archived_at")
_COLUMNS = [field.name for field in fields(Record)]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet calculates cells that begin so
_ROWS_AT_ONCE = 10_000


def write(records: Iterable[Record], file: Path) -> int:
    """Write verdicts to a file, whose suffix is .csv or .parquet. Return their number.

    The file appears when it is complete. CSV has times in ISO 8601 (UTC) and no document.

    Raises:
        SetupError: the suffix is another one, the file cannot be written, or pyarrow is not installed.
    """
    writers: dict[str, Callable[[Iterable[Record], Path], int]] = {".csv": _write_csv, ".parquet": _write_parquet}
    if file.suffix not in writers:
        raise SetupError(f"{file}: the suffix must be one of {', '.join(writers)}")
    unfinished = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        count = writers[file.suffix](records, unfinished)
        unfinished.replace(file)
    except OSError as error:
        raise SetupError(f"{file}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return count


def _write_csv(records: Iterable[Record], file: Path) -> int:
    columns = [column for column in _COLUMNS if column != "document"]
    count = 0
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for record in records:
            writer.writerow([_cell(column, getattr(record, column)) for column in columns])
            count += 1
    return count


def _cell(column: str, value: object) -> object:
    if column in _TIMES and isinstance(value, int):
        return times.iso(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _write_parquet(records: Iterable[Record], file: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; Parquet needs: pip install 'patchline[parquet]'") from error
    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    time = pyarrow.timestamp("ms", "UTC")
    types = {field.name: kinds.get(str(field.type).partition(" ")[0], pyarrow.string()) for field in fields(Record)}
    schema = pyarrow.schema([(name, time if name in _TIMES else kind) for name, kind in types.items()])
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in _chunks(records):
            columns = {name: [getattr(record, name) for record in chunk] for name in _COLUMNS}
            writer.write_table(pyarrow.table(columns, schema=schema))
            count += len(chunk)
    return count


def _chunks(records: Iterable[Record]) -> Iterator[list[Any]]:
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _ROWS_AT_ONCE)):
        yield chunk
