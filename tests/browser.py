"""A real browser for tests of the console: Chromium once for each file, and a page for each test.

A page that logs an error, raises one, or breaks its Content-Security-Policy fails its test. So does an answer of the
console that is its own fault: 500 and above, or a file of the pages that is missing.
"""

import os
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from tools import chromium

TABLET = {"viewport": {"width": 820, "height": 1180}, "has_touch": True}
DESK = {"viewport": {"width": 1366, "height": 768}}
LEAST_PX = 44  # WCAG 2.2, 2.5.5: a target for fingers, and gloves
# Chromium logs each answer of 400 and above. Those are looked at as answers.
_OF_ANSWERS = re.compile(r"Failed to load resource: the server responded with|Response Status Error Code \d+ from")
_SMALL = """least => {
  const inSentence = (one) => one.matches("p a, li a, dd a, label a") && [...one.parentElement.childNodes].some(
    (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  const targets = document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [role=button], [role=tab]");
  return [...targets].filter((one) => one.checkVisibility() && !one.matches(".skip") && !inSentence(one))
    .map((one) => [one, (one.closest("label") || one).getBoundingClientRect()])
    .filter(([, box]) => box.width < least - 0.5 || box.height < least - 0.5)
    .map(([one, box]) => `${one.outerHTML.slice(0, 160)}: ${Math.round(box.width)} x ${Math.round(box.height)} px`);
}"""


class Problems(list):
    """What went wrong in a page. `allowed` are expressions of what a test provokes."""

    def __init__(self, context):
        super().__init__()
        self.allowed = []
        context.on("console", self._console)
        context.on("weberror", lambda error: self._add(f"raised: {error.error}"))
        context.on("response", self._response)

    def _console(self, message):
        if message.type == "error" and not _OF_ANSWERS.search(message.text):
            self._add(f"logged: {message.text}")

    def _response(self, answer):
        if answer.status >= 500 or (answer.status >= 400 and "/static/" in answer.url):
            self._add(f"answered {answer.status}: {answer.url}")

    def _add(self, text):
        if not any(re.search(expression, text) for expression in self.allowed):
            self.append(text)


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of a file. Without it they are skipped; in CI they fail."""
    if chromium.path() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("not installed: chromium")
    with chromium.running() as browser:
        yield browser


class People:
    """Browsers of people, each with cookies of its own."""

    def __init__(self, browser):
        self._browser, self._contexts = browser, []

    def __call__(self, cookies=(), **options):
        """Return a new one, with its problems in `problems`."""
        context = self._browser.new_context(**(DESK | {"locale": "en-GB", "reduced_motion": "reduce"} | options))
        context.add_cookies(list(cookies))
        context.problems = Problems(context)
        self._contexts.append(context)
        return context

    def close(self):
        """Close all. Return what went wrong in them."""
        for context in self._contexts:
            context.close()
        return [problem for context in self._contexts for problem in context.problems]


@pytest.fixture
def people(browser):
    """Makes browsers of people. Their problems fail the test."""
    people = People(browser)
    yield people
    assert people.close() == []


@pytest.fixture
def page(people):
    """A page at a desk, in English, of nobody yet. Its problems are in `page.context.problems`."""
    return people().new_page()


def violations(page):
    """What axe finds in a page, one line for each element."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {node['html'][:160]}: {node['failureSummary']}" for one in found for node in one["nodes"]]


def small_targets(page):
    """The elements of a page that are too small for fingers. Links in a sentence may be (WCAG 2.2, 2.5.5)."""
    return page.evaluate(_SMALL, LEAST_PX)
