"""A category that is taught in the browser, with real processes: uploads, outliers, a fit, a version."""

import os
import re
import shutil
import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchline.archive import opening as archive_opening
from patchline.archive.database import Access
from patchline.banks import opening
from patchline.console import words
from patchline.services import server
from tests import children, held_file
from tests.conftest import CONFIG, make_textures
from tests.console.test_console import PASSWORD, log_in
from tests.system.conftest import Line, wait_for
from tests.system.test_archive import start

pytestmark = pytest.mark.timeout(900)
FIT_S = 240  # a fit gives way to all other processes, also to those of other tests
NEW = "brick_two"  # the configuration does not name it
FITS = ("-m", "patchline.console.fitting")  # of the command of a fit


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The files of 24 good pictures, of which one stands out, and of four defects."""
    folder = tmp_path_factory.mktemp("pictures")
    make_textures(folder, "brick.png")
    good = {path.name: path.read_bytes() for path in sorted((folder / "train" / "good").glob("*.png"))[:23]}
    odd = cv2.imread(str(folder / "train" / "good" / "023.png"))
    cv2.circle(odd, (64, 64), 30, (0, 255, 0), -1)
    good["odd.png"] = cv2.imencode(".png", odd)[1].tobytes()
    defects = {path.name: path.read_bytes() for path in sorted((folder / "test" / "scratch").glob("*.png"))[:4]}
    return good, defects


@pytest.fixture
def line(empty_servers, tmp_path, plant):
    """A line with a store of banks, whose archive and console run. It has a bank of the category `brick`."""
    (port,) = server.free_ports(1)
    banks = f"banks: {{store: '{tmp_path / 'store'}', poll_s: 0.2, new_categories_like: brick}}\n"
    (tmp_path / "config.yaml").write_text(CONFIG + banks + f"console: {{port: {port}}}\n")
    (tmp_path / "models").symlink_to(Path("models").resolve())
    shutil.copytree(plant / "faiss-index-precision", tmp_path / "faiss-index-precision")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with ExitStack() as stack:
        line = Line(tmp_path, empty_servers, stack)
        line.url = f"http://127.0.0.1:{port}"
        assert line.run("banks", "init").returncode == 0
        start(line)
        account = ("console", "users", "add", "anna", "--role", "engineer")
        assert line.run(*account, "--password-file", str(tmp_path / "password")).returncode == 0
        line.console = start_console(line)
        yield line


def start_console(line):
    console = line.start("console")
    wait_for(lambda: server.responds(f"{line.url}/healthz") or console.poll() is not None)
    return console


class Lesson:
    """A lesson in the browser of an engineer."""

    def __init__(self, client, category):
        self.client = client
        self.csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/teach").text)[1]
        answer = client.post("/teach", data={"csrf": self.csrf, "category": category})
        self.path = answer.url.path

    def send(self, files, **fields):
        form = {"csrf": self.csrf, "label": "good"} | fields
        return self.client.post(self.path, data=form, files=[("files", file) for file in files.items()]).text

    def fit(self, **form):
        return self.client.post(f"{self.path}/fit", data={"csrf": self.csrf} | form).text

    def follow(self):
        """Look at the page until the fit has ended. Return what was shown, and the last page."""
        shown, deadline = [], time.monotonic() + FIT_S
        while True:
            page = self.client.get(self.path).text
            if 'hx-trigger="every 1s"' not in page:
                return shown, page
            progress = re.search(
                r'<p role="status">([^<]+)</p>.*?(?:value="(\d+)" max="(\d+)")?></progress>', page, re.S
            )
            shown.append(progress.groups())
            assert time.monotonic() < deadline
            time.sleep(0.1)


def child_that_fits(line):
    """Wait for the process that fits, and return it."""
    wait_for(lambda: children.living(line.console.pid, *FITS))
    (child,) = children.living(line.console.pid, *FITS)
    return child


def upload(lesson, good, defects):
    page = lesson.send(good | {"note.txt": b"no picture"})
    assert "24 pictures were added." in page
    assert "note.txt" in page
    assert "Defects: 4" in lesson.send(defects, label="defect", kind="scratch")


def see_the_outlier(lesson):
    """A first fit ends with the picture that stands out."""
    lesson.fit()
    shown, page = lesson.follow()
    assert {step for step, _, _ in shown} <= {*words.STEPS.values()}
    assert re.findall(r'name="seen" value="([^"]+)"', page) == ["odd.png"]
    tile = lesson.client.get(re.search(r'src="([^"]+/tile/[^"]+)"', page)[1])
    assert cv2.imdecode(np.frombuffer(tile.content, np.uint8), cv2.IMREAD_COLOR).shape == (128, 128, 3)


def kill_the_fit(line, lesson):
    """A fit, which is held where it loads its model, is killed."""
    lesson.fit(seen="odd.png", leave="odd.png")
    assert "being fitted" in lesson.client.get("/teach").text
    child = child_that_fits(line)
    wait_for(lambda: child.nice() == 19)  # it says so itself, as soon as it runs
    child.send_signal(signal.SIGKILL)
    _, page = lesson.follow()
    assert "was ended by SIGKILL" in page


def kill_the_console(line, lesson):
    """A fit, which is held, too, ends with its console, and the next console says so."""
    lesson.fit(seen="odd.png", leave="odd.png")
    child = child_that_fits(line)
    os.kill(line.console.pid, signal.SIGKILL)
    line.console.wait(10)
    child.wait(20)
    line.console = start_console(line)
    assert "the console ended meanwhile" in lesson.client.get(lesson.path).text


def make_the_version(lesson, versions):
    """Fit without the outlier. Return the version, which nothing serves yet."""
    lesson.fit(leave="odd.png")
    _, page = lesson.follow()
    state = versions.state(NEW)
    (version,) = [record.version for record in state.published]
    assert f"Version {version[:12]} was made. It judges nothing yet." in page
    assert page.count('<circle class="good"') == 23
    assert page.count('<circle class="bad"') == 4
    assert "AUROC, with held-out good pictures" in page
    assert (state.active, state.published[0].who) == (None, "anna")
    manifest = versions.manifest(NEW, version)
    assert (manifest.good_images, manifest.left_out, manifest.category) == (23, ("odd.png",), NEW)
    return version


def test_a_new_category_is_taught_in_the_browser(line, pictures):
    good, defects = pictures
    versions = opening.versions(line.settings)
    worker = line.worker("--device", "cpu")
    with ExitStack() as stack:
        lesson = Lesson(log_in(line, stack, "anna"), NEW)
        upload(lesson, good, defects)
        see_the_outlier(lesson)
        model = held_file.hold_the_model(line.folder)
        kill_the_fit(line, lesson)
        kill_the_console(line, lesson)
        model.release()
        assert versions.state(NEW).published == ()
        version = make_the_version(lesson, versions)
        assert not (line.settings.paths.memory_banks / NEW).exists()
    assert line.run("banks", "activate", NEW, version[:12], "--why", "a test").returncode == 0
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_category_ready") == 2)
    odd, usual = good.pop("odd.png"), good.popitem()[1]
    for category, job, picture in ((NEW, "job-1", usual), (NEW, "job-2", odd), ("brick", "job-3", usual)):
        line.send(picture, job, key=f"l1.{category}", category=category)
    with closing(archive_opening.open_archive(line.settings, Access.READ)) as archive:
        wait_for(lambda: all(archive.get(f"job-{number}") for number in (1, 2, 3)))
        verdicts = [archive.get(f"job-{number}") for number in (1, 2, 3)]
    assert [verdict.category for verdict in verdicts] == [NEW, NEW, "brick"]
    assert [verdict.bank_version == version for verdict in verdicts] == [True, True, False]
    assert [verdict.decision for verdict in verdicts[:2]] == ["pass", "fail"]
    assert worker.poll() is None
    wait_for(lambda: "serving" in line.run("banks", "log", NEW).out)
    entries = line.run("console", "audit", "--most", "20").out
    assert [entries.count(what) for what in ("fit started", "bank version made", "pictures added")] == [4, 1, 2]
