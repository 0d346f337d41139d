"""A disk without room: pages say so, nothing is half done, and people log in, read, and make room."""

import errno
import os
import re
import sqlite3
import sys
import types
from contextlib import closing

import cv2
import numpy as np
import pytest

from patchline.console import audit, fitting, lesson_files, lesson_fit, lessons
from patchline.console.database import ConsoleDatabase
from patchline.console.lesson_files import Run
from patchline.console.roles import Role
from patchline.console.sessions import Sessions
from patchline.protocol.errors import DiskFull, SetupError
from patchline.runtime import disk
from tests.archive_contract import NOW, record
from tests.console_bench import PASSWORD, SETTINGS, Bench

CATEGORY = next(iter(SETTINGS.categories))
TEXT = "The disk of the console is full, so nothing was changed."
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT")
WAITS = (sys.executable, "-c", "import sys; sys.stdin.read()")


class FullConnection:
    """A connection of SQLite to a file whose disk has no room: it reads, and what is to be committed fails."""

    def __init__(self, connection):
        self._connection, self._dirty = connection, False

    def execute(self, query, values=()):
        if query == "COMMIT" and self._dirty:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        self._dirty = query.startswith(WRITES[:3]) or (self._dirty and query != "ROLLBACK")
        return self._connection.execute(query, values)

    def __getattr__(self, name):
        return getattr(self._connection, name)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, fits=WAITS)
    bench.archive.save([record("job-1")], [])
    yield bench
    bench.close()


def no_room(_):
    return types.SimpleNamespace(f_bavail=0, f_frsize=4096)


@pytest.fixture
def full(bench, monkeypatch):
    """Fill the disk of a bench; what it returns makes room again."""

    def fill():
        database, room = bench.console.database, database_room(bench)
        database._connection = FullConnection(database._connection)
        monkeypatch.setattr(os, "statvfs", no_room)

        def make_room():
            database._connection = room
            monkeypatch.undo()

        return make_room

    return fill


def database_room(bench):
    return bench.console.database._connection


def png():
    return bytes(cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))[1])


def begin_lesson(bench, engineer):
    return bench.console.lessons.find(
        engineer.post("/teach", {"category": CATEGORY}).headers["location"].split("/")[-1]
    )


def whats(bench):
    return [one.what for one in audit.latest(bench.console.database, 50)]


def test_people_log_in_read_and_log_out_and_nothing_is_judged_that_the_audit_log_cannot_have(bench, full):
    make_room = full()
    browser = bench.browser()
    answer = browser.log_in("a-review")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert bench.browser().log_in("a-see", "wrong").status_code == 403
    for path in ("/line", "/search", "/part/job-1", "/review", "/report", "/password"):
        assert browser.get(path).status_code == 200, path
    browser.csrf = bench.console.sessions.find(browser.client.cookies["patchline_session"]).csrf
    answer = browser.post("/review", {"job": "job-1", "judgement": "good"})
    assert answer.status_code == 507
    assert TEXT in answer.text
    assert bench.published == []
    assert browser.post("/logout").headers["location"] == "/login"
    make_room()
    assert browser.get("/line").headers["location"].startswith("/login")


def test_a_log_in_of_a_full_disk_is_stored_once_there_is_room_and_lives_on(bench, full):
    make_room = full()
    browser = bench.browser()
    browser.log_in("a-see")
    make_room()
    assert browser.get("/line").status_code == 200
    with closing(ConsoleDatabase(bench.console.database._path, lambda: bench.now)) as database:
        again = Sessions(database, 60, 12, bench.steady_s)
        assert again.find(browser.client.cookies["patchline_session"]).name == "a-see"


def test_a_log_in_that_is_used_while_the_disk_is_full_is_not_idle_and_one_that_is_not_ends(bench, full):
    used, unused = bench.browser(Role.SEE), bench.browser(Role.ADMIN)
    full()
    for _ in range(3):
        bench.pass_time(45 * 60)
        assert used.get("/line").status_code == 200
    assert unused.get("/line").status_code == 303


def test_a_change_that_meets_a_full_disk_at_its_end_is_undone_and_the_next_one_works(bench, full, monkeypatch):
    make_room = full()
    admin = bench.browser(Role.ADMIN)
    monkeypatch.setattr(bench.console.database, "require_room", lambda size=0: None)
    answer = admin.post("/accounts", {"do": "add", "name": "mei", "role": "see"})
    assert answer.status_code == 507
    assert TEXT in answer.text
    make_room()
    assert bench.console.accounts.find("mei") is None
    assert admin.post("/accounts", {"do": "add", "name": "mei", "role": "see"}).status_code == 200


def test_a_lesson_is_not_begun_and_one_that_is_there_can_be_seen_and_deleted_to_make_room(bench, full):
    engineer = bench.browser(Role.ENGINEER)
    lesson = begin_lesson(bench, engineer)
    path = f"/teach/{lesson.id}"
    full()
    assert engineer.post("/teach", {"category": CATEGORY}).status_code == 507
    files = [("files", ("a.png", png(), "image/png"))]
    answer = engineer.client.post(path, data={"csrf": engineer.csrf}, files=files)
    assert answer.status_code == 507
    assert TEXT in answer.text
    assert engineer.post(f"{path}/fit").status_code == 507
    assert engineer.get(path).status_code == 200
    assert engineer.post(f"{path}/delete", {"sure": "yes"}).headers["location"] == "/teach"
    assert bench.console.lessons.all() == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_picture_that_meets_a_full_disk_leaves_nothing_behind(bench, monkeypatch, number):
    engineer = bench.browser(Role.ENGINEER)
    lesson, written, write = begin_lesson(bench, engineer), [], lesson_files.write

    def full(path, content):
        written.append(path)
        if len(written) == number:
            raise disk.unwritable(path, OSError(errno.ENOSPC, "No space left on device"))
        write(path, content)

    monkeypatch.setattr(lesson_files, "write", full)
    files = [("files", ("a.png", png(), "image/png"))]
    answer = engineer.client.post(f"/teach/{lesson.id}", data={"csrf": engineer.csrf}, files=files)
    assert answer.status_code == 507
    assert list(lesson.folder.rglob("*.jpg")) == lesson.good() == []
    assert list((bench.console.lessons.folder / ".incoming").iterdir()) == []


def test_a_lesson_names_the_pictures_that_it_has_no_room_for_and_those_before_them_are_in_it(bench, monkeypatch):
    engineer = bench.browser(Role.ENGINEER)
    lesson, add = begin_lesson(bench, engineer), lessons.Lesson.add

    def full(self, kind, name, *rest):
        if name == "b.png":
            raise disk.full(lesson.folder)
        return add(self, kind, name, *rest)

    monkeypatch.setattr(lessons.Lesson, "add", full)
    files = [("files", (f"{name}.png", png(), "image/png")) for name in "abc"]
    form = {"csrf": engineer.csrf}
    page = engineer.client.post(f"/teach/{lesson.id}", data=form, files=files, follow_redirects=True)
    assert (page.status_code, len(lesson.good())) == (200, 1)
    assert "1 pictures were added." in page.text
    assert re.findall(r"<li><bdi>(\w+).png</bdi>: [^<]*the disk is full", page.text) == ["b", "c"]
    (entry,) = [one for one in audit.latest(bench.console.database, 5) if one.what == "pictures added"]
    assert "1 added, 2 refused" in entry.detail


def test_a_lesson_that_cannot_be_written_down_is_none(bench, monkeypatch):
    def full(path, _):
        raise disk.unwritable(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(lesson_files, "write", full)
    assert bench.browser(Role.ENGINEER).post("/teach", {"category": CATEGORY}).status_code == 507
    assert bench.console.lessons.all() == []


def test_a_fit_that_ends_while_the_disk_is_full_can_be_seen_and_another_one_starts_later(bench, monkeypatch):
    engineer = bench.browser(Role.ENGINEER)
    lesson = begin_lesson(bench, engineer)
    bench.console.teacher.start(lesson, "a-engineer")

    def full(path, _):
        raise disk.unwritable(path, OSError(errno.ENOSPC, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr(lesson_files, "write", full)
        engineer.post(f"/teach/{lesson.id}/cancel")
        assert "cancelled" in engineer.get(f"/teach/{lesson.id}").text
        assert bench.console.teacher.busy_with is None
    engineer.post(f"/teach/{lesson.id}/fit")
    assert bench.console.teacher.busy_with == lesson


def test_a_console_starts_on_a_full_disk_and_knows_its_accounts(tmp_path):
    path = tmp_path / "console.sqlite"
    ConsoleDatabase(path, lambda: NOW).close()
    with closing(ConsoleDatabase(path, lambda: NOW)) as database:
        before = database.read("PRAGMA data_version")
        with closing(ConsoleDatabase(path, lambda: NOW)):
            assert database.read("PRAGMA data_version") == before, "nothing is written at a start"


def test_room_is_asked_for_before_anything_is_done(tmp_path, monkeypatch):
    with closing(ConsoleDatabase(tmp_path / "console.sqlite", lambda: NOW)) as database:
        database.require_room()
        with pytest.raises(DiskFull, match="the disk is full; make room on it"):
            database.require_room(2**60)
        monkeypatch.setattr(os, "statvfs", no_room)
        with pytest.raises(DiskFull):
            database.require_room()


def test_log_ins_are_as_they_are_after_the_password_is_wrong(bench, full):
    make_room = full()
    assert bench.browser().log_in("a-see", PASSWORD + "!").status_code == 403
    make_room()
    assert "log-in refused" not in whats(bench)
    assert bench.browser().log_in("a-see", PASSWORD + "!").status_code == 403
    assert whats(bench)[0] == "log-in refused"


def test_while_the_file_of_the_console_cannot_be_read_pages_say_so_and_nobody_is_logged_out(bench, monkeypatch):
    browser = bench.browser(Role.REVIEW)

    def fail(*_):
        raise SetupError("console.sqlite: cannot be used (disk I/O error)")

    with monkeypatch.context() as patch:
        patch.setattr(bench.console.sessions, "find", fail)
        for answer in (browser.get("/line"), browser.post("/review", {"job": "job-1", "judgement": "good"})):
            assert answer.status_code == 503
            assert "The console cannot do this now: console.sqlite: cannot be used" in answer.text
        assert browser.get("/static/console.css").status_code == 200
    assert bench.published == []
    assert browser.get("/line").status_code == 200


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), disk.full("a.npy")])
def test_a_process_that_fits_on_a_full_disk_ends_with_a_code_since_it_cannot_write_why(bench, monkeypatch, error):
    lesson = begin_lesson(bench, bench.browser(Role.ENGINEER))
    lesson.report(Run(state="running", by="anna", began_at=NOW))
    bench.console.teacher._settings_file(lesson)

    def fail(*_):
        raise error

    monkeypatch.setattr(lesson_fit, "fit_lesson", fail)
    monkeypatch.setattr(fitting, "_end_with_console", lambda: None)
    monkeypatch.setattr(fitting.background, "stand_back", lambda: None)
    with pytest.raises(SystemExit) as ended:
        fitting.main(lesson.folder)
    assert ended.value.code == disk.EXIT_CODE
