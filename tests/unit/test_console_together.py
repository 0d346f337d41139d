"""Two people at the same time, and one who presses twice."""

import re
import sqlite3
import threading
from contextlib import closing

import pytest

from patchline.console import audit
from patchline.console.repeats import Repeats
from patchline.console.roles import Role
from patchline.console.visit import Redirect, Visit
from patchline.protocol.judgement_message import Label
from tests.archive_contract import NOW, record
from tests.console_bench import PASSWORD, SETTINGS, Bench
from tests.ledger_contract import delivery, entry, judgement

__all__ = ["delivery"]
CATEGORY = next(iter(SETTINGS.categories))
HX = {"hx-request": "true"}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.archive.save([record(f"job-{number}", decided_at=NOW + number) for number in range(3)], [])
    yield bench
    bench.close()


def form_of(page, **values):
    """What the form of a page sends."""
    sent = {name: re.findall(f'name="{name}" value="([^"]*)"', page) for name in ("seen", "job")}
    return {"seen": sent["seen"], "job": sent["job"][0]} | values


def said(bench):
    return [(one.by, one.judgement) for one in bench.published]


def test_who_judges_second_is_told_what_the_first_one_said_and_both_are_kept(bench):
    anna, bert = bench.browser(Role.REVIEW), bench.browser(Role.ENGINEER)
    first, second = (form_of(browser.get("/review").text) for browser in (anna, bert))
    assert first["job"] == second["job"] == "job-2"
    anna.post("/review", first | {"judgement": "good"}, HX)
    page = bert.post("/review", second | {"judgement": "defect:scratch"}, HX).text
    assert said(bench) == [("a-review", Label.GOOD)]
    assert "Somebody has judged this part meanwhile, so your judgement was not stored." in page
    assert re.search(r"<strong>good</strong>,\s+a-review, 20\d\d-", page)
    bert.post("/review", form_of(page, judgement="defect:scratch"), HX)
    assert said(bench) == [("a-review", Label.GOOD), ("a-engineer", Label.DEFECT)]


def test_who_judges_second_on_the_page_of_a_part_is_told_there_and_without_scripts(bench):
    bert = bench.browser(Role.ENGINEER)
    page = bert.get("/part/job-1").text
    bench.archive.save_ledger([entry(judgement("job-1", "unsure"))], [])
    answer = bert.post("/review", form_of(page, judgement="good") | {"from": "part"})
    assert said(bench) == []
    page = bert.get(answer.headers["location"]).text
    assert "Somebody has judged this part meanwhile" in page
    bert.post("/review", form_of(page, judgement="good") | {"from": "part"})
    assert said(bench) == [("a-engineer", Label.GOOD)]
    answer = bench.browser(Role.REVIEW).post("/review", {"job": "job-1", "judgement": "good"})
    assert answer.status_code == 200
    assert "Somebody has judged this part meanwhile" in answer.text


def test_taking_back_undoes_what_the_own_person_said_only(bench):
    anna, bert = bench.browser(Role.REVIEW), bench.browser(Role.ENGINEER)
    anna.post("/review", {"job": "job-2", "judgement": "good"})
    bert.post("/review", {"job": "job-2", "judgement": "defect", "seen": "a-review/good/"})
    bert.post("/review", {"job": "job-2", "judgement": "withdrawn"})
    page = bert.get("/part/job-2").text
    assert re.findall(r"<strong>(\w+)</strong>,\s+([\w-]+)", page) == [("good", "a-review")]
    assert 'value="withdrawn"' not in page
    assert form_of(bert.get("/review").text)["job"] == "job-1"
    bert.post("/review", {"job": "job-2", "judgement": "withdrawn"})
    assert said(bench)[2:] == [("a-engineer", Label.WITHDRAWN)]
    anna.post("/review", {"job": "job-2", "judgement": "withdrawn"})
    assert form_of(bert.get("/review").text)["job"] == "job-2"


def test_a_judgement_that_is_sent_twice_is_stored_once_also_while_rabbitmq_is_slow(bench):
    anna, begun, goes_on = bench.browser(Role.REVIEW), threading.Event(), threading.Event()

    def slow(one):
        begun.set()
        assert goes_on.wait(30)
        bench.published.append(one)

    object.__setattr__(bench.console, "judge", slow)
    answers = []
    form = {"job": "job-2", "judgement": "good"}
    threads = [threading.Thread(target=lambda: answers.append(anna.post("/review", form))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    goes_on.set()
    for thread in threads:
        thread.join(30)
    assert said(bench) == [("a-review", Label.GOOD)]
    assert [(one.status_code, one.headers["location"]) for one in answers] == [(303, "/review?last=job-2")] * 2
    assert [one.what for one in audit.latest(bench.console.database, 9)].count("part judged") == 1


def once(page):
    return re.search(r'name="once" value="([^"]+)"', page)[1]


@pytest.mark.parametrize(
    ("path", "form", "what"),
    [
        ("/accounts", {"do": "add", "name": "mei", "role": "see"}, "account added"),
        ("/accounts", {"do": "disable", "name": "a-see"}, "account disabled"),
        ("/accounts", {"do": "remove", "name": "a-see", "sure": "yes"}, "account removed"),
        ("/accounts", {"do": "password", "name": "a-see"}, "password changed"),
        ("/accounts", {"do": "role", "name": "a-see", "role": "review"}, "role changed"),
        ("/teach", {"category": CATEGORY}, "lesson begun"),
    ],
)
def test_a_form_that_is_sent_twice_acts_once_and_has_the_same_answer(bench, path, form, what):
    admin = bench.browser(Role.ADMIN)
    form |= {"once": once(admin.get("/accounts").text)}
    first, second = admin.post(path, form), admin.post(path, form)
    assert first.status_code == second.status_code in (200, 303)
    assert (first.text, first.headers.get("location")) == (second.text, second.headers.get("location"))
    assert [one.what for one in audit.latest(bench.console.database, 9)].count(what) == 1


def test_each_form_of_each_page_has_a_value_of_its_own(bench):
    admin = bench.browser(Role.ADMIN)
    values = []
    for path in ("/accounts?name=a-see", "/accounts", "/review", "/part/job-1", "/teach", "/password"):
        page = admin.get(path).text
        values += re.findall(r'name="once" value="([^"]+)"', page)
        assert page.count('name="once"') == page.count('method="post"')
    assert len(values) == len(set(values)) > 12


def test_a_form_with_other_values_is_another_one_and_one_that_was_refused_may_come_again(bench):
    admin = bench.browser(Role.ADMIN)
    token = {"once": once(admin.get("/accounts").text)}
    for name in ("mei", "kim"):
        assert f"{name} was added." in admin.post("/accounts", token | {"do": "add", "name": name, "role": "see"}).text
    reviewer = bench.browser(Role.REVIEW)
    form = {"job": "job-2", "judgement": "good"} | token
    bench.broker_is_away = True
    assert reviewer.post("/review", form).status_code == 503
    bench.broker_is_away = False
    assert reviewer.post("/review", form).status_code == 303
    assert said(bench) == [("a-review", Label.GOOD)]


def test_a_second_press_waits_for_the_first(bench):
    visit = Visit("/teach", form={"once": ("x",)}, session=bench.browser(Role.ADMIN).session)
    begun, goes_on, made = threading.Event(), threading.Event(), []

    def make():
        begun.set()
        assert goes_on.wait(30)
        made.append(1)
        return Redirect("/teach/1")

    replies = []
    threads = [threading.Thread(target=lambda: replies.append(repeats.answer(visit, make))) for _ in range(3)]
    repeats = Repeats()
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    goes_on.set()
    for thread in threads:
        thread.join(30)
    assert made == [1]
    assert replies == [Redirect("/teach/1")] * 3


def test_the_answers_that_are_kept_are_few_and_for_some_minutes(bench):
    now = [0.0]
    repeats, session = Repeats(clock=lambda: now[0]), bench.browser(Role.ADMIN).session
    made = []

    def send(number):
        visit = Visit("/teach", form={"once": (str(number),)}, session=session)
        return repeats.answer(visit, lambda: made.append(number) or Redirect("/"))

    for number in (*range(600), 0, 599):
        send(number)
    assert made[600:] == [0]
    now[0] = 601.0
    send(599)
    assert made[601:] == [599]


def test_a_password_that_is_changed_by_a_double_press_is_changed_and_the_browser_stays_logged_in(bench):
    browser = bench.browser(Role.SEE)
    token, new = browser.client.cookies["patchline_session"], "a new password"
    form = {"old": PASSWORD, "new": new, "again": new, "once": once(browser.get("/password").text.partition("<h1")[2])}
    answers = []
    for _ in range(2):  # the second press goes out before the browser has the cookie of the first answer
        browser.client.cookies.clear()
        browser.client.cookies.set("patchline_session", token)
        answers.append(browser.post("/password", form))
    assert [(one.status_code, one.headers["location"]) for one in answers] == [(303, "/line")] * 2
    cookies = {one.headers["set-cookie"].partition(";")[0] for one in answers}
    assert len(cookies) == 1
    browser.client.cookies.clear()
    browser.client.cookies.set("patchline_session", cookies.pop().partition("=")[2])
    assert browser.get("/line").status_code == 200
    whats = [one.what for one in audit.latest(bench.console.database, 9)]
    assert (whats.count("password changed"), whats.count("logged in")) == (1, 2)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"do": "password"}, "First password, shown this once:"),
        ({"do": "end"}, "All log-ins of a-admin have ended."),
        ({"do": "role", "role": "engineer"}, "a-admin has another role."),
        ({"do": "disable"}, "a-admin can no longer log in."),
        ({"do": "remove", "sure": "yes"}, "a-admin was removed."),
    ],
)
def test_who_ends_the_own_log_in_by_a_double_press_sees_what_was_done(bench, form, text):
    bench.console.accounts.add("mei", Role.ADMIN, PASSWORD, "test")
    admin = bench.browser(Role.ADMIN)
    form |= {"name": "a-admin", "once": once(admin.get("/accounts").text)}
    first, second = admin.post("/accounts", form), admin.post("/accounts", form)
    assert (first.status_code, second.status_code) == (200, 200)
    assert text in first.text
    assert first.text == second.text
    assert admin.get("/accounts").headers["location"] == "/login?to=/accounts"


def test_a_form_that_is_done_is_not_refused_when_it_comes_again_for_whatever_was_used_up_by_it(tmp_path, monkeypatch):
    with closing(Bench(tmp_path, changes_per_minute=2)) as bench:
        engineer = bench.browser(Role.ENGINEER)
        form = {"category": CATEGORY, "once": once(engineer.get("/teach").text)}
        first = engineer.post("/teach", form)
        assert engineer.post("/teach", form | {"once": "another"}).status_code == 429
        monkeypatch.setattr(bench.console.database, "require_room", lambda: 1 / 0)
        again = engineer.post("/teach", form)
        assert (again.status_code, again.headers["location"]) == (303, first.headers["location"])


def test_an_answer_is_for_the_log_in_and_the_form_of_then_only(bench):
    admin, other = bench.browser(Role.ADMIN), bench.browser(Role.ADMIN)
    form = {"do": "password", "name": "a-admin", "once": once(admin.get("/accounts").text)}
    form["csrf"] = admin.csrf
    assert "shown this once" in admin.post("/accounts", form).text
    stranger = bench.browser()
    changed = ((admin, form | {"once": "x"}), (admin, form | {"csrf": "x"}))
    for browser, sent in ((stranger, form), (other, form), *changed):
        answer = browser.post("/accounts", sent)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?to=/accounts&lost=1")


def test_what_was_done_is_shown_also_if_the_audit_log_cannot_be_written_then(bench, monkeypatch):
    engineer = bench.browser(Role.ENGINEER)
    write = audit.write

    def locked(connection, at, who, what, detail):
        if what == "lesson begun":
            raise sqlite3.OperationalError("database is locked")
        write(connection, at, who, what, detail)

    monkeypatch.setattr(audit, "write", locked)
    assert engineer.post("/teach", {"category": CATEGORY}).headers["location"].startswith("/teach/")


def test_who_logs_in_or_out_twice_sees_no_error(bench):
    browser = bench.browser()
    form = {"name": "a-see", "password": "correct horse", "to": "/search"}
    form["csrf"] = re.search(r'name="csrf" value="([^"]+)"', browser.get("/login").text)[1]
    for _ in range(2):
        answer = browser.client.post("/login", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/search")
    form["csrf"] = re.search(r'name="csrf" value="([^"]+)"', browser.get("/line").text)[1]
    assert browser.client.post("/logout", data=form).headers["location"] == "/login"
    assert browser.client.post("/logout", data=form).headers["location"] == "/login?to=/"


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_who_sends_an_older_log_in_form_never_goes_on_as_the_person_before(bench, password):
    """Two tabs of a shared tablet: the second person worked, and judged parts, with the name of the first."""
    browser = bench.browser()

    def form(name):
        page = browser.get("/login").text
        token, once = (re.findall(f'name="{field}" value="([^"]+)"', page)[-1] for field in ("csrf", "once"))
        return {"csrf": token, "once": once, "name": name, "password": PASSWORD}

    older, first = form("a-review"), form("a-see")
    assert browser.client.post("/login", data=first).status_code == 303
    answer = browser.client.post("/login", data=older | {"password": password})
    assert answer.status_code == 403
    assert "The form was too old. Try again." in answer.text
    assert browser.client.post("/login", data=form("a-review")).status_code == 303
    assert "a-review" in browser.get("/line").text


def test_a_log_in_form_that_is_pressed_twice_begins_one_log_in(bench):
    browser = bench.browser()
    form = {"name": "a-see", "password": PASSWORD, "to": "/search"}
    page = browser.get("/login").text
    form |= {name: re.search(f'name="{name}" value="([^"]+)"', page)[1] for name in ("csrf", "once")}
    cookies, answers = dict(browser.client.cookies), []

    def press():
        other = bench.browser()  # with what the browser had when it sent the form
        other.client.cookies.update(cookies)
        answers.append(other.client.post("/login", data=form))

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [(one.status_code, one.headers["location"]) for one in answers] == [(303, "/search")] * 2
    assert len({one.cookies["patchline_session"] for one in answers}) == 1
    assert [one.what for one in audit.latest(bench.console.database, 9)].count("logged in") == 1
    stranger = bench.browser().client.post("/login", data=form)
    assert (stranger.status_code, "patchline_session" in stranger.cookies) == (403, False)


def test_a_wrong_password_that_is_pressed_twice_is_refused_twice(bench):
    browser = bench.browser()
    page = browser.get("/login").text
    form = {name: re.search(f'name="{name}" value="([^"]+)"', page)[1] for name in ("csrf", "once")}
    cookies, form = dict(browser.client.cookies), form | {"name": "a-see", "password": "wrong"}
    for _ in range(2):
        browser.client.cookies.clear()
        browser.client.cookies.update(cookies)
        assert browser.client.post("/login", data=form).status_code == 403
    assert [one.what for one in audit.latest(bench.console.database, 9)].count("log-in refused") == 2
