"""The page of all lines: processes, arms, rates and last verdicts, and what stays known while they are away."""

import re
import sqlite3
import threading

import pytest

from patchline.archive.base import Unavailable
from patchline.broker.base import Message
from patchline.console.database import ConsoleDatabase
from patchline.console.known import Known
from patchline.console.plant import Plant
from patchline.console.roles import Role
from patchline.console.states import States
from patchline.protocol.errors import SetupError
from patchline.protocol.status_message import STATUS_TYPE, Status
from tests.archive_contract import NOW, record
from tests.console_bench import Bench

HX = {"hx-request": "true"}
DAY_S = 86_400


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, lines=("l3",))
    yield bench
    bench.close()


def hear(bench, role, name, line=None, state="serving", **more):
    values = {"host": "h", "state": state, "since": bench.now, "sent_at": bench.now}
    status = Status(role=role, name=name, line=line, **values | more)
    bench.console.states.hear(Message(status.to_json(), None, STATUS_TYPE))


def save(bench, name, at=None, **changes):
    bench.archive.save([record(name, decided_at=bench.now if at is None else at, **changes)], [])


def look(bench, path="/plant", **headers):
    """The page, as text without its markup."""
    answer = bench.browser(Role.SEE).get(path, **headers)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def names(bench):
    return [one.name for one in bench.console.states.all()]


def test_a_page_that_has_waited_for_an_archive_that_hangs_does_not_ask_it_again_at_once(tmp_path):
    now, asked = 0.0, []

    def hang(search):
        nonlocal now
        asked.append(search.line)
        now += 30.0
        raise Unavailable("statement timeout")

    database = ConsoleDatabase(tmp_path / "console.sqlite", lambda: NOW)
    plant = Plant(hang, States(), Known(database), ["l1", "l2"], lambda: NOW, lambda: now)
    for _ in range(10):  # pages that wait for their turn
        plant.lines()
    assert (asked, plant.failure) == (["l1"], "statement timeout")
    now += 1.0
    plant.lines()
    assert asked == ["l1", "l1"]
    database.close()


def test_each_line_has_its_processes_its_arm_its_rate_and_its_last_verdict(bench):
    hear(bench, "publisher", "cam:brick:7", "l1", holds={"window": 2, "spooled": 31})
    hear(bench, "gate", "g1", "l1", holds={"expected": 5, "undone": 0, "unsent_acts": 0}, arm="working")
    hear(bench, "gate", "g2", "l1", "standby", arm="faulty")
    hear(bench, "worker", "h:cpu:0:9", holds={"in_hand": 2, "categories": 1}, banks={"brick": "0" * 64})
    hear(bench, "archive", "h", holds={"pending": 0})
    save(bench, "job-1", bench.now - 70_000, line="l1", decision="fail")
    save(bench, "job-2", bench.now - 30_000, line="l2", decision="pass")
    bench.console.live.watch()
    bench.console.live.step()
    text = look(bench)
    assert "l1 0 parts a minute; Last verdict: part-of-job-1 fail" in text
    assert re.search(r"part-of-job-1 fail \S+, brick, 1 min ago", text)
    assert "l2 1 parts a minute; Last verdict: part-of-job-2 pass" in text
    assert "l3 – parts a minute; no verdict yet No process has said anything yet." in text
    for shown in (
        "publisher cam:brick:7 works 2 images under way, 31 images on disk",
        "gate g1 works 5 parts without an act",
        "Arm g1 takes what it is told",
        "gate g2 stands by",
        "Arm g2 does not take what it is told",
        "worker h:cpu:0:9 works 2 jobs in hand",
        "archive h works –",
    ):
        assert shown in text, shown
    assert text.index("For all lines") < text.index("h:cpu:0:9")


def test_a_line_that_is_known_by_its_rate_only_has_its_last_verdict_at_once(bench):
    look(bench)
    save(bench, "job-1", line="l1")
    bench.console.live.step()
    assert "l1 1 parts a minute; Last verdict: part-of-job-1 fail" in look(bench)
    save(bench, "job-2", bench.now + 1, line="l1")
    assert "part-of-job-1" in look(bench), "the archive is asked once a second"
    bench.pass_time(1)
    assert "part-of-job-2" in look(bench)


def test_what_is_offline_keeps_its_last_known_values_with_their_age(bench):
    hear(bench, "gate", "g1", "l1", holds={"expected": 5}, arm="working")
    save(bench, "job-1", line="l1")
    look(bench)
    bench.archive.away = True
    bench.pass_time(600)
    text = look(bench)
    assert "gate g1 says nothing , 10 min; before: works 5 parts without an act" in text
    assert "Arm g1 takes what it is told , 10 min ago" in text
    assert "part-of-job-1" in text
    assert "10 min ago" in text
    assert "The archive does not answer: the last verdicts may be out of date." in text
    bench.archive.away = False
    bench.pass_time(2)
    assert "does not answer" not in look(bench)


def test_the_last_known_values_survive_a_restart_of_the_console(bench, tmp_path):
    hear(bench, "gate", "g1", "l1", holds={"expected": 5}, arm="faulty")
    hear(bench, "worker", "h:cpu:0:9", banks={"brick": "0" * 64})
    save(bench, "job-1", line="l1")
    look(bench)
    stop = threading.Event()
    stop.set()
    bench.console.plant.run(stop)
    bench.close()
    other = Bench(tmp_path / "other")
    with sqlite3.connect(tmp_path / "console.sqlite") as source, sqlite3.connect(tmp_path / "other" / "copy") as copy:
        source.backup(copy)
    database = ConsoleDatabase(tmp_path / "other" / "copy", lambda: other.now)
    other.pass_time(3600)
    other.archive.away = True
    other.console.plant._known = Known(database)
    other.console.plant.restore()
    text = look(other)
    assert "gate g1 says nothing , 1 h; before: works 5 parts without an act" in text
    assert "Arm g1 does not take what it is told , 1 h ago" in text
    assert "part-of-job-1 fail" in text
    assert "worker h:cpu:0:9 says nothing , 1 h" in text
    hear(other, "gate", "g1", "l1", arm="working")
    assert "gate g1 works" in look(other)
    database.close()
    other.close()


def test_a_process_that_was_started_again_is_shown_once_and_one_beside_it_twice(bench):
    hear(bench, "worker", "h:cpu:0:10")
    hear(bench, "worker", "h:cpu:0:11")
    bench.pass_time(5)
    hear(bench, "worker", "h:cpu:0:11")
    assert names(bench) == ["h:cpu:0:10", "h:cpu:0:11"], "one of two has fallen silent"
    bench.pass_time(5)
    hear(bench, "worker", "h:cpu:0:11")
    hear(bench, "worker", "h:cpu:0:12")
    assert names(bench) == ["h:cpu:0:11", "h:cpu:0:12"]
    hear(bench, "worker", "h:cpu:1:13")
    hear(bench, "worker", "h:cpu:0:14", host="another")
    assert names(bench) == ["h:cpu:0:11", "h:cpu:0:12", "h:cpu:0:14", "h:cpu:1:13"]


def test_what_has_said_nothing_for_days_is_forgotten(bench):
    hear(bench, "worker", "h:cpu:0:10")
    hear(bench, "gate", "g1", "l1")
    bench.console.plant.save()
    bench.pass_time(DAY_S + 1)
    assert names(bench) == ["g1"]
    bench.pass_time(6 * DAY_S)
    assert names(bench) == []
    bench.console.plant.restore()
    assert names(bench) == []


def test_only_what_is_new_is_stored_and_what_is_old_is_deleted(bench):
    known = Known(bench.console.database)
    known.save({"status/gate/l1/old": (bench.now - 8 * DAY_S * 1000, "{}"), "other": (bench.now, "x")})
    assert known.all() == {"other": (bench.now, "x")}
    hear(bench, "gate", "g1", "l1")
    bench.console.plant.save()
    before = known.all()
    bench.console.plant.save()
    assert known.all() == before
    bench.pass_time(5)
    bench.console.plant.save()
    assert known.all() == before, "nothing was heard since"
    hear(bench, "gate", "g1", "l1", "blind")
    bench.console.plant.save()
    at, value = known.all()["status/gate/l1/g1"]
    assert (at, '"blind"' in value) == (bench.now, True)


def test_what_an_other_build_has_stored_is_left_out(bench):
    Known(bench.console.database).save({"status/x/l/y": (bench.now, '{"role": "robot"}'), "new/z": (bench.now, "?")})
    bench.console.plant.restore()
    assert names(bench) == []


def test_a_file_of_an_earlier_build_gets_the_table_and_keeps_its_accounts(tmp_path):
    file = tmp_path / "console.sqlite"
    bench = Bench(tmp_path)
    with bench.console.database.transaction() as connection:
        connection.execute("DROP TABLE known")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version={version - 1}")
    bench.close()
    database = ConsoleDatabase(file, lambda: NOW)
    Known(database).save({"a": (NOW, "b")})
    assert Known(database).all() == {"a": (NOW, "b")}
    assert len(database.read("SELECT name FROM accounts")) == 4
    database.close()


def test_a_full_disk_ends_nothing_and_what_was_not_stored_is_stored_later(bench, monkeypatch):
    hear(bench, "gate", "g1", "l1")
    known = bench.console.plant._known

    def fail(_):
        raise SetupError("disk full")

    stop = threading.Event()
    stop.set()
    with monkeypatch.context() as patch:
        patch.setattr(known, "save", fail)
        bench.console.plant.run(stop)
    assert known.all() == {}
    bench.console.plant.run(stop)
    assert list(known.all()) == ["status/gate/l1/g1"]


def test_the_page_asks_again_by_itself_for_its_content_only(bench):
    hear(bench, "gate", "g1", "l1")
    page = bench.browser(Role.SEE).get("/plant").text
    assert 'hx-get="/plant" hx-trigger="every 2s"' in page
    answer = bench.browser(Role.SEE).get("/plant", **HX).text
    assert "<html" not in answer
    assert 'id="plant"' in answer


def test_a_rate_of_a_line_whose_last_minute_is_not_read_yet_is_that_of_what_is_read(bench):
    for number in range(120):
        save(bench, f"n{number:03}", bench.now - number * 100, line="l1")
    bench.console.live.watch()
    bench.console.live.step()
    assert bench.console.live.rates() == {"l1": round(60 * 60_000 / 5_900)}
