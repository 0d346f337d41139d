"""What engineers change of memory banks in the browser: the store's log, the audit log, what workers hear, refusals."""

import shutil
from pathlib import Path

import pytest

from patchline.banks import store
from patchline.console import audit, bank_changes
from patchline.console.visit import Refused, Visit
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.messages import Thresholds
from tests.console_bench import Bench

BENCH = Bench

BANK = Path("tests/data/build_5fd44a6/brick")


@pytest.fixture
def visit(bench):
    return Visit("/", session=bench.console.sessions.begin("a-engineer"))


def publish(bench, folder, fail):
    """A version of one index with another threshold."""
    shutil.copytree(BANK, folder)
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    changed = manifest.model_copy(update={"thresholds": Thresholds(review=900.0, fail=fail)})
    store.replace_manifest(folder, changed)
    return bench.banks.publish(folder, "brick", "fit", "first")[0]


@pytest.fixture
def versions(bench, tmp_path):
    return [publish(bench, tmp_path / f"bank-{fail}", fail) for fail in (1000.0, 1100.0)]


def test_each_act_is_in_both_logs_by_the_name_of_the_account_and_workers_are_told(bench, visit, versions):
    first, second = versions
    console = bench.console
    assert bank_changes.activate(console, visit, "brick", first[:8], "good", "") is None
    bank_changes.activate(console, visit, "brick", second, "better", first)
    bank_changes.roll_back(console, visit, "brick", "worse", second)
    bank_changes.start_shadow(console, visit, "brick", second, 0.5, "look again")
    bank_changes.end_shadow(console, visit, "brick", "seen")
    bank_changes.retire(console, visit, "brick", second, "never again")
    assert bench.announced == [("brick", one) for one in (first, second, first, second, second)]
    records = bench.banks.state("brick").records[2:]
    assert {record.who for record in records} == {"a-engineer"}
    assert [(record.act, record.version, record.why) for record in records] == [
        ("activate", first, "good"),
        ("activate", second, "better"),
        ("rollback", first, "worse"),
        ("shadow", second, "look again"),
        ("end-shadow", second, "seen"),
        ("retire", second, "never again"),
    ]
    entries = [(entry.who, entry.what, entry.detail) for entry in reversed(audit.latest(console.database, 6))]
    names = (("bank activated", first, "good"), ("bank activated", second, "better"))
    names += (("bank rolled back", first, "worse"), ("shadow started", second, "look again"))
    names += (("shadow ended", second, "seen"), ("bank retired", second, "never again"))
    assert entries == [("a-engineer", what, f"brick: {version[:12]} ({why})") for what, version, why in names]


def test_an_act_counts_without_rabbitmq_and_says_that_workers_were_not_told(bench, visit, versions):
    bench.broker_is_away = True
    assert bank_changes.activate(bench.console, visit, "brick", versions[0], "good", "") == "RabbitMQ is away"
    assert bench.banks.state("brick").active == versions[0]


def refuse(status, act, *arguments):
    with pytest.raises(Refused) as refused:
        act(*arguments)
    assert refused.value.status == status
    return refused.value.detail


def test_what_somebody_else_has_changed_meanwhile_is_not_changed_again(bench, visit, versions):
    first, second = versions
    bench.banks.activate("brick", first, "bert", "first")
    bench.banks.activate("brick", second, "bert", "second")
    before = bench.banks.state("brick")
    for seen in (first, ""):
        detail = refuse(409, bank_changes.roll_back, bench.console, visit, "brick", "worse", seen)
        assert f"{second[:12]} is active by now" in detail
        refuse(409, bank_changes.activate, bench.console, visit, "brick", first, "better", seen)
    assert "is active already" in refuse(
        409, bank_changes.activate, bench.console, visit, "brick", second, "better", second
    )
    assert bench.banks.state("brick") == before
    assert bench.announced == []
    assert [entry.what for entry in audit.latest(bench.console.database, 9)] == ["logged in"]


def test_without_a_reason_a_store_or_an_answer_of_it_nothing_is_done(bench, visit, versions, tmp_path):
    refuse(400, bank_changes.retire, bench.console, visit, "brick", versions[0], "")
    assert "is no version" in refuse(409, bank_changes.retire, bench.console, visit, "brick", "f" * 64, "bad")
    bench.bank_objects.available = False
    refuse(503, bank_changes.retire, bench.console, visit, "brick", versions[0], "bad")
    bench.bank_objects.available = True
    assert bench.banks.state("brick").retired == frozenset()
    assert [entry.what for entry in audit.latest(bench.console.database, 9)] == ["logged in"]
    other = Bench(tmp_path / "other", with_banks=False)
    refuse(404, bank_changes.end_shadow, other.console, visit, "brick", "bad")
    other.close()
