"""A threshold that is dragged in the browser becomes a version, and a worker that goes on judges by it."""

import re
import shutil
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from tests.browser import browser, page, people
from tests.console.console_line import ConsoleLine
from tests.system.conftest import delete_queues, wait_for

__all__ = ["browser", "page", "people"]
pytestmark = pytest.mark.timeout(240)
TRIES = 60  # parts that are judged until a worker has switched
expect.set_options(timeout=20_000)


@pytest.fixture
def line(plant, servers, tmp_path):
    """A line whose banks are in a store; the bank of the plant is active."""
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    with (folder / "config.yaml").open("a") as file:
        file.write(f"banks: {{store: '{tmp_path / 'store'}', poll_s: 60}}\n")  # the message must be faster
    delete_queues(servers.amqp_url)
    with ExitStack() as stack:
        line = ConsoleLine(folder, servers, stack)
        assert line.run("banks", "init").returncode == 0
        published = line.run("banks", "publish", "brick", "--why", "a test")
        line.first = re.search(r"is version (\w+)", published.out)[1]
        assert line.run("banks", "activate", "brick", line.first[:8], "--why", "a test").returncode == 0
        line.begin()
        yield line


def judged_by(line, image, version):
    """Have an image judged until it is by a version. Return its verdict."""
    for _ in range(TRIES):
        (found,) = line.inspect([image]).values()
        if found.bank_version.startswith(version):
            return found
    return pytest.fail(f"the worker does not judge by {version}")


def label(line, said):
    """Have people's judgements on jobs archived."""
    for job, word in said.items():
        assert line.run("archive", "judge", job, word, "--by", "anna").returncode == 0
        wait_for(lambda job=job: line.judged(job))


def drag_to_the_left(page):
    """Take the lower threshold by its handle to the left end of the histogram."""
    handle = page.locator('[data-limit="review"] circle').bounding_box()
    field = page.locator("#histogram").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(field["x"] + 20, handle["y"], steps=8)
    page.mouse.up()


def confirm(page, button, why, done):
    """Give the reason in the form of a button, and press it."""
    form = page.locator("form", has=page.get_by_role("button", name=button, exact=True))
    form.get_by_label("Why?").fill(why)
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        form.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text(done)


def test_a_threshold_is_dragged_made_a_version_activated_while_the_worker_judges_and_rolled_back(
    line, people, texture_folder
):
    good, scratches = (sorted((texture_folder / "test" / kind).glob("*.png")) for kind in ("good", "scratch"))
    first = line.inspect([*good[:4], *scratches[:3]])
    passed = [job for job, one in first.items() if one.decision == "pass"]
    rejected = [job for job, one in first.items() if one.decision != "pass"]
    before, image = first[passed[0]], good[int(passed[0].removeprefix("job-"))]
    label(line, {passed[0]: "good", rejected[0]: "defect"})

    page = people(line.cookies("erik")).new_page()
    page.goto(f"{line.url}/category/brick")
    released, caught = (page.locator(f'[data-row="{row}"] td').last for row in ("released", "caught"))
    expect(caught).to_have_text("0")
    expect(page.locator("#over-kill")).to_contain_text("0 % (0")
    drag_to_the_left(page)
    expect(caught).to_have_text(str(len(passed)))
    expect(released).to_have_text("0")
    expect(page.locator("#over-kill")).to_contain_text("100 % (")
    slider = page.get_by_role("slider", name=re.compile("Doubtful from"))
    dragged = float(page.locator("#review").input_value())
    slider.press("ArrowRight")
    limit = float(page.locator("#review").input_value())
    assert 0 < dragged < limit < before.score
    confirm(page, "Make the version", "misses of week 48", "Nothing serves it")
    made = page.locator("#version").input_value()
    assert made != line.first
    assert judged_by(line, image, line.first).review_threshold == before.review_threshold

    confirm(page, "Activate", "looked at", "Workers were told")
    verdict = judged_by(line, image, made)
    assert (verdict.review_threshold, verdict.fail_threshold) == (limit, before.fail_threshold)
    assert (verdict.decision, verdict.score) == ("review", before.score)
    assert (verdict.memory_bank, verdict.worker) == (before.memory_bank, before.worker)  # the same rows and process

    confirm(page, "Roll back", "too many reviews", "Workers were told")
    verdict = judged_by(line, image, line.first)
    assert (verdict.decision, verdict.review_threshold) == ("pass", before.review_threshold)
    assert line.judge.poll() is None
    entries = line.run("console", "audit", "--most", "3").out
    for what in ("bank rolled back", "bank activated", "thresholds set"):
        assert re.search(rf"erik.*{what}|{what}.*erik", entries), entries
    log = line.run("banks", "log", "brick").out
    assert '"who":"erik"' in log.replace(" ", "")
