"""The texts of the console in all languages, and what its pages must not have."""

import re
from pathlib import Path

import pytest

from patchline.console import texts
from patchline.console.roles import Role
from patchline.console.templates import Templates
from tests.archive_contract import record
from tests.console_bench import Bench
from tools import texts as tool

TEMPLATES = sorted(Path("patchline/console/templates").glob("*.html"))
PLACE = re.compile(r"%\((\w+)\)s")


@pytest.fixture(scope="module")
def collected():
    return tool.collect()


@pytest.mark.parametrize("language", tool.languages())
def test_each_text_is_translated_and_has_the_same_places_for_values(collected, language):
    catalog = tool.read(language)
    assert {message.id for message in catalog} == {message.id for message in collected}
    for message in catalog:
        if message.id:
            assert message.string, message.id
            assert not message.fuzzy
            assert set(PLACE.findall(message.string)) == set(PLACE.findall(message.id)), message.id


@pytest.mark.parametrize("language", tool.languages())
def test_the_compiled_texts_are_those_of_the_source(language):
    catalog = tool.read(language)
    installed = texts.catalogue(language)
    assert {message.id: installed.gettext(message.id) for message in catalog if message.id} == {
        message.id: message.string for message in catalog if message.id
    }


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [
        ((), "de-CH, en;q=0.8", "de"),
        ((), "fr, zh-Hans;q=0.9, en;q=0.8", "zh"),
        ((), "fr", "en"),
        ((), "", "en"),
        ((), "de;q=x, en;q=0.1", "en"),
        (("", "zh"), "de", "zh"),
        (("xx",), "de", "de"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_first_that_the_browser_accepts(wanted, accepted, language):
    assert texts.choose(wanted, accepted, "en") == language


def test_a_page_comes_in_the_language_of_the_browser_and_a_choice_is_kept(tmp_path):
    bench = Bench(tmp_path)
    bench.archive.save([record()], [])
    pages = ("/line", "/search", "/part/job-1", "/review", "/audit")
    browser = bench.browser(Role.ADMIN)
    for language, word in (("de", "Abmelden"), ("zh", "退出登录"), ("en", "Log out")):
        for path in pages:
            page = browser.get(f"{path}?lang={language}").text
            assert f'<html lang="{language}">' in page
            assert word in page
        assert word in browser.get("/line", **{"accept-language": "en"}).text
    bench.close()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_needs_more_than_the_policy_allows(template):
    text = template.read_text()
    assert re.search(r"<style|\sstyle=|\son\w+=|javascript:|hx-on", text) is None
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert "| safe" not in text
    assert "//" not in re.sub(r"\{#.*?#\}", "", text), "loads nothing from elsewhere"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_each_input_has_a_label_and_each_picture_a_text(template):
    text = template.read_text()
    for tag in re.findall(r"<(?:input|select)[^>]*>", text):
        if 'type="hidden"' in tag or "checkbox" in tag or "range" in tag:
            continue
        name = re.search(r'id="([^"]+)"', tag)[1]
        assert f'<label for="{name}">' in text, tag
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", text))


def test_assets_are_known_by_their_content_and_may_be_kept(tmp_path):
    bench = Bench(tmp_path)
    page = bench.browser().get("/login").text
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
        answer = bench.browser().get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "max-age=31536000, immutable"
    assert bench.browser().get("/static/nothing.js").status_code == 404
    assert bench.browser().get("/static/..%2Fweb.py").status_code == 404
    bench.close()


def test_the_licence_of_htmx_is_beside_it():
    assets = Templates("").assets
    assert b"Permission to use, copy, modify" in assets["htmx-LICENSE.txt"]
    assert b"htmx" in assets["htmx.min.js"][:200]
