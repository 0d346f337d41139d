"""Log-ins with a plant's accounts, against a provider that is a process of its own."""

import re
import subprocess
import sys
import time
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from patchline import config
from patchline.console import audit
from patchline.console.oidc import OpenIdProvider
from patchline.console.provider import ProviderAway
from patchline.console.roles import Role
from patchline.services import server
from tests.console_bench import Bench
from tests.oidc_provider import CLIENT, SECRET

CONSOLE = "http://localhost/plant"
ROLES = {"quality": "review", "line-managers": "engineer"}
pytestmark = pytest.mark.timeout(120)


class Running:
    """The provider's process."""

    def __init__(self):
        (self.port,) = server.free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        words = [sys.executable, "-m", "tests.oidc_provider", str(self.port), CONSOLE]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not server.responds(f"{self.url}/keys"):
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def change(self, **wanted):
        httpx.post(f"{self.url}/test", json=wanted).raise_for_status()


@pytest.fixture(scope="module")
def running():
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def provider(running):
    """The provider as it is at first."""
    running.change(
        skew_s=0,
        claims={},
        in_token=True,
        people={"mei": {"preferred_username": "mei", "groups": ["quality", "everybody"]}},
    )
    return running


@pytest.fixture
def bench(provider, tmp_path):
    bench = make_bench(provider, tmp_path)
    yield bench
    bench.close()


def make_bench(provider, folder, **changes):
    (folder / "secret").write_text(SECRET + "\n")
    given = {"issuer": provider.url, "client_id": CLIENT, "client_secret_file": folder / "secret", "roles": ROLES}
    oidc = config.Oidc(console_url=CONSOLE, **(given | changes))
    return Bench(folder, provider=OpenIdProvider(oidc), prefix="/plant")


def log_in(browser, who="mei", to="/search", **back):
    """Log in as a browser does: to the provider, its form, and back. Return the console's answer."""
    answer = browser.get(f"/plant/oidc?to={to}")
    assert answer.status_code == 303, answer.text
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert min(len(asked[name][0]) for name in ("state", "nonce", "code_challenge")) >= 43
    given = httpx.post(answer.headers["location"], data={"who": who})
    assert given.status_code == 302, given.text
    return come_back(browser, given.headers["location"], **back)


def come_back(browser, location, **changes):
    sent = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()} | changes
    return browser.client.get("/plant/oidc/back", params=sent)


def refused(bench, who, reason):
    """Assert that the log-in is refused, with the reason on the page and in the audit log."""
    answer = log_in(bench.browser(), who)
    assert answer.status_code == 403
    assert "The log-in was refused: " in answer.text
    assert reason in answer.text
    entry = audit.latest(bench.console.database, 1)[0]
    assert (entry.who, entry.what) == ("log-in service", "log-in refused")
    assert "patchline_session" not in answer.cookies


def test_a_person_of_the_plant_logs_in_with_the_role_of_a_group_and_out(bench):
    browser = bench.browser()
    assert 'href="/plant/oidc?to=/"' in browser.get("/plant/login").text
    answer = log_in(browser)
    assert (answer.status_code, answer.headers.get("location")) == (303, "/plant/search"), answer.text
    assert "mei (reviews)" in browser.get("/plant/search").text
    account = bench.console.accounts.find("mei")
    assert (account.role, account.of_provider) == (Role.REVIEW, True)
    said = [(one.who, one.what, one.detail) for one in audit.latest(bench.console.database, 2)]
    assert said == [("mei", "logged in", ""), ("log-in service", "account added", "mei, role review")]
    browser.csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/plant/line").text)[1]
    page = browser.get(browser.post("/plant/logout").headers["location"]).text
    assert browser.get("/plant/search").headers["location"].startswith("/plant/login")
    assert 'href="/plant/oidc/logout"' in page
    gone = browser.get("/plant/oidc/logout").headers["location"]
    assert httpx.get(gone).text == f"logged out; back to {CONSOLE}/login"


def test_a_person_keeps_the_account_when_the_name_changes_and_gets_the_role_of_today(bench, provider):
    first = bench.browser()
    log_in(first)
    provider.change(people={"mei": {"preferred_username": "mei.li", "groups": ["quality", "line-managers"]}})
    second = bench.browser()
    log_in(second)
    assert bench.console.accounts.find("mei").role is Role.ENGINEER
    assert bench.console.accounts.find("mei.li") is None
    assert first.get("/plant/line").status_code == 303, "the log-in with the earlier role has ended"
    assert second.get("/plant/line").status_code == 200


def test_people_without_a_group_are_refused_or_get_the_default_role(bench, provider, tmp_path):
    refused(bench, "otto", "otto has no group that may use the console")
    (tmp_path / "other").mkdir()
    open_to_all = make_bench(provider, tmp_path / "other", default_role="see")
    assert log_in(open_to_all.browser(), "otto").status_code == 303
    assert open_to_all.console.accounts.find("otto").role is Role.SEE
    open_to_all.close()


def test_what_the_token_does_not_say_is_asked_for(bench, provider):
    provider.change(in_token=False)
    assert log_in(bench.browser()).status_code == 303
    assert bench.console.accounts.find("mei").role is Role.REVIEW


def test_nobody_takes_over_an_account_with_a_password_or_a_disabled_one(bench, provider):
    bench.console.accounts.add("mei", Role.ADMIN, "correct horse", "test")
    refused(bench, "mei", "there is an account &#39;mei&#39; already")
    bench.console.accounts.remove("mei", "test")
    assert log_in(bench.browser()).status_code == 303
    bench.console.accounts.disable("mei", "test")
    refused(bench, "mei", "the account &#39;mei&#39; is disabled")
    counted = bench.console.metrics.registry.get_sample_value
    counts = {
        one: counted("patchline_console_logins_refused_total", {"reason": one}) for one in ("provider", "disabled")
    }
    assert counts == {"provider": 1.0, "disabled": 1.0}


def test_an_account_of_the_provider_has_no_password_here(bench):
    browser = bench.browser()
    log_in(browser)
    assert browser.get("/plant/password").status_code == 409
    for password in ("!", "", "nobody has this password"):
        assert not bench.console.accounts.check("mei", password)
    admin = bench.browser(Role.ADMIN)
    for form in ({"do": "password"}, {"do": "role", "role": "admin"}):
        answer = admin.post("/plant/accounts", {"name": "mei"} | form)
        assert answer.status_code == 409
        assert "the log-in service keeps the role and password of &#39;mei&#39;" in answer.text
    assert "First password" not in admin.get("/plant/accounts?name=mei").text


@pytest.mark.parametrize("change", [{"state": "another"}, {"code": "another"}, {"error": "access_denied"}])
def test_an_answer_that_was_changed_on_its_way_lets_nobody_in(bench, change):
    answer = log_in(bench.browser(), **change)
    assert answer.status_code == 403
    assert "The log-in was refused: " in answer.text


def test_an_answer_counts_once_in_the_browser_that_asked_and_for_ten_minutes(bench):
    browser, other = bench.browser(), bench.browser()
    answer = browser.get("/plant/oidc")
    location = httpx.post(answer.headers["location"], data={"who": "mei"}).headers["location"]
    assert come_back(other, location).status_code == 403
    assert come_back(browser, location).status_code == 303
    assert come_back(browser, location).status_code == 403
    answer = browser.get("/plant/oidc")
    location = httpx.post(answer.headers["location"], data={"who": "mei"}).headers["location"]
    bench.pass_time(601)
    assert come_back(browser, location).status_code == 403


@pytest.mark.parametrize(
    "claims", [{"nonce": "another"}, {"iss": "https://another"}, {"aud": ["another"]}, {"azp": "x"}]
)
def test_a_token_that_is_not_of_this_log_in_lets_nobody_in(bench, provider, claims):
    provider.change(claims=claims)
    refused(bench, "mei", "the ID token does not hold")


def test_clocks_may_differ_by_two_minutes(bench, provider):
    for skew_s in (-600 - 60, 60):
        provider.change(skew_s=skew_s)
        assert log_in(bench.browser()).status_code == 303, skew_s
    for skew_s in (-600 - 200, 200):
        provider.change(skew_s=skew_s)
        refused(bench, "mei", "the ID token does not hold")


def test_keys_of_the_provider_may_change_and_those_of_others_do_not_count(bench, provider):
    assert log_in(bench.browser()).status_code == 303
    provider.change(rotate=True)
    assert log_in(bench.browser()).status_code == 303


def test_a_secret_that_is_wrong_is_said(provider, tmp_path):
    bench = make_bench(provider, tmp_path)
    (tmp_path / "secret").write_text("another\n")
    bench.close()
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "wrong").write_text("another\n")
    bench = make_bench(provider, tmp_path / "again", client_secret_file=tmp_path / "again" / "wrong")
    refused(bench, "mei", "the provider refuses the code")
    bench.close()


def test_while_the_provider_is_away_the_page_says_so_and_passwords_work(tmp_path):
    running = Running()
    bench = make_bench(running, tmp_path)
    browser = bench.browser()
    log_in(browser)
    running.stop()
    answer = bench.browser().get("/plant/oidc")
    assert answer.status_code == 303, "its description is known; the browser says that it is away"
    location = answer.headers["location"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(location)
    later = make_bench_again(running, tmp_path)
    answer = later.browser().get("/plant/oidc")
    assert answer.status_code == 503
    assert "The log-in service of the plant does not answer. Accounts with a password" in answer.text
    assert later.browser().log_in("a-see", path="/plant/login").status_code == 303
    assert browser.get("/plant/line").status_code == 200, "log-ins go on"
    running.start()
    assert log_in(later.browser()).status_code == 303
    running.stop()
    for one in (bench, later):
        one.close()


def make_bench_again(provider, folder):
    (folder / "later").mkdir()
    return make_bench(provider, folder / "later")


def test_a_provider_that_calls_itself_otherwise_is_none(provider):
    other = config.Oidc(issuer=provider.url.replace("127.0.0.1", "localhost"), client_id=CLIENT, console_url=CONSOLE)
    with pytest.raises(ProviderAway, match=r"calls itself .*; see console\.oidc\.issuer"):
        OpenIdProvider(other).begin()


def test_without_a_provider_there_are_no_such_pages(tmp_path):
    bench = Bench(tmp_path)
    for path in ("/oidc", "/oidc/back", "/oidc/logout"):
        assert bench.browser().get(path).status_code == 404
    assert "/oidc" not in bench.browser().get("/login").text
    bench.close()


@pytest.mark.parametrize("url", ["http://sso.plant", "https://a:b@sso.plant", "https://sso.plant/?x", "sso.plant"])
def test_a_url_over_which_tokens_could_be_read_is_refused(url):
    with pytest.raises(ValueError, match="must be https://HOST"):
        config.Oidc(issuer=url, client_id=CLIENT, console_url=CONSOLE)
