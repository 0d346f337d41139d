"""The console's process on a real RabbitMQ with a real archive, as a person meets it."""

import io
import json
import re
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2 as httpx
import pypdf
import pytest

from patchline.archive import opening
from patchline.archive.database import Access
from patchline.protocol import topology
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests.archive_contract import message
from tests.conftest import CONFIG
from tests.console.web_client import web_client
from tests.picture_contract import picture
from tests.system.conftest import Line, wait_for
from tests.system.test_archive import is_ready, start

pytestmark = pytest.mark.timeout(180)
PASSWORD = "a password of a person"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def line(empty_servers, tmp_path):
    """A line whose archive and console run; the test is worker and camera."""
    (port,) = server.free_ports(1)
    console = f"console: {{port: {port}, prefix: /plant}}\n"
    (tmp_path / "config.yaml").write_text(CONFIG + "archive: {batch: 20, batch_ms: 20}\n" + console)
    (tmp_path / "models").symlink_to(Path("models").resolve())
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with ExitStack() as stack:
        line = Line(tmp_path, empty_servers, stack)
        line.url = f"http://127.0.0.1:{port}/plant"
        yield line


def publish(line, job_id, decision="fail", **changes):
    now = now_ms()
    verdict = message(job_id, decision=decision, captured_at=now, received_at=now, decided_at=now, **changes)
    line.broker.publish(topology.VERDICTS, f"l1.brick.{decision}", verdict)


def log_in(line, stack, name):
    client = stack.enter_context(web_client(line.url))
    form = client.get("/login").text
    token = re.search(r'name="csrf" value="([^"]+)"', form)[1]
    assert client.post("/login", data={"csrf": token, "name": name, "password": PASSWORD}).status_code == 200
    return client


class Listener:
    """Reads the events of the page of the line, on a thread, until the console ends."""

    def __init__(self, client):
        self.parts, self.states = {}, []
        self._thread = threading.Thread(target=self._read, args=(client,), daemon=True)
        self._thread.start()

    def _read(self, client):
        try:
            with client.stream("GET", "/line/events", timeout=60) as answer:
                name = ""
                for row in answer.iter_lines():
                    key, _, value = row.partition(": ")
                    if key == "event":
                        name = value
                    elif key == "data" and name == "parts":
                        self.parts |= {part["job"]: part for part in json.loads(value)}
                    elif key == "data" and name == "state":
                        self.states.append(json.loads(value))
        except httpx.HTTPError:  # the console has ended
            pass

    def join(self):
        self._thread.join(20)
        assert not self._thread.is_alive()


def judged(line, job_id):
    """What the archive has as the judgement of a job."""
    with closing(opening.open_archive(line.settings, Access.READ)) as archive:
        found = archive.judgements_of([job_id]).get(job_id)
        return found and (found.judgement, found.kind, found.judged_by)


def require_reports(line, client, folder):
    """The page, its files and those of the command are about the two parts, and have the picture."""
    page = client.get("/report", params={"since": "1h", "line": "l1"}).text
    assert "2 parts with a verdict" in page
    assert 'src="/plant/picture/job-1/image"' in page
    asked = re.search(r'href="/plant/report\.pdf\?([^"]+)"', page)[1].replace("&amp;", "&")
    printed = pypdf.PdfReader(io.BytesIO(client.get(f"/report.pdf?{asked}").content))
    text = "".join(one.extract_text() for one in printed.pages)
    assert "part-of-job-1" in text
    files = (str(folder / "report.html"), str(folder / "report.pdf"))
    made = line.run("report", "--since", "1h", "--line", "l1", "--html", files[0], "--pdf", files[1], "--json")
    assert made.returncode == 0, made.err
    figures = json.loads(made.out.splitlines()[-1])
    assert {one["decision"]: one["parts"] for one in figures["decisions"] if one["parts"]} == {"pass": 1, "fail": 1}
    assert [one["job_id"] for one in figures["worst"]] == ["job-1"]
    assert "2 parts with a verdict" in Path(files[0]).read_text()
    assert len(pypdf.PdfReader(files[1]).pages) == len(printed.pages)


def judge_and_take_back(line, client):
    """Judge the only reject, and take it back: it is the next one to judge again."""
    page = client.get("/review").text
    assert 'name="job" value="job-1"' in page
    form = {"csrf": re.search(r'name="csrf" value="([^"]+)"', page)[1], "job": "job-1"}
    page = client.post("/review", data=form | {"judgement": "defect", "kind": "scratch"}).text
    assert "There is no reject left to judge." in page
    wait_for(lambda: judged(line, "job-1") == ("defect", "scratch", "anna"))
    client.post("/review", data=form | {"judgement": "withdrawn"})
    wait_for(lambda: judged(line, "job-1") == ("withdrawn", None, "anna"))
    assert 'name="job" value="job-1"' in client.get("/review").text
    assert "anna: taken back" in client.get("/part/job-1").text


def test_a_reject_appears_is_judged_and_taken_back_and_all_of_it_is_archived(line, tmp_path):
    refused = line.run("console")
    assert refused.returncode == 2
    assert "there is no archive" in refused.err
    archive = start(line)
    added = line.run(
        "console", "users", "add", "anna", "--role", "review", "--password-file", str(tmp_path / "password")
    )
    assert (added.returncode, added.out) == (0, "anna: review\n")
    (metrics,) = server.free_ports(1)
    console = line.start("console", "--metrics-port", str(metrics))
    wait_for(lambda: server.responds(f"http://127.0.0.1:{metrics}/readyz") or console.poll() is not None)
    assert server.responds(f"{line.url}/healthz")
    with ExitStack() as stack:
        client = log_in(line, stack, "anna")
        listener = Listener(client)
        wait_for(lambda: listener.states)
        publish(line, "job-1")
        publish(line, "job-2", decision="pass")
        wait_for(lambda: len(listener.parts) == 2)
        assert {job: part["decision"] for job, part in listener.parts.items()} == {"job-1": "fail", "job-2": "pass"}
        wait_for(lambda: [one for one in listener.states[-1]["processes"] if one["state"] == "serving"])
        line.broker.publish(topology.PICTURES, "l1.brick.fail", picture("job-1", body=PNG))
        wait_for(lambda: client.get("/picture/job-1/image").content == PNG)
        judge_and_take_back(line, client)
        require_reports(line, client, tmp_path)
        archive.kill()
        archive.wait(10)
        wait_for(lambda: [one for one in listener.states[-1]["processes"] if one["state"] == "silent"])
        assert line.metric(metrics, "patchline_console_live_browsers") == 1
        assert line.metric(metrics, "patchline_console_statuses_heard_total") > 0
        assert 0 <= time.time() - line.metric(metrics, "patchline_console_newest_verdict_timestamp_seconds") < 120
        assert client.get("/search").status_code == 200
        console.terminate()
        assert console.wait(20) == 0
        listener.join()
    assert not is_ready(archive)
    entries = line.run("console", "audit", "--most", "3").out.splitlines()
    assert ["part judged" in entry for entry in entries] == [True, True, False]
    assert "logged in" in entries[2]
    assert line.run("console", "users", "remove", "anna").out == "anna: removed\n"
    assert line.run("console", "users", "list").out == ""
