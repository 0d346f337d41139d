"""The archive in PostgreSQL: the contract, and what only a server has."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from patchline.archive import database, rows
from patchline.archive.base import Saved, Search, Unavailable, Unstorable
from patchline.archive.database import Database
from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.picture_table import PictureTable
from patchline.protocol.errors import SetupError
from tests.archive_contract import ArchiveContract, Setting, message, record
from tests.ledger_contract import LedgerContract, entry, everything
from tests.picture_contract import PictureContract
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
