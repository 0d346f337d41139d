"""The archive's process on a real RabbitMQ, with SQLite and PostgreSQL: killed, restarted, and without its database."""

import signal
import sqlite3
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from patchline.archive import opening
from patchline.archive.base import Search
from patchline.archive.database import Access, Database
from patchline.broker.base import Message, Outgoing
from patchline.protocol import topology
from patchline.protocol.messages import VERDICT_TYPE
from patchline.services import server
from tests import children
from tests.archive_contract import message
from tests.conftest import CONFIG
from tests.system.conftest import Line, emptied, records, wait_for

pytestmark = pytest.mark.timeout(180)
KEY = "l1.brick.fail"
MANY = 2_000
MISMATCH = 78


@pytest.fixture
def line(empty_servers, tmp_path):
    """A line without workers: the test publishes verdicts."""
    (tmp_path / "config.yaml").write_text(CONFIG + "archive: {batch: 20, batch_ms: 20}\n")
    (tmp_path / "models").symlink_to(Path("models").resolve())
    with ExitStack() as stack:
        yield Line(tmp_path, empty_servers, stack)


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request, line):
    """The database of the archive, empty."""
    if request.param == "sqlite":
        return opening.target(line.settings)
    return use_postgresql(line, request.getfixturevalue("postgres"))


@pytest.fixture
def postgresql_target(line, postgres):
    return use_postgresql(line, postgres)


def use_postgresql(line, postgres):
    if not server.is_listening(sa.make_url(postgres.url).port):  # an earlier test failed
        restart(postgres)
    line.environment["PATCHLINE_ARCHIVE_URL"] = emptied(postgres)
    return postgres.url


def restart(postgres):
    postgres.server.start()
    postgres.server.wait()


def start(line, ready=True):
    """Start an archive. Its port is in `metrics_port`."""
    (port,) = server.free_ports(1)
    process = line.start("archive", "--metrics-port", str(port))
    process.metrics_port = port
    if ready:
        wait_for(lambda: is_ready(process) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
    return process


def is_ready(process):
    return server.responds(f"http://127.0.0.1:{process.metrics_port}/readyz")


def publish(line, numbers):
    verdicts = [Outgoing(topology.VERDICTS, KEY, message(f"job-{number}")) for number in numbers]
    for first in range(0, len(verdicts), 100):
        line.broker.publish_all(verdicts[first : first + 100], 30)


def jobs(target):
    """The ids of the jobs in the archive, one for each row."""
    with closing(Database(target, Access.READ) if isinstance(target, Path) else Database(target)) as archive:
        return [record.job_id for record in archive.find(Search())]


def count(target):
    """The number of rows."""
    if isinstance(target, Path):
        with closing(sqlite3.connect(target, timeout=10)) as connection:
            return connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]
    with psycopg.connect(target) as connection:
        return connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]


def further(target, expected=MANY):
    with closing(Database(target)) as archive:
        return [record for number in range(expected) for record in archive.further(f"job-{number}")]


def waiting(line):
    """Take what is left in the queue, delivered or not."""
    return [one.message_id for one in line.messages(topology.VERDICTS, 1, timeout_s=1.0)]


def assert_one_row_each(target, expected=MANY):
    wait_for(lambda: count(target) >= expected, 90)
    assert sorted(jobs(target)) == sorted(f"job-{number}" for number in range(expected))


def test_each_part_has_one_row_although_the_archive_is_killed_again_and_again(line, target):
    archive, stop, sent = start(line), threading.Event(), [0]

    def keep_some_under_way():
        while not stop.is_set():
            if sent[0] - count(target) < 400:
                publish(line, range(sent[0], sent[0] + 100))
                sent[0] += 100

    publisher = threading.Thread(target=keep_some_under_way, daemon=True)
    publisher.start()
    for stored in (200, 700, 1200):
        wait_for(lambda stored=stored: count(target) >= stored, 60)
        archive.send_signal(signal.SIGKILL)
        archive.wait(10)
        archive = start(line)
    stop.set()
    publisher.join(60)
    assert_one_row_each(target, sent[0])
    archive.terminate()
    assert archive.wait(30) == 0
    assert waiting(line) == []
    assert further(target, sent[0]) == []


def test_each_part_has_one_row_although_postgresql_is_restarted(line, postgres, postgresql_target):
    archive = start(line)
    publisher = threading.Thread(target=publish, args=(line, range(MANY)))
    publisher.start()
    wait_for(lambda: count(postgresql_target) >= 300, 60)
    postgres.crash()
    wait_for(lambda: not is_ready(archive))
    restart(postgres)
    publisher.join(60)
    assert_one_row_each(postgresql_target)
    wait_for(lambda: is_ready(archive))
    assert archive.poll() is None


def test_an_archive_starts_without_its_database_and_acknowledges_nothing(line, postgres, postgresql_target):
    publish(line, range(50))
    postgres.crash()
    archive = start(line, ready=False)
    wait_for(lambda: server.is_listening(archive.metrics_port))
    assert not is_ready(archive)
    assert line.metric(archive.metrics_port, "patchline_archive_ready") == 0
    restart(postgres)
    wait_for(lambda: is_ready(archive))
    assert_one_row_each(postgresql_target, 50)
    wait_for(lambda: line.metric(archive.metrics_port, "patchline_archive_ready") == 1)


def test_an_archive_whose_database_has_frozen_says_so_and_goes_on_with_it(line, postgres, postgresql_target):
    archive = start(line)
    publish(line, range(20))
    assert_one_row_each(postgresql_target, 20)
    frozen = children.living(postgres.server.guard.pid)
    for process in frozen:
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's short-lived children
            process.suspend()
    try:
        publish(line, range(20, 40))
        wait_for(lambda: not is_ready(archive))
    finally:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    assert_one_row_each(postgresql_target, 40)
    wait_for(lambda: is_ready(archive))


def test_a_message_that_is_no_verdict_holds_up_nothing(line, target):
    archive = start(line)
    publish(line, range(10))
    line.broker.publish(topology.VERDICTS, KEY, Message(b"\x00 no verdict \xff", "poison", VERDICT_TYPE))
    publish(line, range(10, 20))
    assert_one_row_each(target, 20)
    with closing(Database(target)) as database:
        wait_for(lambda: database.unreadable(1))
        (kept,) = database.unreadable(10)
    assert (kept.message_id, kept.body) == ("poison", b"\x00 no verdict \xff")
    archive.terminate()
    assert archive.wait(30) == 0
    assert waiting(line) == []


def test_a_verdict_that_comes_twice_is_one_row(line, target):
    start(line)
    publish(line, [*range(30), *range(30)])
    publish(line, range(30, 31))
    assert_one_row_each(target, 31)


def test_a_file_that_another_program_holds_locked_makes_the_verdicts_wait(line):
    target = opening.target(line.settings)
    archive = start(line)
    with closing(sqlite3.connect(target, timeout=10, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write
        publish(line, range(50))
        wait_for(lambda: not is_ready(archive))
        assert jobs(target) == []
        other.execute("ROLLBACK")
    assert_one_row_each(target, 50)
    wait_for(lambda: is_ready(archive))


def test_a_second_archive_on_the_same_folder_ends_with_one_line(line):
    first = start(line)
    second = line.run("archive")
    assert second.returncode == 2
    assert second.err.count("another archive uses this folder") == 1
    assert "Traceback" not in second.err
    assert first.poll() is None


def test_an_archive_refuses_the_database_of_a_later_build(line):
    target = opening.target(line.settings)
    assert line.run("archive", "--migrate").returncode == 0
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    ended = line.run("archive")
    assert (ended.returncode, "later build" in ended.err) == (MISMATCH, True)


def test_verdicts_are_found_and_exported(line, target, tmp_path):
    publish(line, range(5))
    review = message("other", decision="review", part_id="special", line="l2", score=950.0)
    line.broker.publish(topology.VERDICTS, KEY, review)
    start(line)
    wait_for(lambda: count(target) == 6)

    def found(*options):
        result = line.run("archive", "find", *options)
        assert result.returncode == 0, result.err
        return {verdict["job_id"] for verdict in records(result.out)}

    everything = {"other", *(f"job-{number}" for number in range(5))}
    assert found() == everything
    assert found("--part", "special") == found("--line", "l2") == found("--decision", "review") == {"other"}
    assert found("--score", ":1000", "--since", "2023-11-14") == {"other"}
    assert found("--until", "2023-11-14") == set()
    assert len(found("--most", "2")) == 2
    result = line.run("archive", "find", "--decision", "fail", "--out", str(tmp_path / "found.csv"))
    assert (result.returncode, result.out) == (0, f"5 verdicts: {tmp_path / 'found.csv'}\n")
    assert (tmp_path / "found.csv").read_text().count("\n") == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--score", "900"), "write LOW:HIGH"),
        (("--out", "x.xlsx"), "there is no archive"),
    ],
)
def test_a_search_that_cannot_be_made_is_one_line(line, options, text):
    result = line.run("archive", "find", *options)
    assert (result.returncode, result.err.count("\n")) == (2, 1)
    assert text in result.err
