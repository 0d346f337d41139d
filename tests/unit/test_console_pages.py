"""What the pages of the console show and do, on an archive in memory and one in SQLite."""

import re
from dataclasses import replace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from patchline.archive.base import TookTooLong
from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.picture_table import PictureTable
from patchline.console import audit
from patchline.console.roles import Role
from patchline.protocol.judgement_message import Label
from tests.archive_contract import NOW, record
from tests.console_bench import PNG, Bench
from tests.ledger_contract import act, announcement, confirmation, delivery, entry, judgement, outcome, shadow

BENCH = Bench

__all__ = ["delivery"]
HX = {"hx-request": "true"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """An archive of SQLite with 120 verdicts, twelve at a time; nobody changes it."""
    folder = tmp_path_factory.mktemp("archive")
    archive = LedgerDatabase(folder / "archive.sqlite")
    archive.prepare()
    rows = [
        record(
            f"job-{number:03}",
            decided_at=NOW + number // 12,
            line=f"l{number % 2}",
            decision=("pass", "review", "fail")[number % 3],
            score=float(number),
        )
        for number in range(120)
    ]
    archive.save(rows, [])
    entries = [announcement(), act(), confirmation(), outcome(), judgement(kind="scratch", said="defect"), shadow()]
    archive.save([record()], [])
    archive.save_ledger([entry(one) for one in entries], [])
    bench = Bench(folder, archive, PictureTable(archive))
    bench.keep_picture("job-1")
    bench.keep_picture("job-1", "heat_map")
    yield bench
    bench.close()
    archive.close()


def jobs_on(page):
    return re.findall(r'\?job=(job-[\d]+)"', page)


def shown(page):
    """The job that the review shows."""
    found = re.search(r'name="job" value="([^"]+)">\s*<h2', page)
    return found and found[1]


def test_a_search_shows_each_verdict_once_over_its_pages(filled):
    browser, path, found = filled.browser(Role.SEE), "/search?line=l1", []
    while path:
        page = browser.get(path).text
        found += jobs_on(page)
        link = re.search(r'href="(/search\?[^"]*before=[^"]*)"', page)
        path = link and link[1].replace("&amp;", "&")
    assert len(found) == len(set(found)) == 61
    assert found[0] == "job-109"


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("part=part-of-job-1", 1),
        ("decision=fail&decision=review&line=l1&low=100", 8),
        ("since=30s", 0),
        ("category=cup", 0),
        ("part=%27%20OR%201%3D1", 0),
        ("high=3&line=l0", 2),
    ],
)
def test_a_search_finds_what_it_names(filled, query, count):
    assert len(jobs_on(filled.browser(Role.SEE).get(f"/search?{query}").text)) == count


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("since=yesterday", "This is no time: yesterday"),
        ("low=much", "This is no score: much"),
        ("decision=good", "There is no such result: good"),
        ("before=x", "The link is damaged"),
        ("before=1:%00", "The link is damaged"),
    ],
)
def test_a_search_that_makes_no_sense_says_so(filled, query, text):
    answer = filled.browser(Role.SEE).get(f"/search?{query}")
    assert answer.status_code == 400
    assert text in answer.text


def test_htmx_gets_the_results_only(filled):
    page = filled.browser(Role.SEE).get("/search?line=l1", **HX).text
    assert "<html" not in page
    assert "<table" in page


def test_a_part_shows_all_that_is_known_of_it(filled):
    page = " ".join(filled.browser(Role.REVIEW).get("/part/part-of-job-1").text.split())
    for text in (
        'src="/picture/job-1/image"',
        'src="/picture/job-1/heat_map"',
        "data-over",
        "1200",
        "Fails from</dt><dd>1000",
        "the part was announced",
        "gate g rejected it: fail",
        "the sensor saw it in the bin reject",
        "it escaped",
        "anna: defect (scratch)",
        "would have said",
        'Worker: read the image</th> <td class="number">1.5 ms',
        'in the queue</th><td class="number">20 ms</td>',
        'until the gate had acted</th><td class="number">20 ms</td>',
        "The verdict came 10.0 s before its deadline.",
        "version 05b3abf2579a",
        "<td>anna</td> <td>defect (scratch)</td>",
        'value="defect:dent"',
    ):
        assert text in page, text


def test_a_job_is_found_by_its_own_id_and_what_nobody_knows_is_said(filled):
    browser = filled.browser(Role.SEE)
    assert "Part job-003" in browser.get("/part/job-003").text
    answer = browser.get("/part/nobody")
    assert answer.status_code == 404
    assert "nobody" in answer.text


def test_a_part_whose_ledger_has_a_gap_says_so(bench):
    bench.archive.save_ledger([entry(announcement(deadline=NOW))], [])
    page = bench.browser(Role.SEE).get("/part/job-1").text
    assert "No gate has acted on it." in page
    assert "There is no verdict on it." in page


def test_text_of_a_verdict_never_becomes_part_of_the_page(bench):
    bench.archive.save([record(decision="error", reason="crashed", detail="<script>alert(1)</script> %(who)s")], [])
    hostile = entry(judgement(said="defect", by="<b>%s", note="100 % <img src=x onerror=1>"))
    strange = replace(entry(outcome()), outcome="<i>%(bin)s %d")
    bench.archive.save_ledger([hostile, strange], [])
    page = bench.browser(Role.REVIEW).get("/part/job-1").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; %(who)s" in page
    assert "100 % &lt;img src=x onerror=1&gt;" in page
    assert "&lt;i&gt;%(bin)s %d" in page
    for tag in ("<script>", "<b>", "<i>", "<img src=x"):
        assert tag not in page


def test_an_image_that_browsers_cannot_show_comes_as_png(bench):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    bench.keep_picture("job-1", body=bytes(cv2.imencode(".tiff", pixels)[1]), content_type="image/tiff")
    bench.keep_picture("job-2", body=b"P6 nonsense", content_type="image/x-portable-pixmap")
    answer = bench.browser(Role.SEE).get("/picture/job-1/image")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR), pixels)
    assert bench.browser(Role.SEE).get("/picture/job-2/image").status_code == 404


def test_a_picture_of_an_unknown_type_is_nothing_that_a_browser_runs(bench):
    bench.keep_picture("job-1", "heat_map", b"<script>alert(1)</script>", "text/html")
    assert bench.browser(Role.SEE).get("/picture/job-1/heat_map").headers["content-type"] == "application/octet-stream"


def rejects(bench, count=3, **changes):
    bench.archive.save([record(f"job-{number}", decided_at=NOW + number, **changes) for number in range(count)], [])


def test_rejects_are_reviewed_the_latest_first_and_what_was_said_is_published_and_audited(bench):
    rejects(bench)
    bench.archive.save([record("passed", decision="pass", decided_at=NOW + 9)], [])
    reviewer = bench.browser(Role.REVIEW)
    assert shown(reviewer.get("/review").text) == "job-2"
    page = reviewer.post("/review", {"job": "job-2", "judgement": "defect:scratch"}, HX).text
    assert "<html" not in page
    assert shown(page) == "job-1"
    page = reviewer.post("/review", {"job": "job-1", "judgement": "defect", "kind": "hole", "note": "big"}, HX).text
    assert shown(page) == "job-0"
    page = reviewer.post("/review", {"job": "job-0", "judgement": "good", "kind": "hole"}, HX).text
    assert "There is no reject left to judge." in page
    said = [(one.job_id, one.judgement, one.kind, one.note, one.by, one.judged_at) for one in bench.published]
    assert said == [
        ("job-2", Label.DEFECT, "scratch", None, "a-review", bench.now),
        ("job-1", Label.DEFECT, "hole", "big", "a-review", bench.now),
        ("job-0", Label.GOOD, None, None, "a-review", bench.now),
    ]
    latest = audit.latest(bench.console.database, 3)
    assert [(one.who, one.what, one.detail) for one in latest[:2]] == [
        ("a-review", "part judged", "job-0: good"),
        ("a-review", "part judged", "job-1: defect (hole)"),
    ]


def test_what_was_said_last_can_be_taken_back_and_the_part_is_shown_again(bench):
    rejects(bench)
    reviewer = bench.browser(Role.REVIEW)
    page = reviewer.post("/review", {"job": "job-2", "judgement": "good"}, HX).text
    assert 'name="job" value="job-2"' in page
    page = reviewer.post("/review", {"job": "job-2", "judgement": "withdrawn"}, HX).text
    assert shown(page) == "job-2"
    assert 'value="withdrawn"' not in page
    assert [one.judgement for one in bench.published] == [Label.GOOD, Label.WITHDRAWN]
    assert shown(reviewer.get("/review").text) == "job-2"


def test_parts_that_somebody_has_judged_are_not_shown_but_those_taken_back_are(bench):
    rejects(bench)
    said = [judgement("job-2", "unsure"), judgement("job-1", "good"), judgement("job-1", "withdrawn", NOW + 2_000)]
    bench.archive.save_ledger([entry(one) for one in said], [])
    assert shown(bench.browser(Role.REVIEW).get("/review").text) == "job-1"


def test_a_reject_behind_hundreds_that_are_judged_is_found(bench):
    rejects(bench, 450)
    said = [entry(judgement(f"job-{number}")) for number in range(450) if number != 7]
    bench.archive.save_ledger(said, [])
    assert shown(bench.browser(Role.REVIEW).get("/review").text) == "job-7"


def test_a_part_can_be_left_for_later_and_the_filter_stays(bench):
    rejects(bench)
    bench.archive.save([record("other", line="l2", decided_at=NOW + 50)], [])
    reviewer = bench.browser(Role.REVIEW)
    page = reviewer.get("/review?line=l1").text
    assert shown(page) == "job-2"
    later = re.search(r'href="(/review\?[^"]*after=[^"]*)"', page)[1].replace("&amp;", "&")
    page = reviewer.get(later).text
    assert shown(page) == "job-1"
    assert 'name="line" value="l1"' in page
    form = {"job": "job-1", "judgement": "good", "line": "l1", "after": f"{NOW + 2}:job-2"}
    assert shown(reviewer.post("/review", form, HX).text) == "job-0"


def test_without_htmx_the_review_goes_on_with_the_next_part(bench):
    rejects(bench)
    reviewer = bench.browser(Role.REVIEW)
    answer = reviewer.post("/review", {"job": "job-2", "judgement": "good", "line": "l1"})
    assert answer.headers["location"] == "/review?line=l1&last=job-2"
    assert shown(reviewer.get(answer.headers["location"]).text) == "job-1"
    answer = reviewer.post("/review", {"job": "job-1", "judgement": "unsure", "from": "part"})
    assert answer.headers["location"] == "/part/job-1?said=unsure"
    assert "Sent: unsure" in reviewer.get(answer.headers["location"]).text


def test_a_judgement_that_rabbitmq_does_not_take_is_not_stored_and_the_person_is_told(bench):
    rejects(bench)
    bench.broker_is_away = True
    reviewer = bench.browser(Role.REVIEW)
    answer = reviewer.post("/review", {"job": "job-2", "judgement": "good"}, HX)
    assert answer.status_code == 503
    assert "This was not stored. Try again: RabbitMQ is away" in answer.text
    assert shown(reviewer.get("/review").text) == "job-2"
    assert [one.what for one in audit.latest(bench.console.database, 5)] == ["logged in"]


@pytest.mark.parametrize(
    "form",
    [
        {"judgement": "good"},
        {"job": "job-2", "judgement": "perfect"},
        {"job": "job-2"},
        {"job": "no job", "judgement": "good"},
        {"job": "job-2", "judgement": "defect:no kind"},
        {"job": "job-2", "judgement": "good", "note": "a\nb"},
    ],
)
def test_a_judgement_that_is_none_is_refused(bench, form):
    assert bench.browser(Role.REVIEW).post("/review", form).status_code == 400
    assert bench.published == []


@pytest.mark.parametrize("path", ["/search", "/part/job-1", "/review", "/picture/job-1/image"])
def test_while_the_archive_is_away_pages_say_so_and_people_stay_logged_in(bench, path):
    browser = bench.browser(Role.REVIEW)
    bench.archive.away = bench.pictures.away = True
    answer = browser.get(path)
    assert answer.status_code == 503
    assert "The archive does not answer: " in answer.text
    bench.archive.away = bench.pictures.away = False
    assert browser.get("/search").status_code == 200


def test_a_question_that_takes_the_archive_too_long_is_answered_with_what_to_do(bench, monkeypatch):
    monkeypatch.setattr(bench.archive, "find", Mock(side_effect=TookTooLong("interrupted")))
    answer = bench.browser(Role.SEE).get("/search")
    assert answer.status_code == 503
    assert "Choose a shorter time, or one line." in answer.text


def test_while_the_store_is_away_a_picture_says_so(bench):
    bench.keep_picture("job-1", body=PNG)
    bench.store.away = True
    assert bench.browser(Role.SEE).get("/picture/job-1/image").status_code == 503


def test_administrators_see_the_accounts_and_who_changed_what(bench):
    bench.console.accounts.add("anna", Role.SEE, "correct horse", "command line (root)")
    page = bench.browser(Role.ADMIN).get("/audit").text
    assert "anna, role see" in page
    assert "command line (root)" in page
