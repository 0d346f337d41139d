"""Why something is refused, in the languages of the pages."""

import re
from pathlib import Path

import pytest

from patchline.console import reasons, texts
from patchline.console.roles import Role
from tests.console_bench import SETTINGS, Bench

BENCH = Bench

PLACE = re.compile(r"%\(\w+\)s")


@pytest.fixture(scope="module")
def sources():
    """The sources of the package but for the list of reasons, without the places and quotes of their texts."""
    own = Path(reasons.__file__)
    files = [path for path in own.parents[1].rglob("*.py") if path != own]
    return re.sub(r"\{[^{}\n]*\}", "", "".join(path.read_text(encoding="utf-8") for path in files))


@pytest.mark.parametrize("text", reasons.REASONS)
def test_each_reason_is_one_that_some_part_says(sources, text):
    for piece in filter(None, re.split(r"[;:(]|%\(\w+\)s", text)):
        assert piece.strip(" )").removeprefix("has ") in sources, piece


@pytest.mark.parametrize("language", ["en", "de", "zh"])
@pytest.mark.parametrize("text", reasons.REASONS)
def test_each_reason_is_known_again_with_its_values(language, text):
    values = {name: f"<{name} 7.5>" for name in re.findall(r"%\((\w+)\)s", text)}
    catalogue = texts.catalogue(language)
    assert reasons.translated(catalogue, text % values) == catalogue.gettext(text) % values


def test_a_reason_within_a_reason_is_translated_too_and_one_that_is_not_known_stays():
    said = "brick: nothing was done; anna has activated 1234 (a trial (of a day)); look, then try again"
    german = reasons.translated(texts.catalogue("de"), said)
    assert "anna hat 1234 aktiviert (a trial (of a day))" in german
    assert "nothing" not in german
    assert reasons.translated(texts.catalogue("de"), "100 %(x)s of nothing") == "100 %(x)s of nothing"


def test_a_german_page_says_in_german_why_pictures_and_reports_are_refused(bench):
    engineer = bench.browser(Role.ENGINEER, **{"accept-language": "de"})
    lesson = engineer.post("/teach", {"category": next(iter(SETTINGS.categories))}).headers["location"]
    files = [("files", ("a.png", b"a text", "image/png"))]
    page = engineer.client.post(lesson, data={"csrf": engineer.csrf}, files=files, follow_redirects=True).text
    assert "<bdi>a.png</bdi>: die Bytes sind kein Bild, das hier gelesen wird" in page
    page = engineer.get("/report?since=2030-01-01T00:00&until=2029-01-01T00:00").text
    assert "der Zeitraum des Berichts beginnt nach seinem Ende oder in der Zukunft" in page
