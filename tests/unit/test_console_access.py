"""Who may see what in the console: roles, log-ins, forms, headers."""

import re
import stat
from dataclasses import replace

import pytest

from patchline.console import audit, routes
from patchline.console.database import ConsoleDatabase
from patchline.console.roles import Role
from patchline.console.routes import ROUTES
from patchline.console.visit import Redirect, Refused, Visit
from patchline.protocol.errors import MismatchError, SetupError
from tests.archive_contract import record
from tests.console_bench import PNG, Bench, with_role

ALL = {None, *Role}
WHO_MAY = {
    ("GET", "/healthz"): ALL,
    ("GET", "/static/{name}"): ALL,
    ("GET", "/login"): ALL,
    ("POST", "/login"): ALL,
    ("GET", "/oidc"): ALL,
    ("GET", "/oidc/back"): ALL,
    ("GET", "/oidc/logout"): ALL,
    ("POST", "/logout"): set(Role),
    ("GET", "/password"): set(Role),
    ("POST", "/password"): set(Role),
    ("GET", "/"): set(Role),
    ("GET", "/line"): set(Role),
    ("GET", "/line/events"): set(Role),
    ("GET", "/line/send"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/line/send"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/search"): set(Role),
    ("GET", "/report"): set(Role),
    ("GET", "/report.html"): set(Role),
    ("GET", "/report.pdf"): set(Role),
    ("GET", "/part/{name}"): set(Role),
    ("GET", "/picture/{job}/{kind}"): set(Role),
    ("GET", "/outlines/{job}"): set(Role),
    ("GET", "/look/{job}"): set(Role),
    ("POST", "/look/{job}"): set(Role),
    ("GET", "/look/{job}/{kind}"): set(Role),
    ("GET", "/review"): set(Role) - {Role.SEE},
    ("POST", "/review"): set(Role) - {Role.SEE},
    ("GET", "/plant"): set(Role),
    ("GET", "/banks"): set(Role),
    ("GET", "/banks/{category}"): set(Role),
    ("GET", "/banks/{category}/report"): set(Role),
    ("GET", "/banks/{category}/act"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/banks/{category}/act"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/category"): set(Role),
    ("GET", "/category/{category}"): set(Role),
    ("POST", "/category/{category}/thresholds"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/category/{category}/activate"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/category/{category}/rollback"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/accounts"): {Role.ADMIN},
    ("POST", "/accounts"): {Role.ADMIN},
    ("GET", "/audit"): {Role.ADMIN},
    ("GET", "/teach"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/teach/{lesson}"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach/{lesson}"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach/{lesson}/archive"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach/{lesson}/fit"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/teach/{lesson}/run"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach/{lesson}/cancel"): {Role.ENGINEER, Role.ADMIN},
    ("POST", "/teach/{lesson}/delete"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/teach/{lesson}/small/{kind}/{name}"): {Role.ENGINEER, Role.ADMIN},
    ("GET", "/teach/{lesson}/tile/{name}"): {Role.ENGINEER, Role.ADMIN},
}
NAMES = {"{name}": "part-of-job-1", "{job}": "job-1", "{kind}": "image", "{category}": "brick", "{lesson}": "none"}
PROTECTED = [route for route in ROUTES if route.role is not None]
REFUSALS = [(route, role) for route in PROTECTED for role in Role if not role.may(route.role)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("console"))
    bench.archive.save([record()], [])
    bench.keep_picture("job-1")
    yield bench
    bench.close()


@pytest.fixture
def own(tmp_path):
    """A bench that a test may change."""
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def path_of(route):
    path = route.path
    for name, value in NAMES.items():
        path = path.replace(name, value)
    return re.sub(r"{[^}]*}", "x", path)


def test_who_may_see_each_page_is_written_down_here():
    assert {(route.method, route.path) for route in ROUTES} == WHO_MAY.keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_role_sees_its_pages_and_no_others(bench, route):
    session = bench.browser(Role.SEE).session
    reached = replace(route, page=lambda *_: Redirect("/there"))
    for role in ALL:
        person = None if role is None else with_role(session, role)
        visit = Visit(path_of(route), form={"csrf": (session.csrf,)}, session=person)
        if role in WHO_MAY[route.method, route.path]:
            assert routes.answer(bench.console, reached, visit) == Redirect("/there")
            continue
        with pytest.raises(Refused) as refused:
            routes.answer(bench.console, reached, visit)
        assert refused.value.status == (401 if role is None else 403)


@pytest.mark.parametrize("route", PROTECTED, ids=lambda route: f"{route.method} {route.path}")
def test_without_a_log_in_no_page_is_shown_over_http(bench, route):
    visitor = bench.browser()
    answer = visitor.client.request(route.method, path_of(route))
    assert answer.status_code == 303
    back, _, lost = answer.headers["location"].removeprefix("/login?to=").partition("&")
    assert lost == ("lost=1" if route.method == "POST" and route.path != "/logout" else "")
    pages = {path_of(one) for one in ROUTES if one.method == "GET"}
    assert back in pages, "there is a page to come back to"
    assert back == path_of(route) or path_of(route) not in pages
    assert b"job-1" not in answer.content
    visitor.client.cookies.set("patchline_session", "made up")
    assert visitor.client.request(route.method, path_of(route)).status_code == 303


@pytest.mark.parametrize(("route", "role"), REFUSALS, ids=lambda one: getattr(one, "path", one))
def test_a_role_that_does_not_suffice_is_refused_over_http(bench, route, role):
    form = {
        "csrf": bench.browser(Role.ADMIN).csrf,
        "job": "job-1",
        "judgement": "good",
        "do": "remove",
        "name": "a-see",
    }
    person = bench.browser(role)
    for given in (form | {"csrf": person.csrf}, form):
        answer = person.client.request(route.method, path_of(route), data=given if route.method == "POST" else None)
        assert answer.status_code == 403
        assert "Your account may not do this." in answer.text
    assert bench.published == []
    assert bench.console.accounts.find("a-see") is not None


def test_a_person_sees_no_link_to_a_page_of_another_role(bench):
    watcher = bench.browser(Role.SEE)
    page = watcher.get("/part/part-of-job-1").text
    assert 'href="/review"' not in page
    assert 'name="judgement"' not in page
    assert 'href="/accounts"' not in bench.browser(Role.ENGINEER).get("/line").text
    assert 'href="/accounts"' in bench.browser(Role.ADMIN).get("/line").text


def test_a_picture_is_shown_to_people_who_have_logged_in_and_kept_by_no_browser(bench):
    assert bench.browser().get("/picture/job-1/image").status_code == 303
    answer = bench.browser(Role.SEE).get("/picture/job-1/image")
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    assert answer.headers["cache-control"] == "no-store"
    assert bench.browser(Role.SEE).get("/picture/job-1/heat_map").status_code == 404
    assert bench.browser(Role.SEE).get("/picture/job-2/image").status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path", ["/line", "/search", "/healthz", "/static/console.css", "/picture/job-1/image", "/nothing", "/review"]
)
def test_every_response_has_the_headers_that_keep_a_browser_to_these_pages(bench, method, path):
    headers = bench.browser(Role.REVIEW).client.request(method, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"


def test_log_in_gives_a_cookie_that_no_script_reads_and_log_out_ends_it(own):
    browser = own.browser()
    answer = browser.log_in("a-see")
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("patchline_session"))
    assert answer.headers["location"] == "/"
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    page = browser.get("/line")
    assert page.status_code == 200
    browser.csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
    token = browser.client.cookies["patchline_session"]
    assert browser.post("/logout").status_code == 303
    browser.client.cookies.set("patchline_session", token)
    assert browser.get("/line").status_code == 303
    what = [(entry.who, entry.what) for entry in audit.latest(own.console.database, 10)]
    assert what == [("a-see", "logged out"), ("a-see", "logged in")]


def test_over_https_cookies_are_secure_and_the_browser_stays_with_it(tmp_path):
    bench = Bench(tmp_path, behind_https=True)
    answer = bench.browser().get("/login")
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    bench.close()


def test_a_log_in_ends_when_nobody_uses_it_and_after_some_hours_in_any_case(own):
    browser = own.browser(Role.SEE)
    for _ in range(3):
        own.pass_time(59 * 60)
        assert browser.get("/search").status_code == 200
    own.pass_time(60 * 60)
    assert browser.get("/search").status_code == 303
    browser = own.browser(Role.SEE)
    for _ in range(24):
        assert browser.get("/search").status_code == 200
        own.pass_time(30 * 60)
    assert browser.get("/search").status_code == 303


def test_a_changed_or_removed_account_must_log_in_again(own):
    accounts = own.console.accounts
    changes = {
        "a-see": lambda: accounts.set_role("a-see", Role.REVIEW, "test"),
        "a-review": lambda: accounts.set_password("a-review", "another password", "test"),
        "a-engineer": lambda: accounts.remove("a-engineer", "test"),
    }
    for name, change in changes.items():
        browser = own.browser(name.removeprefix("a-"))
        assert browser.get("/line").status_code == 200
        change()
        assert browser.get("/line").status_code == 303
    assert not accounts.check("a-review", "correct horse")
    assert accounts.check("a-review", "another password")
    assert [one.name for one in accounts.all()] == ["a-admin", "a-review", "a-see"]


@pytest.mark.parametrize("form", [{"csrf": ""}, {"csrf": "another"}, {"csrf": "é"}])
def test_a_change_without_the_token_of_the_log_in_is_refused(bench, form):
    reviewer = bench.browser(Role.REVIEW)
    answer = reviewer.post("/review", {"job": "job-1", "judgement": "good"} | form)
    assert answer.status_code == 403
    assert bench.published == []


def test_a_change_that_another_site_has_caused_is_refused(bench):
    reviewer = bench.browser(Role.REVIEW)
    form = {"job": "job-1", "judgement": "good"}
    assert reviewer.post("/review", form, {"sec-fetch-site": "cross-site"}).status_code == 403
    assert reviewer.post("/login", form, {"sec-fetch-site": "same-site"}).status_code == 403
    assert bench.published == []


def test_the_form_of_another_browser_logs_nobody_in(own):
    browser, other = own.browser(), own.browser()
    other.get("/login")
    token = browser.get("/login").text.split('name="csrf" value="')[1].split('"')[0]
    form = {"csrf": token, "name": "a-see", "password": "correct horse"}
    assert other.client.post("/login", data=form).status_code == 403
    assert browser.client.post("/login", data=form).status_code == 303


def test_a_log_in_leads_to_the_page_that_was_asked_for_and_never_to_another_site(own):
    for to, expected in (
        ("/search?line=l1", "/search?line=l1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
    ):
        browser = own.browser()
        token = browser.get("/login").text.split('name="csrf" value="')[1].split('"')[0]
        form = {"csrf": token, "name": "a-see", "password": "correct horse", "to": to}
        assert browser.client.post("/login", data=form).headers["location"] == expected


def test_a_person_changes_the_own_password_and_the_other_log_ins_of_the_account_end(own):
    browser, other = own.browser(Role.SEE), own.browser(Role.SEE)
    form = {"old": "correct horse", "new": "  a new password", "again": "  a new password"}
    answer = browser.post("/password", form)
    assert answer.headers["location"] == "/line"
    assert browser.get("/line").status_code == 200
    assert other.get("/line").status_code == 303
    assert own.console.accounts.check("a-see", "  a new password")
    latest = audit.latest(own.console.database, 2)[1]
    assert (latest.who, latest.what, latest.detail) == ("a-see", "password changed", "a-see")


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"old": "wrong password"}, 403, "The present password is wrong."),
        ({"again": "something else"}, 400, "The two new passwords differ."),
        ({"new": "short", "again": "short"}, 400, "A password has 10 to 200 characters."),
        ({"new": "correct horse", "again": "correct horse"}, 400, "The new password is the present one."),
    ],
)
def test_a_password_that_cannot_be_changed_stays(own, change, status, text):
    browser = own.browser(Role.SEE)
    form = {"old": "correct horse", "new": "a new password", "again": "a new password"} | change
    for _ in range(5):
        answer = browser.post("/password", form)
        assert (answer.status_code, text in answer.text) == (status, True)
    assert own.console.accounts.check("a-see", "correct horse")
    if status == 403:
        assert browser.post("/password", form).status_code == 429
    assert browser.get("/line").status_code == 200


def test_wrong_passwords_are_counted_and_the_sixth_attempt_is_not_even_looked_at(own):
    browser = own.browser()
    for _ in range(5):
        assert browser.log_in("a-see", "wrong password").status_code == 403
    assert browser.log_in("a-see").status_code == 429
    assert browser.log_in("a-review").status_code == 303, "another person at the same place"
    own.pass_time(15 * 60)
    assert own.browser().log_in("a-see").status_code == 303
    refused = [entry for entry in audit.latest(own.console.database, 20) if entry.what == "log-in refused"]
    assert [(entry.who, entry.detail) for entry in refused] == [("a-see", "from testclient")] * 5


def test_an_address_that_tries_many_names_is_refused_and_others_are_not(own):
    admit = own.console.limit.admit
    assert all(admit(f"name-{number}", "10.0.0.1") for number in range(30))
    assert not admit("anna", "10.0.0.1")
    assert admit("anna", "10.0.0.2")
    assert sum(admit("anna", f"10.0.1.{number}") for number in range(200)) == 99


def test_people_who_log_in_rightly_use_up_no_attempts_of_their_address(own):
    limit = own.console.limit
    for number in range(100):
        assert limit.admit(f"name-{number}", "10.0.0.1")
        limit.forget(f"name-{number}", "10.0.0.1")
    for _ in range(4):
        assert limit.admit("anna", "10.0.0.1")
    limit.forget("anna", "10.0.0.1")
    assert sum(limit.admit(f"other-{number}", "10.0.0.1") for number in range(40)) == 30


def test_an_account_that_does_not_exist_is_refused_in_the_same_words(own):
    browser = own.browser()
    texts = {browser.log_in(name, "wrong password").text.count("Name or password is wrong.") for name in ("a-see", "x")}
    assert texts == {1}


def test_a_form_that_is_too_large_is_refused(bench):
    answer = bench.browser(Role.REVIEW).post("/review", {"note": "x" * 70_000})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [
        ("anna", "short", "10 to 200"),
        ("anna", "x" * 201, "10 to 200"),
        ("", "correct horse", "no name of an account"),
        ("an na", "correct horse", "no name of an account"),
        ("a-see", "correct horse", "already"),
    ],
)
def test_an_account_that_cannot_be_is_refused(bench, name, password, reason):
    with pytest.raises(SetupError, match=reason):
        bench.console.accounts.add(name, Role.SEE, password, "test")


def test_changes_of_unknown_accounts_are_refused(bench):
    accounts = bench.console.accounts
    for change in (accounts.remove, lambda name, by: accounts.set_role(name, Role.SEE, by)):
        with pytest.raises(SetupError, match="no account 'nobody'"):
            change("nobody", "test")


def test_the_file_is_its_owners_and_has_no_password_and_no_token(own, tmp_path):
    browser = own.browser(Role.SEE)
    own.console.accounts.add("anna", Role.SEE, "a secret of anna", "test")
    file = tmp_path / "console.sqlite"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"$argon2id$" in content
    for secret in ("a secret of anna", "correct horse", browser.session.token):
        assert secret.encode() not in content


def test_a_file_of_a_later_build_is_refused(own, tmp_path):
    with own.console.database.transaction() as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(MismatchError, match="later build"):
        ConsoleDatabase(tmp_path / "console.sqlite", lambda: 0)


def change_and_fail(database):
    with database.transaction() as connection:
        connection.execute("DELETE FROM accounts")
        connection.execute("DELETE FROM missing")


def test_what_fails_within_a_change_changes_nothing(own):
    before = own.console.accounts.all()
    with pytest.raises(SetupError, match="no such table"):
        change_and_fail(own.console.database)
    assert own.console.accounts.all() == before


def test_behind_a_prefix_all_paths_have_it_and_others_are_no_pages(tmp_path):
    bench = Bench(tmp_path, prefix="/press/console")
    browser = bench.browser()
    assert browser.get("/login").status_code == 404
    assert browser.get("/press/consoleline").status_code == 404
    assert browser.get("/press/console/line").headers["location"] == "/press/console/login?to=/line"
    answer = browser.log_in("a-admin", path="/press/console/login")
    assert answer.headers["location"] == "/press/console/"
    assert all("Path=/press/console" in cookie for cookie in answer.headers.get_list("set-cookie"))
    browser.client.cookies = {"patchline_session": bench.browser(Role.ADMIN).session.token}
    for path in ("/line", "/search", "/audit", "/review", "/banks", "/plant"):
        page = browser.get(f"/press/console{path}")
        assert page.status_code == 200
        paths = [part.split('"')[0] for name in ("href", "src", "action") for part in page.text.split(f'{name}="')[1:]]
        assert [one for one in paths if not one.startswith(("/press/console/", "?", "#"))] == []
    bench.close()
