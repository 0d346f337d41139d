"""The line in the browser as it runs: parts as they come, and what the processes say."""

import asyncio
import json

from patchline.broker.base import Message
from patchline.console import line_page
from patchline.console.roles import Role
from patchline.console.visit import Visit
from patchline.protocol.status_message import STATUS_TYPE, Status
from tests.archive_contract import NOW, record
from tests.console_bench import Bench

BENCH = Bench


def jobs(live, number=0):
    return [row.job_id for _, row in live.after(number)]


def save(bench, *names, at=None):
    bench.archive.save([record(name, decided_at=bench.now if at is None else at) for name in names], [])


def test_parts_come_once_each_in_the_order_in_which_they_were_found(bench):
    live = bench.console.live
    save(bench, "a")
    live.step()
    last = live.after(0)[-1][0]
    save(bench, "b", "c")
    live.step()
    live.step()
    assert jobs(live) == ["a", "c", "b"] or jobs(live) == ["a", "b", "c"]
    assert sorted(jobs(live, last)) == ["b", "c"]


def test_a_verdict_that_is_archived_after_later_ones_is_not_missed(bench):
    live = bench.console.live
    save(bench, "a")
    live.step()
    bench.pass_time(2)
    save(bench, "soon", at=bench.now - 3_000)
    save(bench, "late", at=bench.now - 11_000)
    live.step()
    assert jobs(live) == ["a", "soon"]
    for _ in range(7):
        live.step()
    assert jobs(live) == ["a", "soon", "late"]


def test_a_clock_that_is_ahead_hides_nothing(bench):
    live = bench.console.live
    save(bench, "ahead", at=bench.now + 3_600_000)
    live.step()
    bench.pass_time(1)
    save(bench, "a")
    live.step()
    assert jobs(live) == ["ahead", "a"]


def test_all_parts_of_an_outage_of_the_archive_come_afterwards_also_if_they_are_many(bench):
    live = bench.console.live
    save(bench, "a")
    live.step()
    bench.archive.away = True
    for _ in range(5):
        bench.pass_time(4)
        live.step()
        assert "away" in live.failure
    bench.archive.away = False
    bench.archive.save([record(f"n{number:04}", decided_at=bench.now - number) for number in range(1_200)], [])
    live.step()
    assert live.failure == ""
    assert len(jobs(live)) == 1_201
    assert live.rates() == {"l1": 1_201}


def test_after_a_pause_without_watchers_the_latest_parts_are_read_and_not_hours_of_them(bench):
    live = bench.console.live
    live.step()
    bench.archive.save([record(f"n{number}", decided_at=bench.now + number) for number in range(500)], [])
    bench.pass_time(3_600)
    live.step()
    assert len(jobs(live)) == 60


def test_numbers_go_on_after_a_restart_of_the_console(bench, tmp_path):
    bench.console.live.step()
    save(bench, "a")
    bench.console.live.step()
    (number, _), *_ = bench.console.live.after(0)
    assert number > NOW


def test_the_rate_counts_the_last_minute(bench):
    save(bench, "old", at=bench.now - 61_000)
    save(bench, "a", "b")
    bench.console.live.step()
    assert bench.console.live.rates() == {"l1": 2}


def status(**changes):
    values = {"role": "worker", "name": "cpu:0", "host": "h", "state": "serving", "since": NOW, "sent_at": NOW}
    return Message(Status(**values | changes).to_json(), None, STATUS_TYPE)


def test_a_process_that_says_nothing_for_three_seconds_is_shown_as_silent(bench):
    states = bench.console.states
    states.hear(status())
    states.hear(status(role="gate", name="g", line="l1", state="standby"))
    states.hear(Message(b"no status", None, STATUS_TYPE))
    assert [(one.role, one.state) for one in states.all()] == [("worker", "serving"), ("gate", "standby")]
    bench.pass_time(3.5)
    states.hear(status(state="blind"))
    assert [(one.role, one.state) for one in states.all()] == [("worker", "blind"), ("gate", "silent")]


def take(bench, count, last=0, language="en", session=None):
    """The first events of a stream, as (name, value)."""
    visit = Visit("/line/events", language=language, session=session or bench.browser(Role.SEE).session)

    async def collect():
        stream = line_page.events(bench.console, visit, last)
        return [await anext(stream) for _ in range(count)]

    found = []
    for event in asyncio.run(collect()):
        lines = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
        found.append((lines["event"], json.loads(lines["data"]), lines.get("id")))
    return found


def test_a_browser_gets_parts_and_states_as_events_in_its_language(bench):
    save(bench, "a")
    bench.console.states.hear(status())
    bench.console.live.step()
    (name, (part,), number), (state, now, _) = take(bench, 2, language="de")
    assert (name, part["job"], part["decision"], part["word"]) == ("parts", "a", "fail", "Fehler")
    assert (state, now["rates"], now["archive"]) == ("state", {"l1": 1}, True)
    assert [(one["role"], one["word"]) for one in now["processes"]] == [("Prüfrechner", "arbeitet")]
    save(bench, "b")
    bench.console.live.step()
    (_, (part,), _), _ = take(bench, 2, last=int(number))
    assert part["job"] == "b"


def test_a_new_browser_gets_the_last_parts_only_and_one_that_comes_back_all_that_it_missed(bench):
    bench.archive.save([record(f"n{number:03}", decided_at=bench.now) for number in range(60)], [])
    bench.console.live.step()
    first, *_ = bench.console.live.after(0)
    bench.archive.save([record(f"m{number:03}", decided_at=bench.now) for number in range(60)], [])
    bench.console.live.step()
    assert len(take(bench, 1)[0][1]) == 60
    assert len(take(bench, 1, last=first[0])[0][1]) == 119


def test_the_stream_ends_with_the_log_in(bench, monkeypatch):
    monkeypatch.setattr(line_page, "_SESSION_S", 0.0)
    session = bench.browser(Role.SEE).session
    assert take(bench, 1, session=session)[0][0] == "state"
    bench.console.accounts.remove("a-see", "test")
    assert take(bench, 1, session=session)[0][0] == "end"
