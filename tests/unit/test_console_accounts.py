"""Administrators change accounts in the browser, and how much each person may ask."""

import re
import sqlite3
from contextlib import closing

import pytest

from patchline.console import audit, database
from patchline.console.accounts import ChangeRefused
from patchline.console.database import ConsoleDatabase
from patchline.console.passwords import SHORTEST, made_up
from patchline.console.rates import Rates
from patchline.console.roles import Role
from tests.archive_contract import record
from tests.console_bench import PASSWORD, Bench

BENCH = Bench


@pytest.fixture
def admin(bench):
    return bench.browser(Role.ADMIN)


def act(admin, do, name, **form):
    return admin.post("/accounts", {"do": do, "name": name} | form)


def given(page):
    """The password that a page shows."""
    return re.search(r'class="secret">.*<code>([^<]+)</code>', page.text)[1]


def test_an_account_is_added_with_a_password_that_is_shown_once_and_must_be_changed(bench, admin):
    password = given(act(admin, "add", "anna", role="review"))
    assert len(password) > SHORTEST
    assert password not in admin.get("/accounts?name=anna").text
    assert "must choose a password" in admin.get("/accounts").text
    anna = bench.browser()
    assert anna.log_in("anna", password).status_code == 303
    bench.archive.save([record()], [])
    bench.keep_picture("job-1")
    for path in ("/", "/line", "/line/events", "/search", "/review", "/picture/job-1/image"):
        answer = anna.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/password"), path
    page = anna.get("/password").text
    assert "Somebody gave you your password." in page
    anna.csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]
    judged = anna.post("/review", {"job": "job-1", "judgement": "good"})
    assert judged.headers["location"] == "/password"
    assert bench.published == []
    form = {"old": password, "new": password, "again": password}
    assert anna.post("/password", form).status_code == 400
    assert anna.post("/password", form | {"new": "of my own, anna", "again": "of my own, anna"}).status_code == 303
    assert anna.get("/review").status_code == 200
    assert bench.browser().log_in("anna", password).status_code == 403


def test_changes_end_the_log_ins_and_are_in_the_audit_log(bench, admin):
    changes = {
        "a-see": ("role", {"role": "review"}),
        "a-review": ("end", {}),
        "a-engineer": ("remove", {"sure": "yes"}),
    }
    for name, (do, form) in changes.items():
        person = bench.browser(name.removeprefix("a-"))
        assert person.get("/line").status_code == 200
        assert act(admin, do, name, **form).status_code == 200
        assert person.get("/line").status_code == 303
    assert {one.name: one.role for one in bench.console.accounts.all()} == {
        "a-admin": Role.ADMIN,
        "a-review": Role.REVIEW,
        "a-see": Role.REVIEW,
    }
    said = [
        (one.who, one.what, one.detail) for one in audit.latest(bench.console.database, 10) if "log" not in one.what
    ]
    assert said == [
        ("a-admin", "account removed", "a-engineer"),
        ("a-admin", "role changed", "a-see, role review"),
    ]
    assert ("log-ins ended", "a-review") in {(one.what, one.detail) for one in audit.latest(bench.console.database, 10)}
    assert "account removed" in admin.get("/audit").text


def test_nobody_logs_in_with_a_disabled_account_until_it_is_enabled(bench, admin):
    person = bench.browser(Role.REVIEW)
    act(admin, "disable", "a-review")
    assert person.get("/line").status_code == 303
    answer = bench.browser().log_in("a-review")
    assert answer.status_code == 403
    assert "This account is disabled. Ask an administrator." in answer.text
    assert "This account" not in bench.browser().log_in("a-review", "wrong password").text
    assert "disabled" in admin.get("/accounts").text
    act(admin, "enable", "a-review")
    assert bench.browser().log_in("a-review").status_code == 303


def test_an_administrator_sets_a_password_anew(bench, admin):
    password = given(act(admin, "password", "a-review"))
    assert bench.browser().log_in("a-review", PASSWORD).status_code == 403
    assert bench.browser().log_in("a-review", password).status_code == 303
    assert bench.console.accounts.find("a-review").must_change


@pytest.mark.parametrize("change", [("remove", {"sure": "yes"}), ("disable", {}), ("role", {"role": "engineer"})])
def test_the_last_administrator_stays(bench, admin, change):
    do, form = change
    bench.console.accounts.add("second", Role.ADMIN, PASSWORD, "test")
    assert act(admin, "disable", "second").status_code == 200
    answer = act(admin, do, "a-admin", **form)
    assert answer.status_code == 409
    assert "&#39;a-admin&#39; is the last administrator; make another one first" in answer.text
    assert admin.get("/accounts").status_code == 200
    assert bench.console.accounts.find("a-admin").role is Role.ADMIN
    act(admin, "enable", "second")
    assert act(admin, do, "a-admin", **form).status_code == 200
    assert admin.get("/accounts").status_code == 303


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"do": "add", "name": "a-see", "role": "see"}, "there is an account &#39;a-see&#39; already"),
        ({"do": "add", "name": "<b>", "role": "see"}, "&#39;&lt;b&gt;&#39; is no name of an account"),
        ({"do": "role", "name": "nobody", "role": "see"}, "there is no account &#39;nobody&#39;"),
        ({"do": "end", "name": "nobody"}, "there is no account &#39;nobody&#39;"),
        ({"do": "remove", "name": "nobody", "sure": "yes"}, "there is no account &#39;nobody&#39;"),
    ],
)
def test_a_change_that_cannot_be_is_explained(admin, form, text):
    answer = admin.post("/accounts", form)
    assert answer.status_code == 409
    assert f"Nothing was changed: {text}" in answer.text


@pytest.mark.parametrize(
    "form",
    [
        {"do": "add", "name": "x", "role": "boss"},
        {"do": "burn", "name": "a-see"},
        {},
        {"do": "remove", "name": "a-see"},
    ],
)
def test_a_form_that_no_page_sends_is_refused(bench, admin, form):
    assert admin.post("/accounts", form).status_code == 400
    assert bench.console.accounts.find("a-see") is not None


def test_the_page_comes_in_each_language_with_what_can_be_done_with_an_account(admin):
    page = admin.get("/accounts?name=a-see&lang=de").text
    for text in ("Sperren", "Neues Anfangspasswort", "Ich will a-see entfernen.", 'id="chosen"'):
        assert text in page
    assert 'id="chosen"' not in admin.get("/accounts?name=nobody").text


def test_a_file_of_an_earlier_build_is_brought_up_to_date(tmp_path):
    path = tmp_path / "console.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(database._VERSIONS[0] + "; PRAGMA user_version=1;")
        file.execute("INSERT INTO accounts VALUES ('anna', 'admin', 'a hash', 1)")
        file.execute("INSERT INTO sessions VALUES ('a digest', 'anna', 'x', 1, 1)")
        file.commit()
    for _ in range(2):
        with closing(ConsoleDatabase(path, lambda: 2)) as opened:
            assert opened.read("SELECT * FROM accounts")[0][:6] == ("anna", "admin", "a hash", 1, 0, 0)
            assert opened.read("SELECT count(*) FROM sessions") == [(1,)]


def test_an_error_of_a_change_is_one_of_the_set_up(bench):
    with pytest.raises(ChangeRefused, match="there is no account 'nobody'"):
        bench.console.accounts.end_log_ins("nobody", "test")


def test_passwords_that_are_made_up_differ():
    assert len({made_up() for _ in range(100)}) == 100


def test_a_person_who_searches_without_end_is_refused_and_others_are_not(bench):
    person, other = bench.browser(Role.REVIEW), bench.browser(Role.ADMIN)
    answers = [person.get("/search").status_code for _ in range(31)]
    assert answers == [200] * 30 + [429]
    assert "Too much at once." in person.get("/review").text
    assert person.get("/line").status_code == 200
    assert other.get("/search").status_code == 200
    bench.pass_time(1)
    assert [person.get("/search").status_code for _ in range(2)] == [200, 429]


def test_forms_without_end_are_refused_and_cost_no_search(bench):
    person = bench.browser(Role.REVIEW)
    forms = [{"job": "job-1", "judgement": said} for said in ("good", "unsure")] * 61
    answers = [person.post("/review", form).status_code for form in forms[:121]]
    assert answers == [303] * 120 + [429]
    assert len(bench.published) == 120
    assert person.get("/search").status_code == 200
    assert person.post("/logout").status_code == 303


def test_a_bucket_fills_up_to_half_of_a_minute_and_no_further():
    now = [0.0]
    rates = Rates(60, 240, lambda: now[0])
    assert sum(rates.admit("anna", "GET", True) for _ in range(100)) == 30
    now[0] += 10
    assert sum(rates.admit("anna", "GET", True) for _ in range(100)) == 10
    now[0] += 3_600
    assert sum(rates.admit("anna", "GET", True) for _ in range(100)) == 30
    assert all(rates.admit("anna", "GET", False) for _ in range(100))
