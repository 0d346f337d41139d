"""Heat maps of a real worker in the console: rejects as they come, and passed parts by replay in a child process."""

import re
import shutil
import statistics
import threading
import time
from contextlib import ExitStack, closing

import httpx2 as httpx
import pytest

from patchline.archive import opening
from patchline.archive.picture_table import PictureTable
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests import children, held_file
from tests.conftest import CONFIG
from tests.console.test_console import PASSWORD, Listener, log_in
from tests.system.conftest import Line, wait_for
from tests.system.test_archive import start

pytestmark = pytest.mark.timeout(900)
REJECTS = 12
SETTINGS = """
archive: {batch: 20, batch_ms: 20, pictures: {decisions: [fail, review], pass_share: 1.0, min_free_bytes: 0}}
"""
LOOK_S = 200.0  # a look gives way to all other processes
LOOKS = ("-m", "patchline.operations.look_child")  # of the command of a closer look


@pytest.fixture
def line(plant, empty_servers, tmp_path):
    """A line whose worker draws a heat map of each part, and keeps all pictures in the archive."""
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    (port,) = server.free_ports(1)
    worker = CONFIG.replace("worker: {", "worker: {pictures: all, ")
    (folder / "config.yaml").write_text(worker + SETTINGS + f"console: {{port: {port}}}\n")
    (folder / "password").write_text(PASSWORD + "\n")
    with ExitStack() as stack:
        line = Line(folder, empty_servers, stack)
        line.url = f"http://127.0.0.1:{port}"
        yield line


@pytest.fixture
def client(line):
    """Somebody who has logged in to the console of the line, while everything runs."""
    start(line)
    words = ("--role", "see", "--password-file", str(line.folder / "password"))
    assert line.run("console", "users", "add", "anna", *words).returncode == 0
    line.console = line.start("console")
    line.worker("--device", "cpu")
    wait_for(lambda: server.responds(f"{line.url}/healthz") or line.console.poll() is not None)
    with ExitStack() as stack:
        yield log_in(line, stack, "anna")


class Watcher(Listener):
    """A browser with the page of the line: it asks for the heat map of each reject, as the script of the page does."""

    def __init__(self, client):
        self.seen = {}  # when the heat map was there, in epoch milliseconds
        super().__init__(client)
        self._client = client
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while len(self.seen) < REJECTS:
            for job in [job for job in list(self.parts) if job not in self.seen]:
                if self._client.get(f"/picture/{job}/heat_map").status_code == 200:
                    self.seen[job] = now_ms()
            time.sleep(0.02)


def look_at(client, job):
    """Ask for a closer look, as the page does, and return the page with what it shows."""
    page = client.get(f"/part/{job}").text
    form = {"csrf": re.search(r'name="csrf" value="([^"]+)"', page)[1]}
    assert "It is judged again." in client.post(f"/look/{job}", data=form, headers={"hx-request": "true"}).text
    wait_for(lambda: "It is judged again." not in client.get(f"/part/{job}").text, LOOK_S)
    return client.get(f"/part/{job}").text


def forget_heat_map(line, job):
    """Delete the heat map of a job from the archive, as its retention does."""
    with closing(opening.open_archive(line.settings)) as archive:
        pictures = PictureTable(archive)
        rows = [row for row in pictures.of_job(job) if row.kind == "heat_map"]
        pictures.end_removal(pictures.begin_removal(rows))


def child_of(line):
    """Wait for the process that computes a closer look, and return it."""
    wait_for(lambda: children.living(line.console.pid, *LOOKS))
    (child,) = children.living(line.console.pid, *LOOKS)
    return child


def test_heat_maps_of_rejects_come_at_once_and_those_of_passed_parts_by_replay(line, client, texture_folder):
    watcher = Watcher(client)
    wait_for(lambda: watcher.states)
    scratched = sorted((texture_folder / "test" / "scratch").iterdir())
    decided = {}
    for number in range(REJECTS):
        job = f"reject-{number}"
        line.send(scratched[number % len(scratched)].read_bytes(), job, part_id=job)
        wait_for(lambda job=job: job in watcher.seen)
    with closing(opening.open_archive(line.settings)) as archive:
        decided = {job: archive.get(job).decided_at for job in watcher.seen}
    late = sorted(at - decided[job] for job, at in watcher.seen.items())
    assert statistics.median(late) < 1_000, late

    good = min((texture_folder / "test" / "good").iterdir())
    line.send(good.read_bytes(), "passed", part_id="passed")
    wait_for(lambda: client.get("/picture/passed/heat_map").status_code == 200)
    stored = client.get("/picture/passed/heat_map").content
    forget_heat_map(line, "passed")
    page = client.get("/part/passed").text
    assert "Show its heat map, and compare with good parts" in page
    page = look_at(client, "passed")
    assert 'src="/look/passed/heat_map"' in page
    assert "Judged again, it has the same score." in page
    assert client.get("/look/passed/heat_map").content == stored
    assert re.search(r"The nearest good patch, of \d+\.png: x \d+, y \d+, 8 × 8 pixels", page)
    look_at(client, "reject-0")
    stored = client.get("/picture/reject-0/heat_map").content
    assert client.get("/look/reject-0/heat_map").content == stored

    form = {"csrf": re.search(r'name="csrf" value="([^"]+)"', page)[1]}
    model = held_file.hold_the_model(line.folder)  # a look loads it
    client.post("/look/reject-1", data=form)
    child = child_of(line)
    wait_for(lambda: child.nice() == 19)
    model.release()
    (line.folder / "faiss-index-precision" / "brick").rename(line.folder / "elsewhere")
    page = look_at(client, "reject-2")
    assert "The memory bank that judged it is missing." in page
    assert "is not in" in page
    (line.folder / "elsewhere").rename(line.folder / "faiss-index-precision" / "brick")
    model = held_file.hold_the_model(line.folder)
    client.post("/look/reject-3", data=form)
    child = child_of(line)
    line.console.kill()
    wait_for(lambda: not children.is_alive(child))
    model.release()
    with pytest.raises(httpx.HTTPError):
        client.get("/line")
