"""The archive in PostgreSQL: the contract, and what only a server has."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from patchline import config
from patchline.archive import database, opening, rows
from patchline.archive.base import Saved, Search, TookTooLong, Unavailable, Unstorable
from patchline.archive.database import Access, Database
from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.period_table import PeriodTable
from patchline.archive.picture_table import PictureTable
from patchline.protocol.errors import MismatchError, SetupError
from tests.archive_contract import ArchiveContract, Setting, message, record
from tests.conftest import CONFIG
from tests.ledger_contract import LedgerContract, entry, everything
from tests.period_contract import PeriodContract, fill
from tests.picture_contract import PictureContract, row
from tests.system.conftest import emptied

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def url(postgres):
    """The url of an empty database."""
    return emptied(postgres)


@pytest.fixture
def archives(url):
    """Opens archives, and closes them at the end."""
    opened = []

    def open_(address=url, prepare=True):
        archive = LedgerDatabase(address)
        opened.append(archive)
        if prepare:
            archive.prepare()
        return archive

    yield open_
    for archive in opened:
        archive.close()


class TestPostgreSQL(ArchiveContract):
    @pytest.fixture
    def setting(self, archives):
        return Setting(archives(), archives)


class TestLedger(LedgerContract):
    @pytest.fixture
    def setting(self, archives):
        return Setting(archives(), archives)


class TestPeriods(PeriodContract):
    @pytest.fixture
    def periods(self, archives):
        archive = archives()
        fill(archive)
        return PeriodTable(archive), archive


class TestPictures(PictureContract):
    @pytest.fixture
    def index(self, archives):
        return PictureTable(archives())


def test_the_tables_of_the_changes_are_those_of_the_code(archives):
    with archives()._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), database.METADATA) == []


def test_a_commit_survives_a_power_failure_even_if_the_server_is_set_otherwise(postgres, archives):
    admin = sa.create_engine(
        postgres.url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sa.text("ALTER DATABASE patchline SET synchronous_commit = off"))
        try:
            with archives()._engine.connect() as other:
                assert other.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
        finally:
            connection.execute(sa.text("ALTER DATABASE patchline RESET synchronous_commit"))
    admin.dispose()


def test_a_query_that_takes_too_long_is_ended_and_its_connection_is_free_again(archives, monkeypatch):
    monkeypatch.setitem(database._POSTGRESQL, "options", "-c statement_timeout=200")
    archive = archives()
    with pytest.raises(TookTooLong, match="statement timeout; choose a shorter time, or one line"):
        list(archive.read(sa.select(sa.func.pg_sleep(30))))
    archive.check()
    assert archive._engine.pool.checkedout() == 0


def test_archives_that_start_at_the_same_time_make_the_tables_once(archives):
    several = [archives(prepare=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda archive: archive.prepare(), several))
    assert several[0].save([record()], []) == Saved(verdicts=1)


def test_two_archives_store_the_same_verdicts_at_the_same_time_once(archives):
    batch = [record(f"job-{number}") for number in range(500)]
    several, barrier = [archives() for _ in range(2)], threading.Barrier(2)

    def save(archive):
        barrier.wait(20)
        return archive.save(batch, [])

    with ThreadPoolExecutor(2) as threads:
        saved = list(threads.map(save, several))
    assert sum(one.verdicts for one in saved) == 500
    assert sum(one.further for one in saved) == 0
    assert len(list(several[0].find(Search()))) == 500


def test_a_user_who_may_not_make_tables_is_told_who_may(archives):
    owner = archives()
    with owner._engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
        connection.execute(sa.text("CREATE ROLE writer LOGIN"))
        connection.execute(sa.text("GRANT USAGE ON SCHEMA public TO writer"))
    address = str(owner._engine.url.set(drivername="postgresql", username="writer"))
    with pytest.raises(SetupError, match="archive --migrate"):
        archives(address)


def test_a_user_who_may_only_write_rows_is_enough_once_the_tables_are_there(archives):
    owner = archives()
    with owner._engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE clerk LOGIN"))
        connection.execute(sa.text("GRANT USAGE ON SCHEMA public TO clerk"))
        connection.execute(sa.text("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO clerk"))
    clerk = archives(str(owner._engine.url.set(drivername="postgresql", username="clerk")))
    assert clerk.save([record()], []) == Saved(verdicts=1)
    assert clerk.save_ledger([entry(one) for one in everything("job-1")], []).acts == 2
    with owner._engine.begin() as connection:
        connection.execute(sa.text("DROP OWNED BY clerk"))


def test_a_later_build_that_changes_the_tables_meanwhile_ends_the_archive_and_nothing_is_set_aside(archives):
    archive = archives()
    with archive._engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE verdicts ADD COLUMN lamp text NOT NULL"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(MismatchError, match="later build"):
        archive.save([record()], [])


def test_the_commands_of_the_page_make_the_users_that_an_archive_and_people_need(postgres):
    first, second = re.findall(r"```sql\n(.*?)```", Path("docs/operations.md").read_text(), re.S)
    admin = sa.make_url(postgres.url).set(drivername="postgresql+psycopg")
    run(admin, first.replace("DATABASE patchline", "DATABASE plant"))
    in_plant = sa.make_url(postgres.url).set(database="plant")
    try:
        archive, people = (
            LedgerDatabase(str(in_plant.set(username=user)), access)
            for user, access in (("archive", Access.MAKE), ("people", Access.CHANGE))
        )
        archive.prepare()
        archive.save([record()], [])
        PictureTable(archive).add([row()])
        run(admin.set(database="plant"), second)
        assert [found.job_id for found in people.find(Search())] == ["job-1"]
        assert PictureTable(people).hold("job-1", "claim 7") == 1
        with pytest.raises(Unavailable, match="permission denied"):
            people.save([record("job-2")], [])
        archive.close()
        people.close()
    finally:
        run(admin, "DROP DATABASE plant WITH (FORCE); DROP ROLE archive; DROP ROLE people")


def run(url, commands):
    """Run commands as an administrator does, one after the other."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for command in filter(str.strip, commands.split(";")):
            connection.execute(sa.text(command))
    engine.dispose()


def test_the_url_is_read_again_from_its_file_at_each_connection(archives, tmp_path, monkeypatch):
    owner, file = archives(), tmp_path / "archive.url"

    def write_url(user):
        file.write_text(str(owner._engine.url.set(drivername="postgresql", username=user)))

    write_url("before")
    monkeypatch.setenv("PATCHLINE_ARCHIVE_URL_FILE", str(file))
    (tmp_path / "config.yaml").write_text(CONFIG)
    with owner._engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE before LOGIN IN ROLE pg_write_all_data, pg_read_all_data"))
    archive = opening.open_archive(config.load(tmp_path / "config.yaml"))
    archive.save([record()], [])
    with owner._engine.begin() as connection:  # as with a password that was changed
        connection.execute(sa.text("ALTER ROLE before RENAME TO after"))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'after'"
        connection.execute(sa.text(others))
    with pytest.raises(Unavailable):
        archive.save([record()], [])
    with pytest.raises(Unavailable, match='role "before" does not exist'):
        archive.save([record()], [])
    write_url("after")
    archive.save([record()], [])
    file.unlink()
    archive.close()
    with pytest.raises(Unavailable, match=r"archive\.url.*cannot be read"):
        archive.save([record()], [])
    with owner._engine.begin() as connection:
        connection.execute(sa.text("DROP ROLE after"))


def test_a_batch_with_something_that_cannot_be_stored_stores_nothing(archives):
    archive = archives()
    with pytest.raises(Unstorable):
        archive.save([record("good"), rows.record(message("bad"), 2**63)], [])
    assert archive.get("good") is None


def test_an_archive_finds_the_server_again_after_a_restart(postgres, archives):
    archive = archives()
    archive.save([record("before")], [])
    postgres.server.stop()
    with pytest.raises(Unavailable):
        archive.save([record("meanwhile")], [])
    postgres.server.start()
    postgres.server.wait()
    assert archive.save([record("before"), record("meanwhile")], []) == Saved(verdicts=1)


def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_shown():
    archive = Database("postgresql://user:secret@127.0.0.1:1/database")
    with pytest.raises(Unavailable) as away:
        archive.prepare()
    assert "secret" not in str(away.value)
    archive.close()
