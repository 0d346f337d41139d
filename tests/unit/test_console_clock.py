"""A wall clock that is set back or forward while the console runs, or between two starts of it."""

import os
from contextlib import closing

import pytest

from patchline.console import line_page
from patchline.console.database import ConsoleDatabase
from patchline.console.provider import Begun, Waiting
from patchline.console.roles import Role
from patchline.console.sessions import Sessions
from tests.archive_contract import record
from tests.console_bench import Bench

BENCH = Bench

HOUR_S, YEAR_S = 3_600, 365 * 86_400


@pytest.mark.parametrize("seconds", [-YEAR_S, -HOUR_S, HOUR_S, YEAR_S])
def test_a_clock_that_is_set_ends_no_log_in_and_prolongs_none(bench, seconds):
    idle, used = bench.browser(Role.SEE), bench.browser(Role.SEE)
    assert used.get("/line").status_code == idle.get("/line").status_code == 200
    bench.set_clock(seconds)
    assert used.get("/line").status_code == 200
    bench.browser(Role.ADMIN)  # a log-in deletes those that have ended
    for _ in range(2):
        bench.pass_time(40 * 60)
        assert used.get("/line").status_code == 200
    assert idle.get("/line").status_code == 303
    for _ in range(20):
        bench.pass_time(40 * 60)
        status = used.get("/line").status_code
    assert status == 303


def test_a_log_in_of_a_clock_that_was_ahead_ends_as_any_other_after_a_restart(bench):
    bench.set_clock(YEAR_S)
    token = bench.browser(Role.SEE).session.token
    bench.set_clock(-YEAR_S)
    with closing(ConsoleDatabase(bench.console.database._path, lambda: bench.now)) as database:
        (times,) = database.read("SELECT started_at, seen_at FROM sessions")
        assert min(times) > bench.now
        sessions = Sessions(database, 60, 12, bench.steady_s)
        assert database.read("SELECT started_at, seen_at FROM sessions") == [(bench.now, bench.now)]
        assert sessions.find(token, used=False) is not None
        bench.pass_time(HOUR_S)
        assert sessions.find(token) is None
        assert Sessions(database, 60, 12, bench.steady_s).find(token) is None


@pytest.mark.parametrize("seconds", [-YEAR_S, YEAR_S])
def test_who_has_tried_too_often_waits_as_long_as_with_a_right_clock(bench, seconds):
    browser = bench.browser()
    for _ in range(6):
        status = browser.log_in("a-see", "wrong").status_code
    assert status == 429
    bench.set_clock(seconds)
    assert browser.log_in("a-see").status_code == 429
    bench.pass_time(15 * 60)
    assert browser.log_in("a-see").status_code == 303


def test_a_live_page_that_knows_higher_numbers_than_there_are_gets_what_is_there(bench):
    bench.archive.save([record(decided_at=bench.now)], [])
    bench.console.live.watch()
    bench.console.live.step()
    assert bench.console.live.after(0)
    newest = bench.console.live.after(0)[-1][0]
    assert bench.console.live.last(newest) == newest
    assert bench.console.live.last(newest + YEAR_S) == 0
    assert line_page.Stream


@pytest.mark.parametrize("seconds", [-HOUR_S, -YEAR_S])
def test_a_rate_counts_no_part_of_the_hours_that_come_again(bench, seconds):
    bench.archive.save([record(f"job-{one}", decided_at=bench.now - one * 10_000) for one in range(50)], [])
    bench.console.live.watch()
    bench.console.live.step()
    assert bench.console.live.rates() == {"l1": 7}
    bench.set_clock(seconds)
    bench.archive.save([record("later", decided_at=bench.now)], [])
    bench.console.live.step()
    assert bench.console.live.rates() == {"l1": 1}


def test_pictures_of_lessons_outlive_a_clock_that_is_set_years_ahead(bench):
    lesson = bench.console.lessons.begin("brick", "a-engineer")
    for path in (lesson.folder, *lesson.folder.iterdir()):
        os.utime(path, (bench.now / 1000, bench.now / 1000))
    bench.set_clock(5 * YEAR_S)
    bench.console.lessons.sweep()
    assert bench.console.lessons.all() == [lesson]
    bench.set_clock(-5 * YEAR_S)
    bench.pass_time(5 * YEAR_S)
    bench.console.lessons.sweep()
    assert bench.console.lessons.all() == []


def test_a_log_in_at_the_provider_that_was_begun_by_a_clock_ahead_is_too_old():
    waiting, begun = Waiting(), Begun("url", "state", "nonce", "verifier")
    assert waiting.take(1_000_000, waiting.add(1_000_500, begun, "/")) == (begun, "/")
    assert waiting.take(1_000_000, waiting.add(2_000_000, begun, "/")) is None


def test_a_report_is_made_anew_after_the_clock_was_set_back(bench):
    browser, path = bench.browser(Role.SEE), "/report?since=2020-01-01T00:00&until=2020-01-02T00:00"
    assert browser.get(path).status_code == 200
    made = next(iter(bench.console.reports._made.values())).made_at
    bench.set_clock(-HOUR_S)
    browser.get(path)
    assert next(iter(bench.console.reports._made.values())).made_at == made - HOUR_S * 1000


def test_ages_are_never_negative(bench):
    bench.archive.save([record(decided_at=bench.now)], [])
    bench.console.live.watch()
    bench.console.live.step()
    browser = bench.browser(Role.SEE)
    assert "0 s ago" in browser.get("/plant").text
    bench.set_clock(-YEAR_S)
    assert "0 s ago" in browser.get("/plant").text
