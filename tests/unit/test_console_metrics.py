"""What the console counts and shows, and when it is ready."""

import asyncio

from patchline.archive.base import Unavailable
from patchline.console.archive_watch import ArchiveWatch
from patchline.console.live import Live
from patchline.console.metrics import Metrics
from patchline.console.provider import Begun, LogInRefused, Person, ProviderAway
from patchline.console.roles import Role
from tests.archive_contract import NOW, record
from tests.console_bench import PASSWORD, Bench

BENCH = Bench

REASONS = ("wrong", "limit", "disabled", "provider")


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def requests(metrics):
    """The requests by page and class of their statuses."""
    samples = [one for family in metrics.registry.collect() for one in family.samples]
    counted = [one for one in samples if one.name == "patchline_console_requests_total"]
    return {(one.labels["page"], one.labels["status"]): one.value for one in counted}


def test_requests_are_counted_by_page_and_status_and_no_stranger_makes_a_label(bench):
    browser = bench.browser(Role.SEE)
    for path in ("/search", "/part/job-1", "/part/job-2", "/review", "/no/such/page", "/wp-login.php"):
        browser.get(path)
    assert requests(bench.console.metrics) == {
        ("/search", "2xx"): 1.0,
        ("/part/{name}", "4xx"): 2.0,
        ("/review", "4xx"): 1.0,
        ("none", "4xx"): 2.0,
    }
    assert value(bench.console.metrics, "patchline_console_request_seconds_count", page="/search") == 1.0


def test_log_ins_that_are_refused_are_counted_by_reason(bench):
    browser = bench.browser()
    for _ in range(7):
        browser.log_in("a-see", "a wrong password")
    name = "patchline_console_logins_refused_total"
    assert value(bench.console.metrics, name, reason="wrong") == 5.0
    assert value(bench.console.metrics, name, reason="limit") == 2.0


def test_a_log_in_with_a_disabled_account_is_counted_and_one_with_a_wrong_password_as_wrong(bench):
    bench.console.accounts.disable("a-see", "test")
    for password in (PASSWORD, "a wrong password"):
        assert bench.browser().log_in("a-see", password).status_code == 403
    assert refusals(bench) == {"wrong": 1.0, "disabled": 1.0}


class Plant:
    """A log-in service that names a person, or raises an error."""

    said = Person("plant 1", "mei", Role.REVIEW)

    def begin(self):
        return Begun("https://sso.plant/log-in", "state", "nonce", "verifier")

    def finish(self, begun, state, code, error):
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def test_log_ins_by_the_log_in_service_that_are_refused_are_counted_by_reason(tmp_path):
    bench = Bench(tmp_path, provider=Plant(), changes_per_minute=10)
    browser = bench.browser()

    def log_in(said):
        bench.console.provider.said = said
        assert browser.get("/oidc").status_code == 303
        return browser.get("/oidc/back?state=state&code=code").status_code

    assert log_in(Person("plant 1", "mei", Role.REVIEW)) == 303
    assert log_in(ProviderAway("nothing answers")) == 503
    assert refusals(bench) == {}, "nobody was refused so far"
    assert log_in(LogInRefused("mei has no group that may use the console")) == 403
    assert log_in(Person("plant 2", "a-see", Role.ADMIN)) == 403
    bench.console.accounts.disable("mei", "test")
    assert log_in(Person("plant 1", "mei", Role.REVIEW)) == 403
    assert refusals(bench) == {"provider": 2.0, "disabled": 1.0}
    while browser.get("/oidc").status_code == 303:
        pass
    assert refusals(bench) == {"provider": 2.0, "disabled": 1.0, "limit": 1.0}
    bench.close()


def refusals(bench):
    counts = {
        one: value(bench.console.metrics, "patchline_console_logins_refused_total", reason=one) for one in REASONS
    }
    return {reason: count for reason, count in counts.items() if count}


def test_a_browser_counts_while_it_watches():
    metrics = Metrics()

    async def events():
        yield b"event: state\n\n"
        yield b"event: end\n\n"

    async def watch():
        seen = []
        async for _ in metrics.watched(events()):
            seen.append(value(metrics, "patchline_console_live_browsers"))
        return seen

    assert asyncio.run(watch()) == [1.0, 1.0]
    assert value(metrics, "patchline_console_live_browsers") == 0.0


def test_the_newest_verdict_of_the_live_page_is_shown_with_its_time():
    metrics, found = Metrics(), []
    live = Live(lambda _: found, lambda: NOW)
    metrics.show_newest(live.newest)
    name = "patchline_console_newest_verdict_timestamp_seconds"
    assert value(metrics, name) == 0.0
    found.append(record("job-1", decided_at=NOW + 4_000))
    found.append(record("job-2", decided_at=NOW + 3_000))
    live.step()
    assert value(metrics, name) == (NOW + 4_000) / 1000


def test_an_archive_that_does_not_answer_makes_the_last_answer_old():
    now, is_away = [100.0], [False]

    def find(_):
        if is_away[0]:
            raise Unavailable("away")
        return []

    watch = ArchiveWatch(find, lambda: now[0], lambda: 1_000 + now[0])
    assert not watch.answers()
    watch.step()
    assert (watch.answers(), watch.answered_at_s) == (True, 1_100.0)
    is_away[0] = True
    now[0] = 114.0
    watch.step()
    assert watch.answers()
    now[0] = 116.0
    watch.step()
    assert (watch.answers(), watch.answered_at_s) == (False, 1_100.0)
    is_away[0] = False
    watch.step()
    assert watch.answers()
