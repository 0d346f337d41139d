"""A day of two people in the browser, while a line runs: from the first reject to a new category that is promoted."""

import itertools
import re
import shutil
import threading
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from patchline.publisher.client import Client
from patchline.publisher.job_state import JobState
from tests.browser import browser, page, people
from tests.conftest import make_textures
from tests.console.console_line import ConsoleLine, log_in
from tests.system import gates
from tests.system.conftest import delete_queues, wait_for

__all__ = ["browser", "page", "people"]
pytestmark = pytest.mark.timeout(900)
NEW = "brick_two"
PAUSE_S = 0.4  # between the parts of the line
FIT_MS = 240_000  # a fit gives way to all other processes

expect.set_options(timeout=30_000)


@pytest.fixture
def line(plant, servers, tmp_path, monkeypatch):
    """A line whose banks are in a store, with a worker, a gate with its arm, an archive and a console."""
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    with (folder / "config.yaml").open("a") as file:
        file.write(f"banks: {{store: '{tmp_path / 'store'}', poll_s: 1, new_categories_like: brick}}\n")
    delete_queues(servers.amqp_url)
    monkeypatch.setenv("PATCHLINE_AMQP_URL", servers.amqp_url)
    with ExitStack() as stack:
        line = ConsoleLine(folder, servers, stack)
        assert line.run("banks", "init").returncode == 0
        published = line.run("banks", "publish", "brick", "--why", "a test")
        version = re.search(r"is version (\w+)", published.out)[1]
        assert line.run("banks", "activate", "brick", version[:8], "--why", "a test").returncode == 0
        line.begin()
        line.arm = gates.Arm(tmp_path / "arms", "arm")
        line.gate = gates.start(line, line.arm, tmp_path)
        wait_for(lambda: gates.is_serving(line.gate))
        yield line


class Camera(threading.Thread):
    """Sends good parts without a pause until the end of the block."""

    def __init__(self, line, images):
        super().__init__()
        self._line, self._images, self._ended = line, images, threading.Event()
        self.accepted = set()

    def run(self):
        with Client.connect(self._line.folder / "config.yaml", "l1", "brick", self._note) as client:
            number = 0
            while not self._ended.wait(PAUSE_S):
                client.send(self._images[number % len(self._images)].read_bytes(), f"good-{number}", deadline_ms=60_000)
                number += 1

    def _note(self, job_id, state, _):
        if state == JobState.CONFIRMED:
            self.accepted.add(job_id)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join(60)


def call_good(page, line, job):
    """Say of the part on the page that it is good."""
    page.get_by_role("button", name="Good G", exact=True).click()
    expect(page.get_by_role("status").first).to_contain_text("Sent: good")
    wait_for(lambda: line.judged(job) == ("good", None, "erik"))


def overrule_the_next_reject(page, line, scratch):
    """See a reject on the page of the line, and overrule it."""
    page.goto(f"{line.url}/line")
    expect(page.locator("#processes .result.pass").first).to_be_visible()
    ((job, record),) = line.inspect([scratch]).items()
    page.locator(f'#rejects a[href*="job={job}"] img').wait_for()
    assert record.decision != "pass"
    page.locator(f'#rejects a[href*="job={job}"]').click()
    call_good(page, line, job)


def see_the_over_kill_change(page, line):
    """It is unknown until a part that passed is labelled, too."""
    page.goto(f"{line.url}/category/brick")
    expect(page.locator("#over-kill")).to_have_text("–")
    page.goto(f"{line.url}/search?decision=pass")
    page.locator("main table a").first.click()
    call_good(page, line, page.locator("input[name=job]").first.input_value())
    page.goto(f"{line.url}/category/brick")
    expect(page.locator("#over-kill")).to_contain_text("50 % (")


def change_thresholds(page, line):
    """Drag a threshold down to the end, make that a version, activate it, and roll it back."""
    page.get_by_role("slider", name=re.compile("Doubtful from")).press("Home")
    expect(page.locator("#over-kill")).to_contain_text("100 % (")
    making = page.locator("form", has=page.get_by_role("button", name="Make the version"))
    making.get_by_label("Why?").fill("a day")
    making.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("Nothing serves it")
    for button in ("Activate", "Roll back"):
        form = page.locator("form", has=page.get_by_role("button", name=button, exact=True))
        form.get_by_label("Why?").fill("a day")
        with page.expect_response(lambda answer: answer.request.method == "POST"):
            form.get_by_role("button").click()
        expect(page.get_by_role("status")).to_contain_text("Workers were told")


def teach(page, line, good):
    """Teach the new category from pictures in the browser. Return to its banks, with one version more."""
    page.goto(f"{line.url}/teach")
    page.get_by_label("Category").fill(NEW)
    page.get_by_role("button", name="Begin a lesson").click()
    page.get_by_label("Pictures", exact=True).set_input_files(good)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("status")).to_contain_text(f"{len(good)} pictures were added.")
    page.get_by_role("button", name="Make a version").click()
    made = page.get_by_text(re.compile("Version .* was made"))
    outliers = page.get_by_text("do not look like the others")
    expect(made.or_(outliers)).to_be_visible(timeout=FIT_MS)
    if outliers.is_visible():  # none is odd: all are left in
        for box in page.get_by_role("checkbox", name="leave out").all():
            box.uncheck()
        page.get_by_role("button", name="Make a version").click()
    expect(made).to_be_visible(timeout=FIT_MS)
    page.get_by_role("link", name=re.compile("Look at it under banks")).click()


def act_on_the_latest(page, what):
    """Press a button of the version that was made last, and confirm."""
    page.get_by_role("link", name=re.compile(f"^{what}: ")).first.click()
    page.get_by_label("Why?").fill("a day")
    page.locator("main form button").click()


def send_new(line, images, first):
    jobs = [f"new-{first + number}" for number in range(len(images))]
    for job, image in zip(jobs, images, strict=True):
        line.send(image.read_bytes(), job, key=f"l2.{NEW}", line="l2", category=NEW, part_id=job)
    wait_for(lambda: set(jobs) <= line.archived().keys())
    return [line.archived()[job] for job in jobs]


def test_a_day_in_the_browser_from_the_first_reject_to_a_new_category(line, people, texture_folder, tmp_path):
    make_textures(tmp_path / "pictures", "brick.png", count=60)
    good = sorted((tmp_path / "pictures" / "train" / "good").glob("*.png"))
    scratches = sorted((texture_folder / "test" / "scratch").glob("*.png"))
    page = people().new_page()
    with Camera(line, sorted((texture_folder / "test" / "good").glob("*.png"))) as camera:
        log_in(page, line, "erik")
        overrule_the_next_reject(page, line, scratches[0])
        see_the_over_kill_change(page, line)
        change_thresholds(page, line)
        teach(page, line, good[:24])
        act_on_the_latest(page, "Activate")
        wait_for(lambda: line.metric(line.judge.metrics_port, "patchline_category_ready") == 2)
        first = {verdict.bank_version for verdict in send_new(line, good[-2:], 0)}
        teach(page, line, good[:30])
        act_on_the_latest(page, "As a shadow")
        page.get_by_role("link", name="Report of the shadow").click()
        nothing = page.get_by_text("The archive has no part of this time that the shadow has judged.")
        expect(nothing).to_be_visible()
        numbers = itertools.count(10)
        while nothing.is_visible():  # a shadow judges no image while its worker is busy
            (verdict,) = send_new(line, [scratches[1]], next(numbers))
            assert {verdict.bank_version} == first
            page.reload()
        expect(page.locator("main table").first).to_be_visible()
        page.go_back()
        act_on_the_latest(page, "Activate")
        wait_for(lambda: {one.bank_version for one in send_new(line, good[-1:], next(numbers))} != first)
        wait_for(lambda: len(camera.accepted) > 20)
    assert line.judge.poll() is None
    wait_for(lambda: camera.accepted <= line.arm.job_ids())
    assert camera.accepted <= line.archived().keys()
    acts = {act["action"] for act in line.arm.acts() if act["job_id"] in camera.accepted}
    assert "accept" in acts
