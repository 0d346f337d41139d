"""Verdicts as files, and times as people write them."""

import csv
import sqlite3
import sys
from contextlib import closing

import pytest

from patchline.archive import export, times
from patchline.archive.base import Search, Unavailable
from patchline.archive.database import Access, Database
from patchline.cli import archive
from patchline.protocol.errors import SetupError
from tests.archive_contract import NOW, record

RECORDS = [
    record("a", detail='says "x", y\nz'),
    record("b", score=None, thresholds=None, captured_at=None, number=None, reason="crashed"),
]


def found(records):
    """Every other verdict has pictures."""
    return export.with_pictures(iter(records), lambda ids: {"a": ["heat_map", "image"]})


def read(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(params=[0, 2, 25_000])
def records(request):
    return (RECORDS * (request.param // 2 + 1))[: request.param]


@pytest.fixture
def archive_of_ten(tmp_path):
    with closing(Database(tmp_path / "archive.sqlite")) as database:
        database.prepare()
        database.save([record(f"j{number}", decided_at=NOW + number // 3) for number in range(10)], [])
        yield database


@pytest.mark.parametrize("most", [None, 1, 6, 7, 10, 20])
def test_pages_of_verdicts_are_what_one_search_finds(archive_of_ten, most):
    paged = export.in_pages(archive_of_ten.find, Search(most=most), 3)
    assert list(paged) == list(archive_of_ten.find(Search(most=most)))


def test_who_reads_verdicts_slowly_does_not_make_the_log_of_sqlite_grow(archive_of_ten, tmp_path):
    reader = Database(tmp_path / "archive.sqlite", Access.READ)
    with closing(reader), closing(export.in_pages(reader.find, Search(), 3)) as found:
        next(found)
        archive_of_ten.save([record("new")], [])
        with closing(sqlite3.connect(tmp_path / "archive.sqlite")) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def test_a_csv_file_has_a_row_for_each_verdict(records, tmp_path):
    file = tmp_path / "new" / "found.csv"
    assert export.write(found(records), file) == len(records)
    rows = read(file)
    assert len(rows) == len(records)
    for row, stored in list(zip(rows, records, strict=True))[:2]:
        assert (row["job_id"], row["detail"]) == (stored.job_id, stored.detail or "")
        assert row["score"] == ("" if stored.score is None else repr(stored.score))
        assert row["pictures"] == ("heat_map image" if stored.job_id == "a" else "")
        assert row["decided_at"] == "2023-11-14T22:13:20.000Z"
        assert "document" not in row


def test_a_parquet_file_is_read_as_it_was_written(records, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "found.parquet"
    assert export.write(found(records), file) == len(records)
    table = parquet.read_table(file)
    assert table.num_rows == len(records)
    assert str(table.schema.field("decided_at").type) == "timestamp[ms, tz=UTC]"
    assert str(table.schema.field("score").type) == "double"
    for row, stored in list(zip(table.to_pylist(), records, strict=True))[:2]:
        assert (row["job_id"], row["score"], row["number"]) == (stored.job_id, stored.score, stored.number)
        assert (row["document"], row["replay"]) == (stored.document, stored.replay)
        assert row["pictures"] == ("heat_map image" if stored.job_id == "a" else "")
        assert int(row["decided_at"].timestamp() * 1000) == stored.decided_at


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum(a1)", "\t=1"])
def test_no_cell_of_a_csv_file_is_a_formula(text, tmp_path):
    export.write([(record(detail=text), [])], tmp_path / "found.csv")
    (row,) = read(tmp_path / "found.csv")
    assert row["detail"] == f"'{text}"


def test_a_file_that_is_not_complete_is_not_there(tmp_path):
    def broken():
        yield RECORDS[0], []
        raise Unavailable("gone")

    for name in ("found.csv", "found.parquet"):
        with pytest.raises((Unavailable, SetupError)):
            export.write(broken(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SetupError, match=r"patchline\[parquet\]"):
        export.write(found(RECORDS), tmp_path / "found.parquet")


def test_another_suffix_and_a_folder_that_is_a_file_are_named(tmp_path):
    with pytest.raises(SetupError, match=r"\.csv, \.parquet"):
        export.write(found(RECORDS), tmp_path / "found.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be written"):
        export.write(found(RECORDS), tmp_path / "file" / "found.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW - 90_000),
        ("8h", NOW - 8 * 3_600_000),
        ("7d", NOW - 7 * 86_400_000),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20.500+01:00", NOW + 500),
        ("999999w", 0),
    ],
)
def test_a_time_is_read_as_it_is_written(text, expected):
    assert times.parse(text, NOW) == expected


def test_a_date_is_the_midnight_of_this_machine():
    from datetime import datetime

    assert times.parse("2026-11-28", NOW) == int(datetime(2026, 11, 28).astimezone().timestamp() * 1000)


@pytest.mark.parametrize("text", ["", "yesterday", "7x", "-1d", "28.11.2026", "2026-13-01", "1" * 30 + "d"])
def test_another_text_is_no_time(text):
    with pytest.raises(SetupError, match="is no time"):
        times.parse(text, NOW)


def test_a_verdict_in_one_line_has_what_a_person_looks_for_and_nothing_that_controls_a_terminal():
    found = record(decision="error", reason="\x1b[2Jcrashed", score=None)
    text = archive._brief(found, ["heat_map", "image"])
    assert text.endswith("part part-of-job-1 (\ufffd[2Jcrashed), job job-1, heat_map and image")
    assert "  fail     l1 brick part part-of-job-1, score 1200.5, job job-1" in archive._brief(record(), [])
