"""Somebody who tries Patchline: from the first log-in to a reviewed reject of an own part, in the browser alone."""

import re
import signal
from contextlib import ExitStack

import cv2
import pytest
from playwright.sync_api import expect

from tests.browser import browser, page, people, small_targets, violations
from tests.conftest import make_textures
from tests.console.test_up import OWN, Trial, folder

__all__ = ["browser", "folder", "page", "people"]
pytestmark = pytest.mark.timeout(900)
WAIT_MS = 240_000  # a busy machine fits a memory bank, which gives way to all others, and starts a worker


@pytest.fixture
def pictures(tmp_path):
    """Files of good parts to learn from, one more, and one with a scratch."""
    made = tmp_path / "pictures"
    make_textures(made, "brick.png")
    good = sorted((made / "train" / "good").glob("*.png"))
    return good, next((made / "test" / "good").glob("*.png")), next((made / "test" / "scratch").glob("*.png"))


class Newcomer:
    """Reads pages and clicks. Each method is one page."""

    def __init__(self, page):
        self.page = page
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)

    def click(self, role, name):
        self.page.get_by_role(role, name=name).click()

    def go(self, name):
        self.page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()

    def log_in(self, address, password):
        self.page.goto(address)
        self.page.get_by_label("Name").fill("admin")
        self.page.get_by_label("Password").fill(password)
        self.click("button", "Log in")
        self.page.get_by_label("Present password").fill(password)
        self.page.get_by_label("New password", exact=True).fill(OWN)
        self.page.get_by_label("New password once more").fill(OWN)
        self.page.locator("main").get_by_role("button", name="Change the password").click()

    def teach(self, good):
        self.go("Teach")
        self.click("button", "Begin a lesson")
        self.page.get_by_label("Pictures", exact=True).set_input_files(good)
        self.click("button", "Upload")
        self.click("button", "Make a version")
        outliers = self.page.get_by_text("do not look like the others")
        self.page.get_by_text("It judges nothing yet").or_(outliers).wait_for()
        if outliers.is_visible():  # what is ticked stays left out
            self.click("button", "Make a version")
            self.page.get_by_text("It judges nothing yet").wait_for()

    def activate(self):
        self.click("link", "Look at it under banks")
        self.click("link", "Activate: ")
        self.page.get_by_label("Why?").fill("the first one")
        self.click("button", "Activate a version")
        expect(self.page.get_by_text("The version is active.")).to_be_visible()

    def send(self, files):
        self.click("link", "Send pictures")
        self.page.get_by_label("Pictures", exact=True).set_input_files(files)
        self.click("button", "Send")


def test_a_newcomer_sees_a_reject_of_an_own_part_and_reviews_it(folder, page, pictures):
    good, right, scratched = pictures
    photo = folder.parent / "scratched.jpg"
    assert cv2.imwrite(str(photo), cv2.imread(str(scratched)))
    with ExitStack() as stack:
        trial = Trial(folder, stack)
        address = trial.wait_for(r"open (http\S+) in a browser")[1]
        somebody = Newcomer(page)
        somebody.log_in(address, trial.wait_for(r"name admin, password (\S+)")[1])
        somebody.teach(good)
        somebody.activate()
        somebody.send([right, photo])
        sent = page.locator("#sent li")
        expect(sent).to_have_count(2)
        expect(sent.nth(0)).to_contain_text(re.compile(rf"{right.stem}-[0-9a-f]{{8}}:\s+pass"))
        expect(sent.nth(1)).to_contain_text(re.compile(r"scratched-[0-9a-f]{8}:\s+(fail|doubtful)"))
        assert violations(page) == []
        assert small_targets(page) == []
        somebody.go("Line")
        expect(page.locator("#rejects a")).to_contain_text("scratched-")
        somebody.go("Review")
        expect(page.get_by_role("heading", level=2)).to_contain_text("scratched-")
        page.keyboard.press("d")
        expect(page.get_by_text("There is no reject left to judge.")).to_be_visible()
        code, _ = trial.end(signal.SIGTERM)
        assert code == 0, trial.said
