"""Reports as files: HTML with everything inside, and PDF with all figures, in each language."""

import base64
import io
import re

import cv2
import numpy as np
import pypdf
import pytest

from patchline.archive.ledger import Count
from patchline.console import report_pdf, texts, words
from patchline.console.report_document import Bars, Document, Section, Table
from patchline.console.reports import file_name
from patchline.console.roles import Role
from patchline.operations import label_rates, line_report
from patchline.operations.report_changes import Change, Changes
from tests.archive_contract import NOW, record
from tests.console_bench import Bench
from tests.ledger_contract import entry, judgement
from tests.period_contract import MINUTE, fill

END = NOW + 60 * MINUTE
REQUEST = line_report.Request(kind="shift", name="early@2023-11-14", since=NOW, until=END, line="l1")


def png(side):
    pixels = np.random.default_rng(side).integers(0, 255, (side, 2 * side, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("console"), time_zone="Europe/Berlin")
    fill(bench.archive)
    bench.keep_picture("d", body=png(600))
    bench.keep_picture("d", "heat_map", png(100))
    bench.keep_picture("b", body=b"no picture at all")
    bench.now = END + MINUTE
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def made(bench):
    return bench.console.reports.make(REQUEST)


@pytest.fixture(scope="module")
def html(bench, made):
    return {one: bench.console.reports.html(made, "anna", one).decode() for one in texts.LANGUAGES}


@pytest.fixture(scope="module")
def pdf(bench, made):
    return {one: pypdf.PdfReader(io.BytesIO(bench.console.reports.pdf(made, "anna", one))) for one in texts.LANGUAGES}


def words_of(reader):
    return " ".join(" ".join(page.extract_text() for page in reader.pages).split())


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_a_file_of_html_loads_nothing_and_runs_nothing(html, language):
    page = html[language]
    assert f'<html lang="{language}">' in page
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert re.search(r"<(script|link|iframe|object|embed|form|base)\b", page) is None
    assert re.search(r"url\(|@import|srcset=|\bon\w+=", page) is None
    assert {one.partition(",")[0] for one in re.findall(r'src="([^"]+)"', page)} == {"data:image/jpeg;base64"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert '"■ "' in page, "styles are not escaped"


def test_the_pictures_in_a_file_are_those_of_the_archive_made_small(html, made):
    bodies = [base64.b64decode(one) for one in re.findall(r"base64,([^\"]+)", html["en"])]
    sizes = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR).shape for one in bodies]
    assert sizes == [(200, 400, 3), (100, 200, 3)], "that of part b is no picture, and is left out"
    for digest in made.report.worst[0].pictures.values():
        assert digest in html["en"]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ("Shift early of 2023-11-14", "3 37.50 % 8.52–75.51", "Unnoticed", "it escaped", "by anna")),
        ("de", ("Schicht early vom 2023-11-14", "3 37,50 % 8,52–75,51", "Unbemerkt", "Pseudofehler", "von anna")),
        ("zh", ("2023-11-14 班次 early", "3 37.50 % 8.52–75.51", "误剔率", "热力图", "由 anna 生成")),
    ],
)
def test_html_and_pdf_have_the_same_figures_in_each_language(html, pdf, made, language, expected):
    page = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html[language], flags=re.S).split())
    printed = words_of(pdf[language])
    for text in (*expected, made.report.digest):
        assert text in page, text
        assert text.replace(" ", "") in printed.replace(" ", ""), text
    for row in made.report.banks:
        assert row.bank in page


def test_times_are_those_of_the_plant_with_their_zone(html):
    assert "2023-11-14 23:13 CET" in html["en"]


def test_a_pdf_has_its_font_inside_and_its_pages_are_numbered(pdf):
    reader = pdf["zh"]
    fonts = [font.get_object() for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    own = [font for font in fonts if "WenQuanYi" in font["/BaseFont"]]
    assert own
    assert all("/FontFile2" in font["/FontDescriptor"] for font in own)
    assert f"第 1 页，共 {len(reader.pages)} 页" in reader.pages[0].extract_text()
    assert sum(len(page.images) for page in reader.pages) == 2
    assert reader.metadata.title == "2023-11-14 班次 early – Patchline"


def test_text_of_people_never_becomes_part_of_a_page_and_a_letter_without_a_glyph_is_a_box(bench):
    hostile = "<script>alert(1)</script> <b>&amp; 100 % %(who)s \U0001f600"
    changes = Changes(known=(Change(at=NOW, who="x", what="activate", of="brick", detail=hostile),), has_store=True)
    report = line_report.make(REQUEST, bench.archive, bench.periods, bench.pictures, changes, END)
    made = type(bench.console.reports.make(REQUEST))(report, END)
    page = bench.console.reports.html(made, "anna", "en").decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &lt;b&gt;&amp;amp; 100 % %(who)s \U0001f600" in page
    printed = words_of(pypdf.PdfReader(io.BytesIO(bench.console.reports.pdf(made, "anna", "en"))))
    assert "<script>alert(1)</script> <b>&amp; 100 % %(who)s □" in printed


def test_a_time_without_a_verdict_is_a_report_too(bench):
    empty = REQUEST.model_copy(update={"line": "l9", "kind": "span", "name": ""})
    made = bench.console.reports.make(empty)
    for language, text in (("en", "There is no verdict in this time."), ("zh", "此时间段内没有判定。")):
        assert text in bench.console.reports.html(made, "anna", language).decode()
        assert bench.console.reports.pdf(made, "anna", language).startswith(b"%PDF")


def test_a_long_table_goes_on_over_pages_and_repeats_its_head():
    rows = tuple((f"row {number}", "x" * 200) for number in range(120))
    bars = Bars("none", (), (), (), ())
    sections = (Section("title", (), bars, (Table("caption", ("one", "two"), rows),)),)
    content = report_pdf.render(Document("en", "Long", (("a", "b"),), sections, "%(number)s/%(all)s"), {})
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    assert len(pages) > 3
    assert all("caption" in page and "two" in page for page in pages)


def test_while_the_store_is_away_a_report_is_made_without_pictures(bench, made):
    bench.store.away = True
    try:
        page = bench.console.reports.html(made, "anna", "en").decode()
    finally:
        bench.store.away = False
    assert "<img" not in page
    assert made.report.digest in page


def test_a_report_is_kept_for_two_minutes_so_that_page_and_files_say_the_same(own):
    request = REQUEST.model_copy(update={"line": None})
    first = own.console.reports.make(request)
    own.archive.save([record("new", decided_at=NOW + 1)], [])
    assert own.console.reports.make(request) is first
    own.pass_time(121)
    assert own.console.reports.make(request).report.parts == first.report.parts + 1


@pytest.mark.parametrize("language", [one for one in texts.LANGUAGES if one != "en"])
def test_each_sentence_on_what_rates_mean_is_translated(language):
    def count(decision, judged, parts):
        return Count("l1", "brick", "b", decision, judged, parts)

    cases = [
        [count("fail", "good", 1), count("pass", None, 5)],
        [count("pass", "good", 1), count("fail", None, 5)],
        [count("pass", "good", 1), count("fail", "defect", 1)],
        [count("pass", "good", 1), count("pass", None, 9), count("fail", "defect", 1)],
        [count("pass", "good", 9), count("fail", "defect", 1), count("fail", None, 9)],
    ]
    sentences = {text for case in cases for one in label_rates.rates(case) for text in one.meaning[1:]}
    assert sentences == {*words.SAMPLES.values(), *words.LEANINGS.values()}
    assert all(texts.catalogue(language).gettext(text) != text for text in sentences)


def test_what_was_set_in_the_console_is_told_and_accounts_are_not(tmp_path):
    from patchline.console import audit

    bench = Bench(tmp_path)
    bench.now = NOW + MINUTE
    for what in ("thresholds set", "account added", "part judged"):
        audit.record(bench.console.database, "anna", what, f"detail of {what}")
    bench.now = END + MINUTE
    report = bench.console.reports.make(REQUEST).report
    assert [(one.who, one.what, one.detail) for one in report.changes.known] == [
        ("anna", "thresholds set", "detail of thresholds set")
    ]
    bench.close()


def test_a_file_is_named_after_what_it_is_about():
    assert file_name(REQUEST, "pdf") == "patchline-shift-early-2023-11-14-l1.pdf"
    batch = line_report.Request(kind="batch", name="B7:1.", since=NOW, until=END, category="brick")
    assert file_name(batch, "html") == "patchline-batch-B7-1.-brick.html"


@pytest.fixture
def own(tmp_path):
    bench = Bench(tmp_path, time_zone="Europe/Berlin", shifts={"day": "06:00-06:00"})
    fill(bench.archive)
    bench.archive.save_ledger([entry(judgement("c", "defect", kind="dent"))], [])
    bench.now = NOW + 24 * 60 * MINUTE
    yield bench
    bench.close()


def test_a_page_lets_people_choose_a_shift_and_gives_it_as_files(own):
    watcher = own.browser(Role.SEE)
    form = watcher.get("/report").text
    assert "<h1>Report</h1>" in form
    assert '<option value="day@2023-11-14">2023-11-14 day</option>' in form
    page = watcher.get("/report?shift=day%402023-11-14&line=l1").text
    assert "Shift day of 2023-11-14" in page
    assert 'href="/part/B7-2?job=d"' in page
    assert "data:" not in page
    link = re.search(r'href="(/report\.html\?[^"]+)"', page)[1].replace("&amp;", "&")
    saved = watcher.get(link)
    assert saved.headers["content-disposition"] == 'attachment; filename="patchline-shift-day-2023-11-14-l1.html"'
    digest = re.search(r"<dd>([0-9a-f]{64})</dd>", page)[1]
    assert digest in saved.text
    printed = watcher.get(link.replace("report.html", "report.pdf"))
    assert printed.headers["content-type"] == "application/pdf"
    assert digest in words_of(pypdf.PdfReader(io.BytesIO(printed.content)))
    assert "default-src 'none'" in printed.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/report", "/report.html", "/report.pdf"])
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("since=soon", "This is no time: soon"),
        ("shift=noon", "There is no such report: there is no shift"),
        ("batch=%2Fetc", "There is no such report"),
        ("since=90d", "31 days at most"),
        ("shift=day&since=2h", "a shift has its own time"),
        ("batch=%3Cscript%3E", "There is no such report"),
    ],
)
def test_what_makes_no_report_is_said(own, path, query, text):
    answer = own.browser(Role.SEE).get(f"{path}?{query}")
    assert answer.status_code == 400
    assert text in answer.text
    assert "<script>" not in answer.text


def test_while_the_archive_is_away_or_others_take_too_long_the_page_says_so(own, monkeypatch):
    browser = own.browser(Role.SEE)
    own.archive.away = True
    assert browser.get("/report?since=25h").status_code == 503
    own.archive.away = False
    monkeypatch.setattr("patchline.console.reports._PATIENCE_S", 0.01)
    monkeypatch.setattr("patchline.operations.line_report.MOST", 5)
    answer = browser.get("/report?since=25h")
    assert (answer.status_code, "choose a line, a category or a shorter time" in answer.text) == (400, True)
    assert "Batch B7-" in browser.get("/report?batch=B7-").text
    with own.console.reports._lock:
        answer = browser.get("/report?since=25h")
    assert (answer.status_code, "Other reports are being made." in answer.text) == (503, True)


def test_a_report_says_of_a_trial_that_it_never_fails_a_part(tmp_path):
    bench = Bench(tmp_path)
    limits = {"review": 900.0, "fail": 1777.0, "trial": True}
    bench.archive.save([record("a", decision="review", thresholds=limits, decided_at=NOW + 1)], [])
    bench.now = END + MINUTE
    made = bench.console.reports.make(REQUEST)
    page = bench.console.reports.html(made, "anna", "en").decode()
    pdf = words_of(pypdf.PdfReader(io.BytesIO(bench.console.reports.pdf(made, "anna", "en"))))
    bench.close()
    for text in (page, pdf):
        assert "never (a trial)" in text
        assert "Fails from: never: the memory bank is a trial" in text
        assert "1777" not in text
