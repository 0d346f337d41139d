"""An engineer in the browser and a real worker: activate, a refusal, roll back, a shadow and its report, the plant."""

import json
import re
import shutil
from contextlib import ExitStack

import pytest

from patchline.banks import golden, store
from patchline.inspection.inspector import untimed
from patchline.protocol.messages import Thresholds
from patchline.services import server
from tests.console.test_console import PASSWORD, log_in
from tests.system import test_living_banks, test_replay, test_shadow
from tests.system.conftest import Line, records, wait_for
from tests.system.test_archive import start as start_archive
from tests.system.test_living_banks import activate, serves
from tests.system.test_shadow import archived, inspector_of, pictures

banks, crossed = test_living_banks.banks, test_shadow.crossed
pytestmark = pytest.mark.timeout(300)
PAGE = "/banks/brick"


@pytest.fixture
def line(plant, empty_servers, tmp_path):
    """A line with an archive, a store of banks, a console, and an engineer."""
    (port,) = server.free_ports(1)
    console = f"console: {{port: {port}, prefix: /plant}}\n"
    settings = test_replay.SETTINGS.replace("poll_s: 0.2", "poll_s: 60")  # the message is faster
    (tmp_path / "config.yaml").write_text(test_replay.CONFIG + settings + console)
    (tmp_path / "models").symlink_to((plant / "models").resolve())
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with ExitStack() as stack:
        line = Line(tmp_path, empty_servers, stack)
        line.url = f"http://127.0.0.1:{port}/plant"
        added = line.run(
            "console", "users", "add", "anna", "--role", "engineer", "--password-file", str(tmp_path / "password")
        )
        assert added.returncode == 0, added.err
        yield line


def unlike_its_golden_images(bank, folder):
    """A bank whose golden images have other scores on every worker."""
    shutil.copytree(bank, folder)
    manifest = store.load(folder).manifest
    store.replace_manifest(folder, manifest.model_copy(update={"thresholds": Thresholds(review=1.0, fail=2.0)}))
    recorded = json.loads((folder / golden.FILE).read_text())
    for image in recorded["images"]:
        image["scores"] = {name: 2 * score for name, score in image["scores"].items()}
    (folder / golden.FILE).write_text(json.dumps(recorded))
    return folder


def start_console(line):
    console = line.start("console")
    wait_for(lambda: server.responds(f"{line.url}/healthz") or console.poll() is not None)
    return console


class Engineer:
    """Somebody who is logged in, and acts by forms."""

    def __init__(self, line, stack):
        self.client = log_in(line, stack, "anna")

    def text(self, path=PAGE):
        """A page without its markup."""
        return " ".join(re.sub(r"<[^>]+>", " ", self.client.get(path).text).split())

    def act(self, act, version="", **fields):
        """Open the page of an act and confirm it. Return the page that follows."""
        page = self.client.get(f"{PAGE}/act?act={act}&version={version}").text
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        answer = self.client.post(f"{PAGE}/act", data=form | {"why": f"a test: {act}"} | fields)
        assert answer.status_code == 200, answer.text
        return answer.text

    def wait_to_read(self, pattern, path=PAGE):
        wait_for(lambda: re.search(pattern, self.text(path)))


def test_an_engineer_acts_in_the_browser_and_sees_what_the_worker_answers(
    line, plant, crossed, texture_folder, tmp_path
):
    assert line.run("banks", "init").returncode == 0
    broken = unlike_its_golden_images(crossed[1], tmp_path / "broken")
    first, second, refused = [test_replay.published(line, folder) for folder in (*crossed, broken)]
    activate(line, first)
    start_archive(line)
    worker = line.worker("--device", "cpu")
    console = start_console(line)
    name = rf"\S+:cpu:0:{worker.pid}"
    with ExitStack() as stack:
        anna = Engineer(line, stack)
        anna.wait_to_read(rf"{name} {first[:12]} serves it")
        assert "The version is active." in anna.act("activate", second)
        anna.wait_to_read(rf"{name} {second[:12]} serves it , \d{{4}}-")
        assert serves(worker) == second[:12]
        anna.act("activate", refused)
        anna.wait_to_read(rf"{name} {second[:12]} keeps its previous version : .*golden images")
        assert serves(worker) == second[:12]
        anna.act("rollback")
        anna.wait_to_read(rf"{name} {second[:12]} serves it")
        anna.act("rollback")
        anna.wait_to_read(rf"{name} {first[:12]} serves it")
        assert_the_report_names_what_differs(line, plant, anna, worker, crossed, (first, second), texture_folder)
        anna.act("end-shadow")
        anna.act("retire", refused)
        assert re.search(rf"{refused[:12]} retired", anna.text())
        assert worker.poll() is None
        assert line.metric(worker.metrics_port, "patchline_bank_switches_total") == 2
        assert_the_plant_is_known_after_a_restart(line, anna, worker, console, name)
    acts = [entry["act"] for entry in records(line.run("banks", "log", "brick").out) if entry.get("who") == "anna"]
    assert acts == ["activate", "activate", "rollback", "rollback", "shadow", "end-shadow", "retire"]
    assert line.run("console", "audit").out.count("  anna  bank activated  brick: ") == 2


def assert_the_report_names_what_differs(line, plant, anna, worker, crossed, versions, texture_folder):
    images, inspectors = pictures(texture_folder), [inspector_of(folder, plant) for folder in crossed]
    differ = set()
    for number, image in enumerate(images):
        one, other = (inspector.inspect(image, "image/png", untimed).decision for inspector in inspectors)
        if one is not other:
            differ.add(f"part-{number}")
    assert 0 < len(differ) < len(images)
    anna.act("shadow", versions[1], percent="100")
    anna.wait_to_read("judges by the shadow, too")

    def judged():
        return line.metric(worker.metrics_port, "patchline_shadow_judged_total")

    for number, image in enumerate(images):  # one at a time: none is skipped
        line.send(image, f"job-{number}", part_id=f"part-{number}")
        wait_for(lambda number=number: judged() == number + 1)
    wait_for(lambda: archived(line, "SELECT COUNT(*) FROM shadows") == [(len(images),)])
    page = anna.client.get(f"{PAGE}/report").text
    assert {part for part, _ in re.findall(r'/part/(part-\d+)\?job=(job-\d+)"', page)} == differ
    assert "McNemar's exact test: p = " in page
    rejected = re.findall(r'src="/plant(/picture/job-\d+/image)"', page)
    assert rejected, "rejects have pictures"
    assert anna.client.get(rejected[0]).headers["content-type"] == "image/png"


def assert_the_plant_is_known_after_a_restart(line, anna, worker, console, name):
    anna.wait_to_read(rf"l1 \d+ parts a minute; .*worker {name} works", "/plant")
    for process in (worker, console):
        process.terminate()
        assert process.wait(30) == 0
    start_console(line)
    anna.wait_to_read(
        rf"l1 .* Last verdict: part-\d+ .*worker {name} says nothing , \d+ (s|min); before: works", "/plant"
    )
