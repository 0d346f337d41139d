"""The console in Debian's Chromium, with a real line behind it."""

import re
import shutil
from contextlib import ExitStack

import httpx2 as httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from patchline.console.lesson_files import JudgedDefect, Outlier, Result, Run
from patchline.console.lessons import Lessons
from patchline.console.routes import ROUTES
from patchline.evaluation import held_out_figures
from patchline.inspection.memory_bank import FlaggedShare
from patchline.protocol.messages import Thresholds
from patchline.runtime.connections import now_ms
from tests.browser import DESK, TABLET, People, browser, page, people, small_targets, violations
from tests.console.console_line import ConsoleLine, log_in
from tests.system.conftest import delete_queues, wait_for

__all__ = ["browser", "page", "people"]
pytestmark = pytest.mark.timeout(400)
WAIT_MS = 20_000  # a busy machine
LOOK_MS = 200_000  # a closer look gives way to all other processes
VIEWS = (
    DESK | {"locale": "en-GB"},
    TABLET | {"locale": "de-DE"},
    TABLET | {"locale": "zh-CN", "color_scheme": "dark"},
)
# Paths that are not those of a route, or that show something else of it.
MORE_PATHS = (
    "/search?decision=fail",
    "/search?low=much",
    "/accounts?name=anna",
    "/review?category=cup",
    "/part/nobody",
    "/line/send?have=0&part=part-of-{job}&part=another",
    "/report?since=2h",
    "/teach/{outliers}",
    "/banks/brick/act?act=shadow&version={version}",
    "/banks/brick/act?act=rollback",
    "/nothing",
)
_SEEN = """() => {
  window.seen = {};
  new MutationObserver(() => document.querySelectorAll("#rejects a").forEach((one) => {
    window.seen[new URL(one.href).searchParams.get("job")] ??= Date.now();
  })).observe(document.getElementById("rejects"), {childList: true});
}"""

expect.set_options(timeout=WAIT_MS)


def activate(line):
    """Make the plant's memory bank the active version of a store. Return its digest."""
    assert line.run("banks", "init").returncode == 0
    published = line.run("banks", "publish", "brick", "--why", "the first one")
    (version,) = re.findall(r"is version ([0-9a-f]{64})", published.out)
    assert line.run("banks", "activate", "brick", version, "--why", "the first one").returncode == 0
    return version


@pytest.fixture(scope="module")
def scratches(texture_folder):
    return sorted((texture_folder / "test" / "scratch").glob("*.png"))


@pytest.fixture(scope="module")
def line(plant, servers, tmp_path_factory, texture_folder, scratches):
    """A line with a worker, archive and console, that has judged some parts."""
    folder = shutil.copytree(plant, tmp_path_factory.mktemp("console") / "plant", symlinks=True)
    delete_queues(servers.amqp_url)
    with (folder / "config.yaml").open("a") as file:
        file.write("banks: {store: banks-store, poll_s: 0.2}\n")
    with ExitStack() as stack:
        line = ConsoleLine(folder, servers, stack)
        line.version = activate(line)
        line.begin()
        good = sorted((texture_folder / "test" / "good").glob("*.png"))
        line.inspect([*good[:3], *scratches[:4]])
        assert len(line.rejects()) >= 4
        line.lessons = make_lessons(line.settings, good, scratches)
        yield line


def make_lessons(settings, good, scratches):
    """Make lessons as fits leave them: one with a version, and one with a picture that stands out. Return their ids."""
    lessons = Lessons(settings.console.database.parent / "lessons", 30, now_ms)
    made = {"lesson": lessons.begin("brick", "erik"), "outliers": lessons.begin("brick", "erik")}
    for lesson in made.values():
        for kind, images in (("good", good[:4]), ("scratch", scratches[:2])):
            for image in images:
                body = image.read_bytes()
                assert lesson.add(kind, image.name, body, settings.images, settings.category("brick")) is None
    defects = [
        JudgedDefect(kind=kind, name=name, score=700.0, decision="pass") for kind, name in made["lesson"].defects()
    ]
    result = Result(
        version="ab" * 32,
        thresholds=Thresholds(review=900.0, fail=1000.0),
        good_images=4,
        good_scores=(100.0, 500.0, 600.0, 800.0),
        flagged=FlaggedShare(expected=0.05, lower=0.01, upper=0.1),
        failed=FlaggedShare(expected=0.01, lower=0.0, upper=0.03),
        left_out={"exact copies": 2},
        defects=tuple(defects),
        figures=held_out_figures.of_defects(np.array([100.0, 500.0, 600.0, 800.0]), np.array([700.0, 700.0]), 2, 0.05),
    )
    made["lesson"].report(Run(state="done", by="erik", began_at=now_ms(), result=result))
    outliers = (Outlier(name=good[0].name, score=2.5, p_value=0.001),)
    made["outliers"].report(Run(state="outliers", by="erik", began_at=now_ms(), outliers=outliers))
    return {name: lesson.id for name, lesson in made.items()}


def test_a_person_logs_in_and_a_reject_is_there_within_a_second_of_its_verdict(line, page, scratches):
    log_in(page, line, "anna")
    expect(page.locator("#processes .result.pass")).to_have_count(2)
    page.evaluate(_SEEN)
    took_ms = []
    for image in scratches[:5]:
        (job, record), *_ = line.inspect([image]).items()
        page.locator(f'#rejects a[href*="job={job}"] img').wait_for(timeout=WAIT_MS)
        took_ms.append(page.evaluate("job => window.seen[job]", job) - record.decided_at)
    assert min(took_ms) < 1000, took_ms
    shown = "image => image.complete && image.naturalWidth > 0"
    wait_for(lambda: page.locator("#rejects img").first.evaluate(shown))
    assert "/heat_map?" in page.locator("#rejects img").first.get_attribute("src")
    page.locator("#rejects a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("part-of-job-")


def test_the_slider_of_the_heat_map_fades_it_and_both_pictures_are_there(line, people):
    page = people(line.cookies("anna")).new_page()
    page.goto(f"{line.url}/part/part-of-{line.rejects()[0]}")
    over = page.locator("img.over")
    for image in page.locator(".stack img").all():
        assert image.evaluate("image => image.naturalWidth") > 0
    expect(over).to_have_css("opacity", "1")
    page.locator("input[data-over]").fill("30")
    expect(over).to_have_css("opacity", "0.3")
    page.locator("input[data-over]").press("Home")
    expect(over).to_have_css("opacity", "0")


def test_the_slider_moves_by_finger_and_its_place_stays_for_the_next_part(line, people):
    page = people(line.cookies("anna"), **TABLET).new_page()
    first, second, *_ = line.rejects()
    page.goto(f"{line.url}/part/part-of-{first}")
    slider = page.locator("input[data-over]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + 4)  # anywhere in its height, not on its line
    expect(slider).to_have_value("25")
    expect(slider).to_have_attribute("aria-valuetext", "25 %")
    page.goto(f"{line.url}/part/part-of-{second}")
    expect(page.locator("img.over")).to_have_css("opacity", "0.25")
    page.get_by_label("Outlines of the regions").uncheck()
    expect(page.locator("img.outlines")).to_be_hidden()


def test_a_part_is_compared_with_good_parts_by_keyboard(line, people):
    page = people(line.cookies("anna"), **TABLET).new_page()
    page.goto(f"{line.url}/part/part-of-{line.rejects()[0]}")
    page.get_by_role("button", name="Compare with good parts").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("It is judged again.")
    expect(page.get_by_role("heading", name="Compared with good parts")).to_be_visible(timeout=LOOK_MS)
    for image in page.locator(".pair img").all():
        wait_for(lambda image=image: image.evaluate("image => image.complete && image.naturalWidth > 0"))
    expect(page.locator(".pair figcaption")).to_have_count(2)
    expect(page.locator("#look")).to_be_focused()
    assert violations(page) == []
    assert small_targets(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_rejects_are_judged_by_keyboard_and_the_last_one_is_taken_back(line, people):
    page = people(line.cookies("anna")).new_page()
    page.goto(f"{line.url}/review")
    part = page.locator("#review h2")
    job = page.locator("#review form:has(h2) input[name=job]")
    first, name = job.input_value(), part.inner_text()
    page.keyboard.press("g")
    expect(part).not_to_have_text(name)
    second = job.input_value()
    page.keyboard.press("1")
    expect(job).not_to_have_value(second)
    wait_for(lambda: line.judged(first) == ("good", None, "anna"))
    wait_for(lambda: line.judged(second) == ("defect", "scratch", "anna"))
    page.keyboard.press("z")
    expect(job).to_have_value(second)
    wait_for(lambda: line.judged(second) == ("withdrawn", None, "anna"))
    # A letter in a field is a letter, and no judgement.
    page.get_by_label("Kind of the defect").fill("")
    page.get_by_label("Kind of the defect").press_sequentially("dug")
    expect(job).to_have_value(second)
    page.get_by_role("button", name="Defect D", exact=True).click()
    wait_for(lambda: line.judged(second) == ("defect", "dug", "anna"))
    page.reload()
    assert job.input_value() not in (first, second)


def test_a_person_chooses_a_language_and_it_stays_and_logs_out(line, page):
    log_in(page, line, "anna", "/search")
    page.get_by_role("link", name="中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    page.goto(f"{line.url}/line")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    page.get_by_role("link", name="English").click()
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/plant/login"))
    page.goto(f"{line.url}/line")
    expect(page).to_have_url(f"{line.url}/login?to=/line")


def test_when_the_log_in_has_ended_pages_say_so_and_the_way_back_is_kept(line, people):
    context = people(line.cookies("anna"))
    live, review = context.new_page(), context.new_page()
    live.goto(f"{line.url}/line")
    expect(live.locator("#processes .result")).not_to_have_count(0)
    review.goto(f"{line.url}/review?line=l1")
    line.end_log_ins()
    review.keyboard.press("u")
    expect(review).to_have_url(re.compile(r"/plant/login\?to=/review"))
    review.get_by_label("Name").fill("anna")
    expect(live.locator("#live-problem")).to_have_text("The log-in has ended. Log in again.")


@pytest.fixture(scope="module")
def views(line, browser):
    """Pages of an administrator and of nobody, in each of `VIEWS`."""
    people = People(browser)
    cookies = line.cookies("mei")
    yield [(view, people(cookies, **view).new_page(), people(**view).new_page()) for view in VIEWS]
    assert people.close() == []


def _path(line, route):
    """The path of a page with the names that this line has."""
    job = line.rejects()[0]
    names = {"name": f"part-of-{job}", "job": job, "kind": "image", "category": "brick", "version": line.version}
    names |= line.lessons
    if route.startswith("/static/"):
        names["name"] = "console.css"
    unknown = set(re.findall(r"{(\w+)", route)) - names.keys()
    assert not unknown, f"say in _path what {unknown} are, so that {route} is tested"
    return re.sub(r"{(\w+)[^}]*}", lambda found: names[found[1]], route)


def _is_page(line, path):
    """Return True if an answer is a page of its own: no picture, file, stream, or other page."""
    cookies = {one["name"]: one["value"] for one in line.cookies("mei")}
    with httpx.Client(cookies=cookies, timeout=30) as client, client.stream("GET", line.url + path) as answer:
        return "text/html" in answer.headers.get("content-type", "") and not answer.is_redirect


@pytest.mark.parametrize("route", [*(one.path for one in ROUTES if one.method == "GET"), *MORE_PATHS])
def test_axe_finds_nothing_and_fingers_find_all(line, views, route):
    path = _path(line, route)
    if not _is_page(line, path):
        return
    for view, of_person, of_nobody in views:
        page = of_nobody if route == "/login" else of_person
        page.goto(line.url + path)
        if route == "/line":
            expect(page.locator("#rejects img").first).to_be_visible()
        assert violations(page) == [], view
        assert small_targets(page) == [] or not view.get("has_touch"), view
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"wider than the screen: {view}"
        assert page.locator("html").get_attribute("lang") == view["locale"][:2]
