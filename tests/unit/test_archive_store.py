"""The archive in memory and in SQLite: the contract, and what only a file has."""

import os
import sqlite3
import stat
from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from patchline.archive import database, ledger_database, picture_table, rows
from patchline.archive.base import Saved, TookTooLong, Unavailable, Unstorable
from patchline.archive.database import Access, Database
from patchline.archive.memory import MemoryArchive
from patchline.broker.base import Message
from patchline.protocol.errors import DamagedError, MismatchError, SetupError, Unusable
from tests.archive_contract import NOW, ArchiveContract, Setting, message, record

ENDLESS = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number) SELECT"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "archive" / "archive.sqlite"


def opened(file, access=Access.MAKE):
    archive = Database(file, access)
    if access is Access.MAKE:
        archive.prepare()
    return archive


class TestMemory(ArchiveContract):
    @pytest.fixture
    def setting(self):
        archive = MemoryArchive()
        return Setting(archive, lambda: archive)


class TestSQLite(ArchiveContract):
    @pytest.fixture
    def setting(self, file):
        archives = [opened(file)]

        def reopen():
            archives[-1].close()
            archives.append(opened(file))
            return archives[-1]

        yield Setting(archives[0], reopen)
        archives[-1].close()


def test_the_tables_of_the_changes_are_those_of_the_code(file):
    opened(file).close()
    assert {picture_table, ledger_database}  # have tables of their own
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), database.METADATA)
    engine.dispose()
    assert differences == []


def test_a_commit_survives_a_power_failure(file):
    """As SQLite documents it: with a write-ahead log, FULL syncs the log at each commit; NORMAL does not."""
    archive = opened(file)
    with archive._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    archive.close()


def test_a_batch_with_something_that_cannot_be_stored_stores_nothing(file):
    archive = opened(file)
    good = record("good")
    bad = rows.record(message("bad"), 2**63)  # no integer of SQLite
    with pytest.raises(Unstorable):
        archive.save([good, bad], [])
    assert archive.get("good") is None
    archive.close()


def test_another_process_that_writes_makes_the_archive_wait_and_loses_nothing(file, monkeypatch):
    monkeypatch.setattr(database, "_SQLITE_TIMEOUT_S", 0.0)
    archive = opened(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            archive.save([record()], [])
    assert archive.save([record()], []) == Saved(verdicts=1)
    archive.close()


def test_a_reader_does_not_hinder_the_archive(file):
    archive, reader = opened(file), opened(file, Access.READ)
    archive.save([record("a"), record("b")], [])
    with reader._engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM verdicts").fetchone()
        assert archive.save([record("c")], []) == Saved(verdicts=1)
    with pytest.raises(Unavailable, match="readonly"):
        reader.save([record("d")], [])
    archive.close()
    reader.close()


def test_the_file_is_readable_by_its_owner_only_whatever_the_umask_and_the_folder(file):
    file.parent.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        archive = opened(file)
        archive.save([record()], [])
        assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}
        archive.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("access", [Access.READ, Access.CHANGE])
def test_only_the_archive_makes_the_archive(file, access):
    with pytest.raises(SetupError, match="there is no archive"):
        Database(file, access)
    assert not file.parent.exists()
    file.parent.mkdir()
    file.touch()
    archive = Database(file, access)
    with pytest.raises(
        Unavailable, match=r"no such table: verdicts; `patchline archive` of this build makes its tables"
    ):
        archive.get("job-1")
    archive.close()


def test_a_database_of_a_later_build_is_refused(file):
    opened(file).close()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    archive = Database(file)
    with pytest.raises(MismatchError, match="later build"):
        archive.prepare()
    archive.close()


def test_a_later_build_that_changes_the_tables_meanwhile_ends_the_archive_and_nothing_is_set_aside(file):
    archive = opened(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("ALTER TABLE verdicts RENAME COLUMN backbone TO spine")
    with pytest.raises(Unavailable, match="no column named backbone"):  # who knows by whom
        archive.save([record()], [])
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(MismatchError, match="later build"):
        archive.save([record()], [])
    archive.close()


def test_a_damaged_file_is_named_with_what_to_do(file):
    archive = opened(file)
    archive.save([record(f"job-{number}") for number in range(2000)], [])
    archive.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(content)
    archive = Database(file)
    with pytest.raises(DamagedError, match="restore a backup"):
        archive.prepare()
    archive.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file.*paths\.archive"):
        Database(tmp_path / "file" / "archive.sqlite")


def test_a_url_is_never_quoted():
    with pytest.raises(SetupError) as refused:
        Database("postgresql://user:secret@host:port/database")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"job_id": "a"}', b'{"detail": "\\ud800"}'])
def test_a_message_that_is_no_verdict_is_unusable_and_can_be_kept(file, body):
    with pytest.raises(Unusable):
        rows.record(Message(body), NOW)
    archive = opened(file)
    row = rows.unreadable(Message(body, "id\udcff\0"), "key", "reason\0", NOW)
    assert archive.save([], [row]) == Saved(unreadable=1)
    assert archive.unreadable(1) == [row]
    archive.close()


@pytest.mark.parametrize("what", ["count(*)", "n"])
def test_a_query_that_takes_too_long_is_ended_and_its_connection_is_free_again(file, what):
    opened(file).close()
    with closing(Database(file, Access.READ, limit_s=0.05)) as archive:
        with pytest.raises(TookTooLong, match="interrupted; choose a shorter time, or one line"):
            list(archive.read(sa.text(f"{ENDLESS} {what} FROM number")))
        assert archive._engine.pool.checkedout() == 0
        archive.check()


def test_a_reader_without_a_limit_may_take_its_time(file):
    opened(file).close()
    with closing(Database(file, Access.READ)) as archive:
        assert list(archive.read(sa.text(f"{ENDLESS} n FROM number LIMIT 100000")))[-1] == {"n": 100_000}
