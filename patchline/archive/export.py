"""Verdicts of a search as a file: CSV for spreadsheets, Parquet for analysis. The only pyarrow user."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from patchline.archive import times
from patchline.archive.base import Record, Search
from patchline.protocol.errors import SetupError

_TIMES = ("captured_at", "received_at", "decided_at", "archived_at")
_PICTURES = "pictures"
_COLUMNS = [*(field.name for field in fields(Record)), _PICTURES]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet calculates cells that begin so
_ROWS_AT_ONCE, _LOOKED_UP_AT_ONCE, _PAGE = 10_000, 500, 500

Found = tuple[Record, list[str]]  # a verdict, and the kinds of pictures that there are of its part


def in_pages(find: Callable[[Search], Iterable[Record]], search: Search, most: int = _PAGE) -> Iterator[Record]:
    """Yield what `find` of an archive yields, up to `search.most`, and read each page of it as a whole.

    Whoever takes them slowly, as a person does who reads in a pager, holds no transaction open: during one, the log of
    SQLite only grows.
    """
    left = search.most
    while left is None or left > 0:
        size = most if left is None else min(most, left)
        page = list(find(replace(search, most=size)))
        yield from page
        if len(page) < size:
            return
        left = None if left is None else left - size
        search = replace(search, before=(page[-1].decided_at, page[-1].job_id))


def with_pictures(records: Iterable[Record], kinds: Callable[[Sequence[str]], dict[str, list[str]]]) -> Iterator[Found]:
    """Yield verdicts with the kinds of their pictures. They are looked up by `kinds` for some hundred at a time."""
    for chunk in _chunks(records, _LOOKED_UP_AT_ONCE):
        pictures = kinds([record.job_id for record in chunk])
        yield from ((record, pictures.get(record.job_id, [])) for record in chunk)


def write(found: Iterable[Found], file: Path) -> int:
    """Write verdicts to a file, whose suffix is .csv or .parquet. Return their number.

    The file appears when it is complete. The column `pictures` has the kinds of pictures in the archive, with a space
    between them. CSV has times in ISO 8601 (UTC) and no document.

    Raises:
        SetupError: the suffix is another one, the file cannot be written, or pyarrow is not installed.
    """
    writers: dict[str, Callable[[Iterable[Found], Path], int]] = {".csv": _write_csv, ".parquet": _write_parquet}
    if file.suffix not in writers:
        raise SetupError(f"{file}: the suffix must be one of {', '.join(writers)}")
    unfinished = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        count = writers[file.suffix](found, unfinished)
        unfinished.replace(file)
    except OSError as error:
        raise SetupError(f"{file}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return count


def _write_csv(found: Iterable[Found], file: Path) -> int:
    columns = [column for column in _COLUMNS if column != "document"]
    count = 0
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for one in found:
            writer.writerow([_cell(column, _value(one, column)) for column in columns])
            count += 1
    return count


def _value(found: Found, column: str) -> Any:
    record, pictures = found
    return " ".join(pictures) if column == _PICTURES else getattr(record, column)


def _cell(column: str, value: object) -> object:
    if column in _TIMES and isinstance(value, int):
        return times.iso(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _write_parquet(found: Iterable[Found], file: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; Parquet needs: pip install 'patchline[parquet]'") from error
    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    time = pyarrow.timestamp("ms", "UTC")
    types = {field.name: kinds.get(str(field.type).partition(" ")[0], pyarrow.string()) for field in fields(Record)}
    types[_PICTURES] = pyarrow.string()
    schema = pyarrow.schema([(name, time if name in _TIMES else kind) for name, kind in types.items()])
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in _chunks(found, _ROWS_AT_ONCE):
            columns = {name: [_value(one, name) for one in chunk] for name in _COLUMNS}
            writer.write_table(pyarrow.table(columns, schema=schema))
            count += len(chunk)
    return count


def _chunks(items: Iterable[Any], most: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, most)):
        yield chunk
