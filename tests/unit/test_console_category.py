"""The page of a category: its scores, what other thresholds would have done, and thresholds that become a version."""

import html
import json
import re
import shutil
from contextlib import closing

import pytest

from patchline.archive.scores import ScoreSearch
from patchline.banks import store
from patchline.console import audit, category_banks, histogram
from patchline.console.category_page import percent
from patchline.console.roles import Role
from patchline.evaluation import intervals
from patchline.inspection.memory_bank import BankManifest
from patchline.operations.what_if import LABELS, Spread
from patchline.protocol.messages import Thresholds
from tests.archive_contract import NOW, record
from tests.console_bench import Bench
from tests.ledger_contract import entry, judgement
from tests.unit.test_console_bank_changes import BANK

LIMITS = {"review": 800.0, "fail": 1000.0}
NAME = "brick@" + BankManifest.model_validate_json((BANK / store.MANIFEST_FILE).read_bytes()).index_sha256[:12]
OLD = "brick@0123456789ab"


@pytest.fixture
def bench(tmp_path):
    with closing(Bench(tmp_path, categories=["brick"])) as bench:
        yield bench


def publish(bench, folder, limits, category="brick"):
    shutil.copytree(BANK, folder)
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    store.replace_manifest(folder, manifest.model_copy(update={"thresholds": Thresholds(**limits)}))
    return bench.banks.publish(folder, category, "fit", "first")[0]


@pytest.fixture
def version(bench, tmp_path):
    """A version that is active."""
    made = publish(bench, tmp_path / "bank", LIMITS)
    bench.banks.activate("brick", made, "bert", "first")
    return made


def judge_parts(bench, memory_bank=NAME, at=NOW):
    """40 passes, of which a good one and a defect are labelled; 4 reviews, all labelled; and 3 fails."""
    scores = [*((f"p{number}", "pass", 10.0 * number) for number in range(40))]
    scores += [*((f"r{number}", "review", 800.0 + 40 * number) for number in range(4))]
    scores += [*((f"f{number}", "fail", 1000.0 + 100 * number) for number in range(3))]
    rows = [
        record(job, decision=decision, score=score, thresholds=LIMITS, memory_bank=memory_bank, decided_at=at)
        for job, decision, score in scores
    ]
    bench.archive.save(rows, [])
    said = {"p0": "good", "p39": "defect", "r0": "good", "r1": "good", "r2": "unsure", "r3": "defect", "f0": "defect"}
    bench.archive.save_ledger([entry(judgement(job, label, at + 1_000)) for job, label in said.items()], [])


def figures(page):
    """The numbers of the table by row."""
    rows = re.findall(r'<tr data-row="(\w+)">(.*?)</tr>', page, re.DOTALL)
    return {name: [int(count) for count in re.findall(r"<td[^>]*>(\d+)</td>", row)] for name, row in rows}


def rate(page, name):
    return html.unescape(re.search(rf'id="{name}">([^<]*)<', page)[1])


def data(page):
    return json.loads(html.unescape(re.search(r'data-spread="([^"]*)"', page)[1]))


def test_the_page_shows_what_the_active_thresholds_did_last_week(bench, version):
    judge_parts(bench)
    page = bench.browser(Role.SEE).get("/category/brick").text
    assert figures(page) == {
        "passed": [1, 1, 0, 38, 40],
        "rejected": [2, 2, 1, 2, 7],
        "failed": [0, 1, 0, 2, 3],
        "released": [0, 0, 0, 0, 0],
        "caught": [0, 0, 0, 0, 0],
    }
    assert rate(page, "over-kill") == percent(intervals.share(2, 3))
    assert rate(page, "miss") == percent(intervals.share(1, 3))
    assert "2 of 40 parts that passed and 4 of 7 parts that were rejected are labelled." in page
    assert "over-kill is overstated" in page
    assert "judged by the rows of " + NAME in page


def test_other_thresholds_are_tried_by_numbers_and_the_script_has_the_same_figures(bench, version):
    judge_parts(bench)
    browser = bench.browser(Role.SEE)
    page = browser.get("/category/brick?review=841.5&fail=1101").text
    assert figures(page)["released"] == [2, 0, 0, 0, 2]
    assert figures(page)["failed"] == [0, 0, 0, 1, 1]
    assert rate(page, "over-kill") == percent(intervals.share(0, 3))
    lower = browser.get("/category/brick?review=385.0&fail=1000", **{"hx-request": "true"}).text
    assert figures(lower)["caught"] == [0, 1, 0, 0, 1]
    assert "<html" not in lower
    sent = data(page)
    at, fails = sent["edges"].index(841.5), sent["edges"].index(1101.0)
    assert {name: counts[at] for name, counts in sent["counts"].items()} | {"failed": sent["failed"][fails]} == figures(
        page
    )
    assert (sent["over_kill"][at], sent["miss"][at]) == (rate(page, "over-kill"), rate(page, "miss"))
    assert sent["edges"] == sorted(sent["edges"])
    assert sent["x"] == sorted(sent["x"])


def test_only_parts_of_the_chosen_rows_and_span_count(bench, version):
    judge_parts(bench, memory_bank=OLD)
    browser = bench.browser(Role.SEE)
    assert figures(browser.get("/category/brick").text)["passed"] == [0, 0, 0, 0, 0]
    page = browser.get(f"/category/brick?version={OLD}").text
    assert figures(page)["passed"] == [1, 1, 0, 38, 40]
    assert f'<option value="{OLD}" selected>' in page
    assert f'<option value="{version}">' in page
    bench.pass_time(8 * 86_400)
    browser = bench.browser(Role.SEE)
    assert figures(browser.get(f"/category/brick?version={OLD}").text)["passed"] == [0, 0, 0, 0, 0]
    assert figures(browser.get(f"/category/brick?version={OLD}&since=30d").text)["passed"] == [1, 1, 0, 38, 40]


def test_without_a_store_the_bank_of_the_latest_verdict_is_shown_and_cannot_be_changed(tmp_path):
    with closing(Bench(tmp_path, with_banks=False, categories=["brick"])) as bench:
        browser = bench.browser(Role.ENGINEER)
        assert "No memory bank has judged a part yet" in browser.get("/category/brick").text
        judge_parts(bench, memory_bank=OLD)
        page = browser.get("/category/brick").text
        assert figures(page)["rejected"] == [2, 2, 1, 2, 7]
        assert "is not in the store of memory banks" in page
        assert 'action="/category/brick/thresholds"' not in page
        answer = browser.post("/category/brick/thresholds", {"review": "1", "fail": "2", "version": "abcd", "why": "x"})
        assert answer.status_code == 404


def test_a_store_that_is_away_leaves_the_scores_and_says_so(bench, version):
    judge_parts(bench)
    bench.bank_objects.available = False
    page = bench.browser(Role.ENGINEER).get("/category/brick").text
    assert "The store of memory banks cannot be read now" in page
    assert figures(page)["passed"] == [1, 1, 0, 38, 40]
    assert "/category/brick/rollback" not in page


def test_the_list_has_each_category_with_its_rates(bench, version):
    judge_parts(bench)
    page = bench.browser(Role.SEE).get("/category").text
    row = re.search(r'<tr>\s*<th scope="row"><a class="button" href="/category/brick">.*?</tr>', page, re.DOTALL)[0]
    assert version[:12] in row
    assert re.findall(r'<td class="number">(\d+)</td>', row) == ["800", "1000", "47", "7"]
    assert percent(intervals.share(2, 3)) in html.unescape(row)
    assert page.count('<th scope="row">') == len(bench.console.settings.categories)
    assert "No memory bank has judged a part yet" in page


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/category/nothing", 404, "There is no such category"),
        ("/category/brick?version=ffff", 404, "This category has no such memory bank"),
        ("/category/brick?review=x", 400, "This is no score"),
        ("/category/brick?review=nan", 400, "This is no score"),
        ("/category/brick?fail=-3", 400, "This is no score"),
        ("/category/brick?review=1001", 400, "The threshold of doubt is above that of a fail"),
        ("/category/brick?since=yesterday", 400, "This is no time"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(bench, version, path, status, text):
    answer = bench.browser(Role.SEE).get(path)
    assert answer.status_code == status
    assert text in answer.text


def test_thresholds_become_a_version_that_is_activated_and_rolled_back(bench, version):
    judge_parts(bench)
    browser = bench.browser(Role.ENGINEER)
    form = {"version": version, "review": "841.5", "fail": "1101", "why": "over-kill"}
    answer = browser.post("/category/brick/thresholds", form)
    assert answer.status_code == 303
    made = bench.banks.state("brick").records[-1].version
    assert answer.headers["location"] == f"/category/brick?version={made}&done=made"
    manifest = bench.banks.manifest("brick", made)
    assert (manifest.thresholds.review, manifest.thresholds.fail) == (841.5, 1101.0)
    assert (manifest.changes[-1].who, manifest.changes[-1].why) == ("a-engineer", "over-kill")
    page = browser.get(answer.headers["location"]).text
    assert "Nothing serves it until it is activated" in page
    assert figures(page)["released"] == [2, 0, 0, 0, 2]  # the same rows: its scores are those of the version before
    assert f'<input type="hidden" name="seen" value="{version}">' in page
    answer = browser.post("/category/brick/activate", {"version": made, "seen": version, "why": "looked at"})
    assert answer.headers["location"] == f"/category/brick?version={made}&done=activated"
    assert bench.banks.state("brick").active == made
    bench.broker_is_away = True
    answer = browser.post("/category/brick/rollback", {"seen": made, "why": "worse"})
    assert answer.headers["location"] == "/category/brick?done=activated-unheard"
    assert bench.banks.state("brick").active == version
    assert bench.announced == [("brick", made)]
    entries = [(one.who, one.what, one.detail) for one in audit.latest(bench.console.database, 3)]
    assert entries == [
        ("a-engineer", "bank rolled back", f"brick: {version[:12]} (worse)"),
        ("a-engineer", "bank activated", f"brick: {made[:12]} (looked at)"),
        ("a-engineer", "thresholds set", f"brick: {made[:12]}, review 841.5, fail 1101 (over-kill)"),
    ]


def test_acts_that_cannot_be_done_change_nothing(bench, version):
    browser = bench.browser(Role.ENGINEER)
    form = {"version": version, "review": "841.5", "fail": "1101", "why": "over-kill"}
    before = bench.banks.state("brick")
    for changes, status, text in [
        ({"review": "1200"}, 409, "is above the fail threshold"),
        ({"review": "800", "fail": "1000"}, 409, "has these thresholds already"),
        ({"why": ""}, 400, "Say why"),
        ({"review": ""}, 400, "Both thresholds are needed"),
        ({"fail": "many"}, 400, "This is no score"),
        ({"version": "ffff"}, 409, "is no version"),
        ({"csrf": "other"}, 403, "The form was not made for this log-in"),
    ]:
        answer = browser.post("/category/brick/thresholds", form | changes)
        assert (answer.status_code, text in html.unescape(answer.text)) == (status, True), changes
    assert browser.post("/category/nothing/activate", form).status_code == 404
    assert browser.post("/category/brick/rollback", {"seen": version, "why": "worse"}).status_code == 409
    assert browser.post("/category/brick/activate", {"version": version, "seen": "", "why": "x"}).status_code == 409
    assert bench.banks.state("brick") == before


def test_only_engineers_see_forms_that_change_a_bank(bench, version):
    for role in (Role.SEE, Role.REVIEW):
        page = bench.browser(role).get("/category/brick").text
        assert 'method="post" action="/category' not in page
        answer = bench.browser(role).post("/category/brick/rollback", {"seen": version, "why": "x"})
        assert answer.status_code == 403
    assert 'action="/category/brick/thresholds"' in bench.browser(Role.ADMIN).get("/category/brick").text


def test_bars_have_areas_as_their_parts_and_ticks_are_round():
    search = ScoreSearch("brick", NAME, 0, 1, 10.0, 10, (25.0,))
    spread = Spread.of(search, [])
    parts = spread.histogram()
    parts[0, LABELS.index("good")], parts[2, LABELS.index("good")] = 4, 4  # from 0 to 10, and from 20 to 25
    drawn = histogram.draw(spread.edges, parts, 100.0)
    good = drawn.rows[0]
    assert (good.label, good.parts, good.most) == ("good", 8, 4)
    tall, low = histogram.ROW_HEIGHT, histogram.ROW_HEIGHT / 2
    assert good.path == f"M0.0 {good.bottom}v-{low}h100.0v{low}zM200.0 {good.bottom}v-{tall}.0h50.0v{tall}.0z"
    assert [text for _, text in drawn.ticks] == ["0", "20", "40", "60", "80", "100"]
    assert (drawn.x(50.0), drawn.x(1e9)) == (500.0, 1000)
    assert drawn.rows[1].path == ""


def test_the_versions_that_serve_can_be_chosen_however_many_there_are(bench, version, tmp_path, monkeypatch):
    monkeypatch.setattr(category_banks, "_MOST_VERSIONS", 2)
    newer = [publish(bench, tmp_path / f"newer-{fail}", {"review": 800.0, "fail": fail}) for fail in (1500.0, 1600.0)]
    found = category_banks.choices(bench.console, "brick")
    assert [one.key for one in found.all] == [*reversed(newer), version]
    assert (found.default.key, found.active, found.previous) == (version, version, "")


TRIAL = LIMITS | {"trial": True}


@pytest.fixture
def trial(bench, tmp_path):
    """An active version that is a trial, with a part that it has judged."""
    made = publish(bench, tmp_path / "trial", TRIAL)
    bench.banks.activate("brick", made, "bert", "first")
    bench.archive.save([record("r0", decision="review", score=2000.0, thresholds=TRIAL, memory_bank=NAME)], [])
    return made


def test_the_pages_of_a_category_whose_bank_is_a_trial_show_no_score_from_which_a_part_fails(bench, trial):
    engineer = bench.browser(Role.ENGINEER)
    row = re.search(r'href="/category/brick">.*?</tr>', engineer.get("/category").text, re.DOTALL)[0]
    assert re.findall(r'<td class="number">([^<]*)</td>', row)[:2] == ["800", "never (a trial)"]
    page = engineer.get("/category/brick").text
    assert ": 800 / never (a trial)</option>" in page
    assert "never: the memory bank is a trial." in page
    assert re.findall(r'data-(?:limit|slider)="(\w+)"', page) == ["review", "review"]
    assert 'id="fail"' not in page
    assert "1000" not in re.sub(r'data-\w+="[^"]*"|<svg.*?</svg>|type="hidden"[^>]*', "", page, flags=re.DOTALL)
    assert figures(page)["failed"] == [0, 0, 0, 0, 0]


def test_the_threshold_of_doubt_of_a_trial_is_moved_above_the_one_that_nobody_sees(bench, trial):
    engineer = bench.browser(Role.ENGINEER)
    page = engineer.get("/category/brick?review=1200").text
    form = dict(re.findall(r'type="hidden" name="(version|review|fail)" value="([^"]*)" data-value', page))
    assert form == {"review": "1200.0", "fail": "1200.0"}
    answer = engineer.post("/category/brick/thresholds", form | {"version": trial, "why": "over-kill"})
    made = re.search(r"version=(\w+)", answer.headers["location"])[1]
    assert bench.banks.manifest("brick", made).thresholds == Thresholds(review=1200.0, fail=1200.0, trial=True)
    shown = engineer.get(f"/category/brick?version={made}").text
    assert "doubtful from 1200, fails from never (a trial)." in shown


def test_a_bank_that_only_the_archive_knows_is_a_trial_if_its_verdicts_say_so(tmp_path):
    with closing(Bench(tmp_path, with_banks=False, categories=["brick"])) as bench:
        bench.archive.save([record("r0", decision="review", thresholds=TRIAL, memory_bank=OLD)], [])
        page = bench.browser(Role.SEE).get("/category/brick").text
        assert ": 800 / never (a trial)</option>" in page
