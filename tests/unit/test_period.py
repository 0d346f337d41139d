"""What the archive counts for a report, in memory and in SQLite."""

import pytest

from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.period_memory import MemoryPeriods
from patchline.archive.period_table import PeriodTable
from tests.period_contract import PeriodContract, fill


class TestMemory(PeriodContract):
    @pytest.fixture(scope="class")
    @classmethod
    def periods(cls):
        archive = MemoryLedger()
        fill(archive)
        return MemoryPeriods(archive), archive


class TestSQLite(PeriodContract):
    @pytest.fixture(scope="class")
    @classmethod
    def periods(cls, tmp_path_factory):
        archive = LedgerDatabase(tmp_path_factory.mktemp("archive") / "archive.sqlite")
        archive.prepare()
        fill(archive)
        yield PeriodTable(archive), archive
        archive.close()
