"""The pages of memory banks: versions, what workers answer, acts that are confirmed, and the report of a shadow."""

import re
import shutil
from pathlib import Path

import pytest

from patchline.banks import reports, store
from patchline.banks.reports import Report
from patchline.broker.base import Message
from patchline.console import audit, shadow_page
from patchline.console.roles import Role
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.messages import Thresholds
from patchline.protocol.status_message import STATUS_TYPE, Status
from tests.archive_contract import record
from tests.console_bench import Bench
from tests.ledger_contract import entry, shadow

BENCH = Bench

BANK = Path("tests/data/build_5fd44a6/brick")
PAGE, ACT = "/banks/brick", "/banks/brick/act"
HX = {"hx-request": "true"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three banks of one index with other thresholds."""
    return [make_bank(tmp_path_factory.mktemp("banks") / "bank", fail) for fail in (1000.0, 1100.0, 1200.0)]


def make_bank(folder, fail):
    shutil.copytree(BANK, folder)
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    changed = manifest.model_copy(update={"thresholds": Thresholds(review=900.0, fail=fail)})
    store.replace_manifest(folder, changed)
    return folder


@pytest.fixture
def versions(bench, folders):
    """The digests of three versions. The first one is active."""
    digests = [bench.banks.publish(folder, "brick", "fit@host", f"week {n}")[0] for n, folder in enumerate(folders)]
    bench.banks.activate("brick", digests[0], "fit@host", "the first one")
    return digests


def hear(bench, name, version, **changes):
    """Have a worker say which version it serves."""
    banks = {"brick": version}
    values = {"role": "worker", "host": "h", "state": "serving", "since": bench.now, "sent_at": bench.now}
    status = Status(name=name, banks=banks, **values | changes)
    bench.console.states.hear(Message(status.to_json(), None, STATUS_TYPE))


def report(bench, worker, version, state, reason=""):
    said = Report(worker=worker, version=version, state=state, reason=reason, when=bench.now)
    bench.banks.report("brick", reports.name_of(said), said.to_json())


def words_of(page):
    """The text of a page without its markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def ask(browser, act, version=""):
    """Open the page that confirms an act, and return its form."""
    page = browser.get(f"{ACT}?act={act}&version={version}")
    assert page.status_code == 200, words_of(page.text)
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))


def confirm(browser, form, **fields):
    return browser.post(ACT, form | {"why": "a test"} | fields)


def test_the_pages_show_versions_with_their_figures_and_what_each_worker_serves(bench, versions):
    hear(bench, "h:cpu:0:11", versions[0])
    hear(bench, "h:cpu:1:12", versions[1])
    watcher = bench.browser(Role.SEE)
    row = words_of(watcher.get("/banks").text)
    assert f"brick {versions[0][:12]} 1 of 2" in row
    page = watcher.get(PAGE).text
    text = words_of(page)
    for shown in (
        *(version[:12] for version in versions),
        "fit@host: week 2",
        "fails from 1100",
        "doubtful from 900",
        "fit@host activated",
        f"h:cpu:0:11 {versions[0][:12]} serves it",
        f"h:cpu:1:12 {versions[1][:12]} has not answered yet",
    ):
        assert shown in text, shown
    bank = bench.banks.manifest("brick", versions[0])
    assert f"{bank.patches} rows" in text
    assert f"{bank.good_images} images" in text
    assert f"{bank.calibration.images} held out" in text
    assert "/act" not in page, "who may not act sees no button"
    assert page.count("/act?act=activate&amp;version=") == 0
    engineer = bench.browser(Role.ENGINEER).get(PAGE).text
    assert engineer.count("/act?act=activate") == 2
    assert "act=rollback" not in engineer, "nothing was active before"


def test_an_engineer_activates_and_rolls_back_and_sees_what_each_worker_answers(bench, versions):
    first, second, _ = versions
    for name in ("h:cpu:0:11", "h:cpu:1:12", "h:cpu:2:13"):
        hear(bench, name, first)
    browser = bench.browser(Role.ENGINEER)
    form = ask(browser, "activate", second)
    assert bench.banks.state("brick").active == first, "nothing is done before it is confirmed"
    answer = confirm(browser, form, why="2 of 400 good parts rejected")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?done=activate")
    assert bench.announced == [("brick", second)]
    page = browser.get(answer.headers["location"]).text
    assert "The version is active." in page
    assert page.count("has not answered yet") == 3
    have = re.search(r'hx-get="(/banks/brick\?have=\w+)" hx-trigger="every 2s"', page)[1]
    assert browser.get(have, **HX).status_code == 204
    hear(bench, "h:cpu:0:11", second)
    report(bench, "h:cpu:0:11", second, "serving")
    report(bench, "h:cpu:1:12", second, "refused", "golden images have other scores")
    bench.pass_time(4)
    hear(bench, "h:cpu:0:11", second)
    hear(bench, "h:cpu:1:12", first)
    fragment = browser.get(have, **HX).text
    assert "<html" not in fragment
    text = words_of(fragment)
    assert f"h:cpu:0:11 {second[:12]} serves it" in text
    assert f"h:cpu:1:12 {first[:12]} keeps its previous version : golden images have other scores" in text
    assert f"h:cpu:2:13 {first[:12]} says nothing" in text
    assert 'hx-trigger="every 10s"' in fragment
    answer = confirm(browser, ask(browser, "rollback"))
    assert answer.headers["location"] == f"{PAGE}?done=rollback"
    assert bench.banks.state("brick").active == first
    assert "keeps its previous version" not in browser.get(PAGE).text, "that was the answer to another act"
    entries = audit.latest(bench.console.database, 2)
    assert [(one.who, one.what) for one in entries] == [
        ("a-engineer", "bank rolled back"),
        ("a-engineer", "bank activated"),
    ]
    assert entries[1].detail == f"brick: {second[:12]} (2 of 400 good parts rejected)"
    records = bench.banks.state("brick").records[-2:]
    assert [(one.act, one.who) for one in records] == [("activate", "a-engineer"), ("rollback", "a-engineer")]


def test_a_shadow_begins_with_its_share_and_ends_and_a_version_is_retired(bench, versions):
    hear(bench, "h:cpu:0:11", versions[0])
    browser = bench.browser(Role.ENGINEER)
    form = ask(browser, "shadow", versions[1])
    for percent in ("0", "101", "-1", "nan", "x", ""):
        refused = confirm(browser, form, percent=percent)
        assert (refused.status_code, "above 0 % and at most 100 %" in refused.text) == (400, True), percent
    assert confirm(browser, form, percent="25").headers["location"] == f"{PAGE}?done=shadow"
    state = bench.banks.state("brick").shadow
    assert (state.version, state.share) == (versions[1], 0.25)
    report(bench, "h:cpu:0:11", versions[1], "shadow refused", "resize was 160 and is 128")
    text = words_of(browser.get(PAGE).text)
    assert "shadow, 25 %" in text
    assert "cannot load the shadow : resize was 160 and is 128" in text
    assert "h:cpu:0:11" in text
    refused = confirm(browser, ask(browser, "retire", versions[1]))
    assert (refused.status_code, "is the shadow; end it first" in refused.text) == (409, True)
    assert confirm(browser, ask(browser, "end-shadow")).headers["location"] == f"{PAGE}?done=end-shadow"
    assert confirm(browser, ask(browser, "retire", versions[1])).status_code == 303
    assert bench.banks.state("brick").retired == {versions[1]}
    assert "retired" in words_of(browser.get(PAGE).text)
    page = browser.get(f"{ACT}?act=end-shadow").text
    assert "There is nothing to do here any more." in page
    assert 'name="why"' not in page


@pytest.mark.parametrize("act", ["activate", "rollback", "shadow", "end-shadow", "retire"])
def test_of_two_engineers_the_second_one_is_told_what_the_first_has_done_and_overwrites_nothing(bench, versions, act):
    first, second, third = versions
    bench.banks.activate("brick", second, "fit@host", "another")
    bench.banks.shadow("brick", third, 0.5, "fit@host", "a shadow")
    one, other = bench.browser(Role.ENGINEER), bench.browser(Role.ADMIN)
    late = ask(other, act, first)
    assert confirm(one, ask(one, "shadow", first), percent="10", why="mould 2").status_code == 303
    before = bench.banks.state("brick")
    answer = confirm(other, late, percent="100")
    assert answer.status_code == 409
    text = words_of(answer.text)
    assert f"This was not done: brick: nothing was done; a-engineer has made a shadow of {first[:12]} (mould 2)" in text
    assert bench.banks.state("brick") == before
    assert [entry.who for entry in audit.latest(bench.console.database, 9) if entry.what != "logged in"] == [
        "a-engineer"
    ]


def test_without_a_reason_or_with_a_wrong_version_nothing_is_done(bench, versions):
    browser = bench.browser(Role.ENGINEER)
    before = bench.banks.state("brick")
    form = ask(browser, "activate", versions[1])
    refused = confirm(browser, form, why="  ")
    assert (refused.status_code, "Say why" in refused.text) == (400, True)
    assert 'name="why"' in refused.text, "the form is shown again"
    assert confirm(browser, form, act="delete").status_code == 400
    assert confirm(browser, form, version="f" * 64).status_code == 404
    assert browser.get(f"{ACT}?act=activate&version={'f' * 64}").status_code == 404
    assert browser.get(f"{ACT}?act=delete").status_code == 400
    active = confirm(browser, ask(browser, "activate", versions[0]))
    assert (active.status_code, "is active already" in active.text) == (409, True)
    assert bench.banks.state("brick") == before
    assert bench.announced == []


def test_who_is_no_engineer_changes_nothing(bench, versions):
    before = bench.banks.state("brick")
    seen = str(len(before.records))
    for role in (Role.SEE, Role.REVIEW):
        browser = bench.browser(role)
        form = {"act": "activate", "version": versions[1], "seen": seen}
        assert confirm(browser, form).status_code == 403
        assert browser.get(f"{ACT}?act=activate&version={versions[1]}").status_code == 403
    engineer = bench.browser(Role.ENGINEER)
    assert confirm(engineer, {"act": "activate", "version": versions[1], "seen": seen, "csrf": "x"}).status_code == 403
    assert confirm(engineer, {"act": "activate", "version": versions[1]}).status_code == 409, "a form without a look"
    assert bench.banks.state("brick") == before


def test_workers_that_were_not_told_look_by_themselves_and_the_page_says_so(bench, versions):
    browser = bench.browser(Role.ENGINEER)
    bench.broker_is_away = True
    answer = confirm(browser, ask(browser, "activate", versions[1]))
    assert answer.headers["location"] == f"{PAGE}?done=activate&untold=1"
    assert "No worker can be heard." in words_of(browser.get(answer.headers["location"]).text)
    hear(bench, "w1", versions[0])
    assert "they look at the store every 2 s" in words_of(browser.get(answer.headers["location"]).text)
    assert bench.banks.state("brick").active == versions[1]


def test_without_a_store_or_while_it_is_away_the_pages_say_what_to_do(bench, versions, tmp_path):
    watcher = bench.browser(Role.SEE)
    bench.bank_objects.available = False
    for path in ("/banks", PAGE, f"{PAGE}/report"):
        answer = watcher.get(path)
        assert answer.status_code == 503
        assert "The store of memory banks cannot be read: the store is not available" in answer.text
    bench.bank_objects.available = True
    for path in ("/banks/unknown", "/banks/%2e%2e", "/banks/a b", "/banks/brick.x"):
        assert watcher.get(path).status_code == 404, path
    assert "No version was published yet" in watcher.get("/banks/bottle").text
    other = Bench(tmp_path / "other", with_banks=False)
    page = other.browser(Role.SEE).get("/banks")
    assert page.status_code == 200
    assert "patchline banks init" in page.text
    assert other.browser(Role.SEE).get(PAGE).status_code == 404
    other.close()


def test_a_version_that_is_damaged_is_named_and_the_others_are_shown(bench, versions):
    key = f"brick/versions/{versions[1]}/{store.MANIFEST_FILE}"
    bench.bank_objects._objects[key] = b"{}"
    text = words_of(bench.browser(Role.SEE).get(PAGE).text)
    assert f"{key} is damaged" in text
    assert "fails from 1200" in text


def test_many_versions_are_shown_on_demand_and_those_in_use_always(bench, versions, tmp_path):
    for number in range(31):
        folder = make_bank(tmp_path / f"bank-{number}", 2000.0 + number)
        bench.banks.publish(folder, "brick", "fit@host", "one of many")
    browser = bench.browser(Role.SEE)
    page = browser.get(PAGE).text
    assert page.count("fit@host: one of many") == 30
    assert f'title="{versions[0]}"' in page
    assert f'title="{versions[1]}"' not in page
    assert browser.get(f"{PAGE}?all=1").text.count("fit@host: one of many") == 31


def test_the_report_of_a_shadow_names_the_parts_with_two_decisions_and_links_to_them(bench, versions, monkeypatch):
    browser = bench.browser(Role.SEE)
    assert "No version of this category was a shadow." in browser.get(f"{PAGE}/report").text
    assert "Report of the shadow" not in browser.get(PAGE).text
    bench.banks.shadow("brick", versions[1], 1.0, "fit@host", "a shadow")
    pairs = [("pass", "fail")] * 7 + [("fail", "pass")] + [("pass", "pass")] * 20 + [("fail", "fail")] * 3
    for number, (decision, other) in enumerate(pairs):
        said = {"bank_version": versions[0], "shadow_version": versions[1], "judged_at": bench.now - number}
        said |= {"decision": decision, "shadow_decision": other, "part_id": f"part-{number}"}
        bench.archive.save_ledger([entry(shadow(f"job-{number}", **said))], [])
    bench.archive.save([record("job-0")], [])
    bench.keep_picture("job-0")
    page = browser.get(f"{PAGE}/report").text
    assert re.search(r"the bank accepts\s*</th>\s*<td[^>]*>20</td><td[^>]*>7</td>", page)
    assert re.search(r"the bank rejects\s*</th>\s*<td[^>]*>1</td><td[^>]*>3</td>", page)
    assert "p = 0.0703" in page
    assert "These parts do not show that one of them rejects more." in page
    assert sorted(re.findall(r'href="/part/(part-\d)\?job=job-\d"', page)) == [f"part-{n}" for n in range(8)]
    assert re.findall(r'src="(/picture/[^"]+)"', page) == ["/picture/job-0/image"]
    assert "act=activate" not in page
    assert f"act=activate&amp;version={versions[1]}" in bench.browser(Role.ENGINEER).get(f"{PAGE}/report").text
    assert "The archive has no part of this time" in browser.get(f"{PAGE}/report?line=l9").text
    assert browser.get(f"{PAGE}/report?since=x").status_code == 400
    bench.pass_time(60)
    assert "The archive has no part of this time" in browser.get(f"{PAGE}/report?since=30s").text
    monkeypatch.setattr(shadow_page, "_MOST_COUNTED", 5)
    page = browser.get(f"{PAGE}/report").text
    assert "The latest 5 parts are compared, from" in page
    assert re.search(r"the bank accepts\s*</th>\s*<td[^>]*>0</td><td[^>]*>5</td>", page)


def test_a_page_that_asks_again_by_itself_does_not_keep_a_log_in_alive(bench, versions):
    browser = bench.browser(Role.SEE)
    for _ in range(3):
        bench.pass_time(25 * 60)
        answer = browser.get(PAGE, **HX)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == f"/login?to={PAGE}"
    browser = bench.browser(Role.SEE)
    for _ in range(3):
        bench.pass_time(25 * 60)
        assert browser.get(PAGE).status_code == 200


def test_a_trial_fails_from_no_score_on_any_page_of_banks(bench, versions, tmp_path):
    trial = make_bank(tmp_path / "trial", 1000.0)
    manifest = BankManifest.model_validate_json((trial / store.MANIFEST_FILE).read_bytes())
    limits = Thresholds(review=950.0, fail=1777.0, trial=True)
    store.replace_manifest(trial, manifest.model_copy(update={"thresholds": limits}))
    made = bench.banks.publish(trial, "brick", "fit@host", "a trial")[0]
    engineer = bench.browser(Role.ENGINEER)
    pages = [words_of(engineer.get(path).text) for path in (PAGE, f"{ACT}?act=activate&version={made}")]
    assert "doubtful from 950 a trial: never fails" in pages[0]
    assert "950 never (a trial)" in pages[1]
    assert not any("1777" in page for page in pages)
