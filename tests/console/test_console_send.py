"""*Send pictures* in Chromium, with a publisher that takes them: it ends, people press twice, go back, and read."""

import re
import shutil
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
from playwright.sync_api import expect

from patchline.broker.base import Message
from patchline.broker.rabbitmq import RabbitBroker
from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.protocol import topology
from patchline.protocol.status_message import STATUS_TYPE, Status
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests.browser import DESK, TABLET, browser, people, violations
from tests.console.console_line import ConsoleLine
from tests.system.conftest import delete_queues, wait_for

__all__ = ["browser", "people"]
pytestmark = pytest.mark.timeout(240)
WAIT_MS = 60_000  # a busy machine
HEARD_S = 30.0  # likewise

expect.set_options(timeout=WAIT_MS)


class SendingLine(ConsoleLine):
    """A line whose publisher takes what people hand to it, and can be ended."""

    def begin(self):
        super().begin()
        self.begin_publisher()

    def begin_publisher(self):
        """Start the publisher, and wait until it takes pictures."""
        (port,) = server.free_ports(1)
        words = ("--line", "l1", "--watch", "--hand-in", "--metrics-port", str(port))
        self.publisher = self.start("publish", *words, str(self.folder / "handed-in"))
        wait_for(lambda: server.responds(f"http://127.0.0.1:{port}/readyz"))

    def end_publisher(self):
        self.publisher.terminate()
        self.publisher.wait(HEARD_S)

    @contextmanager
    def hung_publisher(self):
        """Let the console hear a publisher that takes nothing, however slow this machine is."""
        ended = threading.Event()
        thread = threading.Thread(target=self._say_alive, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _say_alive(self, ended):
        with RabbitBroker(self._url) as broker:
            while not ended.wait(0.3):
                common = {"role": "publisher", "name": "hung", "host": "hung", "state": "serving", "since": now_ms()}
                status = Status(**common, line="l1", sent_at=now_ms(), hand_in=True)
                message = Message(status.to_json(), None, STATUS_TYPE, "application/json")
                broker.publish(topology.STATUS, status.routing_key, message, mandatory=False)

    def handed(self):
        """The ids of the parts whose pictures were handed to the line."""
        return {path.stem for path in (self.folder / "handed-in").glob("l1/*/*")}

    def sendings(self):
        """What the audit log says of pictures that were sent, the latest first."""
        with closing(ConsoleDatabase(self.settings.console.database, now_ms)) as database:
            return [one for one in audit.latest(database, 100) if one.what == "pictures sent"]


@pytest.fixture(scope="module")
def line(plant, servers, tmp_path_factory):
    folder = shutil.copytree(plant, tmp_path_factory.mktemp("send") / "plant", symlinks=True)
    delete_queues(servers.amqp_url)
    with ExitStack() as stack:
        line = SendingLine(folder, servers, stack)
        line.begin()
        yield line


@pytest.fixture(scope="module")
def pictures(texture_folder):
    """A picture of a good part, and one of a scratched one."""
    return [min((texture_folder / "test" / kind).glob("*.png")) for kind in ("good", "scratch")]


def open_form(page, line):
    """Open the page. It shows its form once the publisher and the worker are heard."""
    page.set_default_timeout(WAIT_MS)
    wait_for(lambda: page.goto(f"{line.url}/line/send") and page.locator("#files").count(), HEARD_S)
    return page


def choose(page, files):
    page.locator("#files").set_input_files(files)
    return page.locator("form[enctype] button")


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_double_click_sends_each_picture_once(line, people, pictures, scripts):
    page = open_form(people(line.cookies("erik"), java_script_enabled=scripts).new_page(), line)
    before, entries = line.handed(), len(line.sendings())
    choose(page, pictures).dblclick()
    expect(page.locator("#sent li")).to_have_count(2)
    new = line.handed() - before
    assert {re.split(r"[\s:]", one)[0] for one in page.locator("#sent li").all_inner_texts()} == new
    assert (len(new), len(line.sendings()) - entries) == (2, 1)
    wait_for(lambda: {record.part_id for record in line.archived().values()} >= new)


def test_a_publisher_that_ends_while_pictures_are_sent_takes_them_once_it_runs_again(line, people, pictures):
    context = people(line.cookies("erik"))
    page, second = (open_form(context.new_page(), line) for _ in range(2))
    before = line.handed()
    with line.hung_publisher():
        line.end_publisher()
        choose(page, pictures).click()
        expect(page.locator("#sent li")).to_have_text([re.compile("on its way")] * 2)
    parts = line.handed() - before
    assert len(parts) == 2

    third = context.new_page()  # no publisher is heard any more
    third.goto(f"{line.url}/line/send")
    wait_for(lambda: third.reload() and third.get_by_text("can be heard. With patchline up").count(), HEARD_S)
    choose(second, pictures).click()
    problem = second.locator(".problem")
    expect(problem).to_contain_text("Nothing was sent. Look at the page Plant, and send again once a publisher can be")
    assert line.handed() - before == parts

    line.begin_publisher()
    expect(page.locator("#sent li a")).to_have_count(2)
    expect(third.locator("#files")).to_be_visible()
    verdicts = [record for record in line.archived().values() if record.part_id in parts]
    assert sorted(record.part_id for record in verdicts) == sorted(parts)


def test_who_looks_at_a_sent_part_comes_back_to_all_of_them_and_sends_nothing_again(line, people, pictures, tmp_path):
    (tmp_path / "note.txt").write_text("no picture")
    page = open_form(people(line.cookies("erik")).new_page(), line)
    before = line.handed()
    choose(page, [*pictures, tmp_path / "note.txt"]).click()
    expect(page.locator("#sent li a")).to_have_count(2)
    page.locator("#sent li a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Part ")
    page.go_back()
    for act in (lambda: None, page.reload, page.get_by_role("link", name="Deutsch").click):
        act()
        expect(page.locator("#sent li a")).to_have_count(2)
        expect(page.locator(".problem li")).to_contain_text("note.txt")
    expect(page.locator("html")).to_have_attribute("lang", "de")
    assert len(line.handed() - before) == 2


@pytest.mark.parametrize("view", [DESK, TABLET, TABLET | {"locale": "zh-CN"}], ids=["desk", "tablet", "Chinese"])
def test_long_and_chinese_names_are_shown_and_fit_the_screen(line, people, pictures, view):
    page = open_form(people(line.cookies("erik"), **view).new_page(), line)
    body = pictures[0].read_bytes()
    named = {"x" * 230 + ".png": body, "裂纹左边.png": body, "y" * 240 + ".png": b"none", "裂" * 80 + ".png": b"none"}
    choose(page, [{"name": name, "mimeType": "image/png", "buffer": one} for name, one in named.items()]).click()
    expect(page.locator("#sent li a")).to_have_count(2)
    shown = page.locator("main").inner_text()
    assert [name for name in named if name not in shown] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert violations(page) == []


def test_an_account_with_the_longest_name_fits_a_tablet(line, people):
    name = "n" * 63
    words = ("--role", "see", "--password-file", str(line.folder / "password"))
    assert line.run("console", "users", "add", name, *words).returncode == 0
    page = people(line.cookies("mei"), **TABLET).new_page()
    page.goto(f"{line.url}/accounts?name={name}")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
