"""The ledger of a part: its rows, its writer, its page, and the contract in memory and in SQLite."""

import json
import re
import sqlite3
from contextlib import closing

import pytest
from prometheus_client import generate_latest
from sqlalchemy.dialects import sqlite

from patchline.archive import ledger_rows, ledger_text
from patchline.archive.base import Saved, Unavailable
from patchline.archive.ledger import GapKind, GapSearch
from patchline.archive.ledger_database import LedgerDatabase, gap_query
from patchline.archive.ledger_loop import LedgerStore
from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.metrics import Metrics
from patchline.archive.writer import Writer
from patchline.broker.base import Message
from patchline.broker.memory import MemoryBroker
from patchline.operations import judging
from patchline.protocol import topology
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.gate_messages import SNAPSHOT_TYPE, SYNC_TYPE
from patchline.protocol.judgement_message import Label
from tests.archive_contract import NOW, VERSION, Setting, record
from tests.ledger_contract import (
    LedgerContract,
    act,
    announcement,
    delivery,
    entry,
    everything,
    judgement,
    outcome,
)


class TestMemory(LedgerContract):
    @pytest.fixture
    def setting(self):
        archive = MemoryLedger()
        return Setting(archive, lambda: archive)


class TestSQLite(LedgerContract):
    @pytest.fixture
    def setting(self, tmp_path):
        archives = []

        def reopen():
            for archive in archives:
                archive.close()
            archives.append(LedgerDatabase(tmp_path / "archive.sqlite"))
            archives[-1].prepare()
            return archives[-1]

        yield Setting(reopen(), reopen)
        archives[-1].close()


@pytest.mark.parametrize("kind", GapKind)
@pytest.mark.parametrize("job_id", [None, "a"])
def test_sqlite_looks_for_the_other_rows_of_a_job_by_its_id_and_reads_no_table_as_a_whole(tmp_path, kind, job_id):
    archive = LedgerDatabase(tmp_path / "archive.sqlite")
    archive.prepare()
    query = gap_query(kind, GapSearch(until=NOW, since=NOW - 1, job_id=job_id))
    text = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    with closing(sqlite3.connect(tmp_path / "archive.sqlite")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
    archive.close()
    first, *others = [step for step in plan if step.startswith(("SEARCH", "SCAN"))]
    assert ("job_id=?" if job_id else "_at>? AND ") in first
    assert all(re.search(r"job_id=\?|line=\? AND outcome=\?", step) for step in others), others


class Scene:
    """A queue of the ledger, an archive, and their writer."""

    def __init__(self):
        self.broker, self.archive = MemoryBroker(), MemoryLedger()
        self.broker.declare(topology.ledger(1_000))
        self.queue = self.broker.consume(topology.LEDGER, prefetch=1_000)
        self.metrics = Metrics(lambda: NOW + 5_000)
        store, clock = LedgerStore(self.archive), lambda: 0.0
        now_ms = lambda: NOW + 2_000  # noqa: E731
        counters = self.metrics.ledger()
        self.writer = Writer(self.queue, ledger_rows.entry, store, counters, 100, 0.001, now_ms, clock)

    def send(self, *deliveries):
        for one in deliveries:
            self.broker.publish(one.exchange, "l1", one.message)

    def waiting(self):
        """The number of messages that are not acknowledged."""
        self.broker.cut()
        return len(self.broker._queues[topology.LEDGER].ready)

    def metric(self, name):
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def test_messages_of_the_ledger_are_stored_then_acknowledged_and_those_between_gates_are_only_acknowledged():
    scene = Scene()
    between_gates = [delivery(Message(b"{}", None, kind), topology.ACTS) for kind in (SNAPSHOT_TYPE, SYNC_TYPE)]
    scene.send(*everything("a"), *between_gates, *everything("b"))
    scene.writer.step()
    assert [len(scene.archive.entries(job_id)) for job_id in ("a", "b")] == [5, 5]
    assert scene.archive.unreadable(1) == []
    assert scene.waiting() == 0
    assert scene.metric("patchline_archive_ledger_messages_total") == 10
    assert scene.metric("patchline_archive_ledger_behind_seconds") == 4.98
    assert scene.metric("patchline_archive_rows_total") == 10


def test_nothing_of_the_ledger_is_acknowledged_while_the_database_is_away():
    scene = Scene()
    scene.archive.away = True
    scene.send(*everything("a"))
    assert scene.writer.step() > 0
    assert scene.waiting() == 5
    scene.archive.away = False
    scene.writer.step()
    assert (len(scene.archive.entries("a")), scene.waiting()) == (5, 0)


@pytest.mark.parametrize(
    "poison",
    [
        delivery(Message(b"{}", "p", "patchline.act.v1"), topology.ACTS),
        delivery(Message(b"\xff", "p", "patchline.outcome.v1"), topology.ACTS),
        delivery(Message(b"", "p", "patchline.part.v1", None, {"line": "../x"}), topology.PARTS),
        delivery(Message(b"{}", "p", "some.other.type"), topology.PARTS),
        delivery(act().message, topology.PARTS),
        delivery(judgement().message, topology.ACTS),
        judgement(said="good", kind="scratch"),
        judgement(by="anna\x1b[2J"),
        judgement(by=""),
        judgement(judged_at=1),
    ],
)
def test_what_the_ledger_does_not_know_or_comes_by_another_exchange_is_set_aside(poison):
    with pytest.raises(Unusable):
        ledger_rows.entry(poison, NOW)
    scene = Scene()
    scene.send(announcement("a"), poison, announcement("b"))
    scene.writer.step()
    assert [len(scene.archive.entries(job_id)) for job_id in ("a", "b")] == [1, 1]
    (kept,) = scene.archive.unreadable(5)
    assert kept.message_id == poison.message.message_id
    assert kept.body
    assert scene.waiting() == 0


def test_what_a_later_build_has_added_is_kept():
    added = entry(act(colour="blue"))
    assert json.loads(added.document)["colour"] == "blue"
    assert json.loads(entry(announcement(lamp=3)).document)["lamp"] == 3


def test_the_page_of_a_part_tells_its_way_in_the_order_of_time():
    archive = MemoryLedger()
    archive.save([record(), record(decision="pass", decided_at=NOW + 60_000, replay=True)], [])
    batch = [*everything("job-1"), judgement(said="defect", judged_at=NOW + 1_900, kind="scratch", note="below")]
    archive.save_ledger([entry(one) for one in batch], [])
    (page,) = ledger_text.pages(archive, "part-of-job-1", NOW + 90_000, 5)
    assert (page.job_id, page.line, page.category, page.number, page.missing) == ("job-1", "l1", "brick", 7, ())
    assert [event.text for event in page.events] == [
        "captured",
        "announced; its verdict is due 10.05 s after the capture",
        "taken by the worker w",
        "taken by the worker w",
        f"verdict fail, score 1200.5, reviewed from 900, fails from 1000, bank {VERSION[:12]}",
        "gate g was about to reject it: fail",
        "gate g rejected it: fail",
        "the sensor saw it in the reject bin (gate g)",
        "anna judged it good",
        "anna judged it defect (scratch): below",
        f"another verdict pass, score 1200.5, reviewed from 900, fails from 1000, bank {VERSION[:12]}"
        ", of a replayed job",
    ]
    assert page.events[6].document["state"] == "done"


def test_a_verdict_without_score_and_thresholds_is_told_too():
    archive = MemoryLedger()
    names = ("score", "thresholds", "memory_bank", "bank_version", "captured_at")
    archive.save([record(decision="error", reason="crashed", detail="it did", **dict.fromkeys(names))], [])
    (page,) = ledger_text.pages(archive, "job-1", NOW, 5)
    assert [event.text for event in page.events] == ["taken by the worker w", "verdict error (crashed: it did)"]


def test_the_page_of_a_part_says_what_is_missing():
    archive = MemoryLedger()
    archive.save_ledger([entry(announcement("alone"))], [])
    archive.save_ledger([entry(act("odd", action)) for action in ("accept", "reject")] + [entry(outcome("odd"))], [])
    (alone,) = ledger_text.pages(archive, "alone", NOW + 90_000, 5)
    assert alone.missing == ("no verdict is archived", "no gate has acted on it; no verdict")
    (odd,) = ledger_text.pages(archive, "odd", NOW + 90_000, 5)
    assert odd.missing == (
        "no announcement is archived",
        "no verdict is archived",
        "it was accepted and rejected; the act: fail",
        "it was accepted, and the archive has no verdict pass or review on it; the act: fail",
        "it was rejected, and the sensor has not seen it in the reject bin; the act: fail",
    )
    with pytest.raises(SetupError, match="knows no part"):
        ledger_text.pages(archive, "other", NOW, 5)


def test_a_judgement_travels_by_rabbitmq_alone_and_the_archive_keeps_it():
    scene = Scene()
    said = judging.make("job-1", Label.DEFECT, "scratch", "Änne Müller", None, NOW)
    judging.publish(scene.broker, said)
    scene.writer.step()
    (kept,) = scene.archive.entries("job-1")
    assert (kept.judgement, kept.kind, kept.judged_by, kept.judged_at) == ("defect", "scratch", "Änne Müller", NOW)


def test_a_judgement_that_nobody_would_keep_is_refused():
    broker = MemoryBroker()
    with pytest.raises(SetupError, match="patchline archive"):
        judging.publish(broker, judging.make("job-1", Label.GOOD, None, "anna", None, NOW))


@pytest.mark.parametrize(
    ("job_id", "label", "kind", "by"),
    [("../x", "good", None, "a"), ("j", "good", "scratch", "a"), ("j", "defect", "a b", "a"), ("j", "good", None, "")],
)
def test_a_judgement_with_a_value_that_cannot_be_used_is_one_line(job_id, label, kind, by):
    with pytest.raises(SetupError, match="no judgement") as refused:
        judging.make(job_id, Label(label), kind, by, None, NOW)
    assert "\n" not in str(refused.value)


def test_an_archive_that_is_away_says_so_to_whoever_asks():
    archive = MemoryLedger()
    archive.away = True
    for ask in (lambda: archive.jobs_of("a", 1), lambda: archive.entries("a"), lambda: archive.save_ledger([], [])):
        with pytest.raises(Unavailable):
            ask()
    archive.away = False
    assert archive.save_ledger([], []) == Saved()


def test_the_queue_of_the_ledger_drops_its_oldest_message_and_never_refuses():
    broker = MemoryBroker()
    broker.declare(topology.ledger(2))
    for number in range(5):
        one = act(f"job-{number}")
        broker.publish(one.exchange, "l1", one.message, mandatory=False)
    kept = [queued.message.message_id for queued in broker._queues[topology.LEDGER].ready]
    assert kept == ["job-3", "job-4"]
