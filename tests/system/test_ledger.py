"""The ledger of a part on a real RabbitMQ, with a real gate, while the archive is killed and PostgreSQL restarted."""

import signal
import sqlite3
import threading
from contextlib import closing

import pytest

from patchline import config
from patchline.archive import opening
from patchline.archive.database import Access
from patchline.archive.ledger import Acted, Announced, Found, GapKind, GapSearch, Judged
from patchline.archive.ledger_database import LedgerDatabase
from patchline.broker.base import Message
from patchline.plc.register_map import Bin, Layout, PlcState
from patchline.protocol import topology
from patchline.protocol.gate_messages import ACT_TYPE
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests import plc_memory
from tests.plc_servers import PLCS, Server
from tests.system import gates
from tests.system.conftest import records, wait_for
from tests.system.test_archive import is_ready, line, postgresql_target, restart, start

__all__ = ["line", "postgresql_target"]  # fixtures
pytestmark = pytest.mark.timeout(240)
PARTS = range(1, 121)


def feed_in_parts(line, signals):
    """Feed a third of the parts, then say so, and so on."""
    third = len(PARTS) // 3
    for number, fed in enumerate(signals):
        gates.feed(line, PARTS[number * third : (number + 1) * third])
        fed.set()


def ledger_of(archive, job_id):
    """The announcement, and the acts that are done, as (action, reason)."""
    entries = archive.entries(job_id)
    acts = {(one.action, one.because) for one in entries if isinstance(one, Acted) and one.state == "done"}
    return sum(isinstance(one, Announced) for one in entries), acts


def gaps_of(archive):
    search = GapSearch(until=now_ms() + 3_600_000)
    return {kind: [gap.job_id for gap in archive.gaps(kind, search)] for kind in GapKind}


def test_the_ledger_of_each_part_is_complete_although_archive_and_postgresql_are_killed(
    line, postgres, postgresql_target, tmp_path
):
    archive = start(line)
    arm = gates.Arm(tmp_path / "arms", "arm")
    gate = gates.start(line, arm, tmp_path)
    wait_for(lambda: gates.is_serving(gate))
    signals = [threading.Event() for _ in range(3)]
    feeder = threading.Thread(target=feed_in_parts, args=(line, signals))
    feeder.start()
    assert signals[0].wait(60)
    archive.send_signal(signal.SIGKILL)
    archive.wait(10)
    postgres.crash()
    assert signals[1].wait(60)
    archive = start(line, ready=False)
    restart(postgres)
    wait_for(lambda: is_ready(archive))
    line.broker.publish(topology.ACTS, "l1", Message(b"\xff no act", "poison", ACT_TYPE))
    feeder.join(60)
    wait_for(gates.all_told([arm], len(PARTS)))
    told = gates.assert_each_part_has_one_action([arm], PARTS)
    with closing(LedgerDatabase(postgresql_target)) as database:
        wait_for(lambda: not any(gaps_of(database).values()))
        for job_id, action in told.items():
            announcements, acts = ledger_of(database, job_id)
            (act,) = acts
            number = int(job_id[1:])
            because = ("fail" if number % 3 == 0 else "pass") if number % 7 else "no verdict in time"
            assert (announcements, act) == (1, (action, because)), job_id
            assert (database.get(job_id) is None) is (number % 7 == 0)
        wait_for(lambda: database.unreadable(1))
        assert [kept.body for kept in database.unreadable(5)] == [b"\xff no act"]
    archive.terminate()
    assert archive.wait(30) == 0
    assert line.messages(topology.LEDGER, 1, timeout_s=1.0) == []


def test_a_part_is_judged_by_people_and_its_ledger_and_the_rates_are_printed(line, tmp_path):
    missing = line.run("archive", "judge", "j1", "good")
    assert (missing.returncode, "patchline topology" in missing.err) == (2, True)
    archive = start(line)
    arm = gates.Arm(tmp_path / "arms", "arm")
    gate = gates.start(line, arm, tmp_path)
    wait_for(lambda: gates.is_serving(gate))
    bank = {"memory_bank": f"brick@{'b' * 12}", "bank_version": "c" * 64}  # as a worker names it
    for job_id, decision, score in (("j1", "pass", 1.0), ("j2", "fail", 9.0), ("j3", "fail", 8.0)):
        gates.announce(line, job_id, part_id=f"part-{job_id}")
        gates.decide(line, job_id, decision, part_id=f"part-{job_id}", score=score, **bank)
    wait_for(gates.all_told([arm], 3))
    labels = (("j1", "defect", "--kind", "scratch"), ("j2", "good"), ("j2", "defect"), ("j3", "good", "--note", "dust"))
    for words in labels:
        said = line.run("archive", "judge", *words, "--by", "anna")
        assert said.returncode == 0, said.err
    target = opening.target(line.settings)
    wait_for(lambda: rows(target, "judgements") == 4 and rows(target, "acts") == 6 and rows(target, "verdicts") == 3)
    by_part = line.run("archive", "judge", "part-j3", "good")
    assert (by_part.returncode, "is the id of a part; name its job: j3" in by_part.err) == (2, True)
    assert "knows no job another yet" in line.run("archive", "judge", "another", "good").err
    printed = line.run("archive", "part", "part-j3").out
    for words in ("captured", "announced", "verdict fail, score 8", "rejected it: fail", "anna judged it good: dust"):
        assert words in printed
    assert " ! " not in printed
    (page,) = records(line.run("archive", "part", "j1", "--json").out)
    assert [event["event"] for event in page["events"]][-3:] == ["intended", "done", "judgement"]
    assert page["missing"] == []
    assert line.run("archive", "gaps", "--until", "0s").out == "no gaps\n"
    (rates,) = records(line.run("archive", "rates", "--json").out)
    assert (rates["over_kill"]["value"], rates["miss"]["value"]) == (1.0, 0.5)
    assert rates["bank"] == "c" * 64
    assert "All parts are labelled" in line.run("archive", "rates", "--category", "brick", "--bank", "cccc").out
    assert line.run("archive", "find", "--bank", "cccc", "--most", "5").out.count("\n") == 3
    refused = line.run("archive", "threshold", "--category", "brick", "--target-miss", "0.01")
    assert (refused.returncode, "it takes 99" in refused.err) == (2, True)
    proposed = line.run("archive", "threshold", "--category", "brick", "--target-miss", "0.5").out
    assert "proposed threshold 1" in proposed
    with closing(LedgerDatabase(target, Access.READ)) as database:
        assert sum(isinstance(entry, Judged) for entry in database.entries("j2")) == 2
    assert archive.poll() is None


@pytest.fixture
def hands(tmp_path, monkeypatch):
    """A PLC in a process of its own, and its hands: what its program would write."""
    monkeypatch.setattr(plc_memory, "LAYOUT", Layout(gate=0, plc=256, slots=16))
    (port,) = server.free_ports(1)
    process = Server(PLCS["modbus"], port, tmp_path)
    process.start()
    plc = plc_memory.Plc()
    with closing(process.connect()) as plc.memory:
        plc.port = port
        plc.write_header(version=1, state=PlcState.LINE_RUNS, heartbeat=1)
        yield plc
    process.stop()


def test_a_reject_that_the_sensor_saw_in_another_bin_or_not_at_all_is_a_gap(line, hands, tmp_path):
    rules = config.Plc(gate_start=0, plc_start=256, slots=16, arm=1000, window=100, sensor=1500, sensor_window=50)
    config.save(line.settings.model_copy(update={"plc": rules}), line.folder / "config.yaml")
    start(line)
    line.start("gate", "--line", "l1", "--output", f"modbus:127.0.0.1:{hands.port}")
    target = opening.target(line.settings)
    for number, decision in enumerate(("fail", "fail", "fail", "pass"), 1):
        ids = {"part_id": f"part-{number}", "number": number, "encoder_count": 0}
        gates.announce(line, f"j{number}", 60_000, **ids)
        gates.decide(line, f"j{number}", decision, **ids)
    wait_for(lambda: rows(target, "acts WHERE state = 'done'") == 4)
    for number, seen_in in ((1, Bin.REJECT), (2, Bin.GOOD), (4, Bin.GOOD)):
        hands.confirm(number, seen_in, 1500)
    hands.write_header(count=1600, heartbeat=2)
    wait_for(lambda: rows(target, "outcomes") == 5)
    with closing(LedgerDatabase(target, Access.READ)) as database:
        found = {(job, one.outcome, one.bin) for job in ("j1", "j2", "j4") for one in outcomes_of(database, job)}
        assert found == {
            ("j1", "seen", "reject"),
            ("j2", "seen", "good"),
            ("j2", "escaped", None),
            ("j4", "seen", "good"),
        }
        assert {one.outcome for one in outcomes_of(database, "j3")} <= {"escaped", "unconfirmed"}
        expected = {kind: [] for kind in GapKind} | {GapKind.NOT_CONFIRMED: ["j2", "j3"]}
        assert {kind: sorted(jobs) for kind, jobs in gaps_of(database).items()} == expected
    assert "the sensor saw it in the reject bin" in line.run("archive", "part", "part-1").out


def outcomes_of(archive, job_id):
    return [entry for entry in archive.entries(job_id) if isinstance(entry, Found)]


def rows(target, table):
    with closing(sqlite3.connect(target, timeout=10)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
