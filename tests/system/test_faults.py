"""What a line does when its parts fail: poison, standstill, lateness, a full queue."""

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from patchline.protocol import topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from patchline.services import server
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(120)
FAILPOINTS = Path("tests/chaos/faults").resolve()


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").glob("*.png")).read_bytes()


@pytest.fixture
def impatient(plant, tmp_path):
    """The plant with short patience: stuck after two seconds, started again at once, five jobs in the queue."""
    folder = tmp_path / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    text = (folder / "config.yaml").read_text()
    text = text.replace("worker: {", "worker: {stuck_s: 2.0, restart_pause_s: 0.1, restart_pause_max_s: 0.1, ")
    text = text.replace("broker: {", "broker: {jobs_max_length: 5, confirm_timeout_s: 1.0, ")
    (folder / "config.yaml").write_text(text + "publisher: {confirm_timeout_s: 1.0}\n")
    return folder


def supervised(line, **environment):
    """A supervisor with one worker, and the port of its own metrics."""
    (port,) = server.free_ports(1)
    text = (line.folder / "config.yaml").read_text()
    (line.folder / "config.yaml").write_text(text.replace("worker: {", f"worker: {{supervisor_port: {port}, ", 1))
    (first,) = server.free_ports(1)
    process = line.start("worker", "--devices", "cpu:0", "--metrics-port", str(first), **environment)
    wait_for(lambda: server.is_listening(port))
    process.metrics_port = port
    return process


def test_a_job_that_ends_its_worker_is_answered_and_the_others_are_judged(line, impatient, picture, tmp_path):
    line.reset(impatient)
    points = tmp_path / "failpoints"
    points.mkdir()
    environment = {"PATCHLINE_FAILPOINTS": str(points), "PYTHONPATH": f"{FAILPOINTS}{os.pathsep}{Path.cwd()}"}
    supervisor = supervised(line, **environment)
    line.send(picture, "poison", part_id="poison-1")
    for number in range(4):
        line.send(picture, f"good-{number}")
    verdicts = {}
    while len(verdicts) < 5:  # a job that lay beside a crash may be answered twice
        verdicts |= {verdict.job_id: verdict for verdict in line.verdicts(1) or pytest.fail("a verdict is missing")}
    assert (verdicts["poison"].decision, verdicts["poison"].reason) == (Decision.ERROR, Reason.CRASHED)
    assert all(verdicts[f"good-{number}"].decision is not Decision.ERROR for number in range(4))
    (dead,) = line.messages(topology.DEAD, 2, timeout_s=2.0)
    assert (dead.message_id, dead.body) == ("poison", picture)
    ended = len(list(points.glob("poisoned-*")))
    assert ended == line.settings.broker.max_attempts
    assert line.metric(supervisor.metrics_port, "patchline_worker_restarts_total") == ended


def test_a_worker_that_stands_still_is_replaced_and_counted(line, impatient, picture):
    line.reset(impatient)
    supervisor = supervised(line)
    line.send(picture, "before")
    assert len(line.verdicts(1)) == 1
    (frozen,) = psutil.Process(supervisor.pid).children()
    frozen.suspend()
    line.send(picture, "after")
    wait_for(lambda: "after" in {verdict.job_id for verdict in line.verdicts(1)})  # the first may come twice
    assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE
    assert line.metric(supervisor.metrics_port, "patchline_worker_restarts_total") == 1


def test_a_supervisor_that_is_asked_to_end_drains_its_worker(line, impatient, picture):
    line.reset(impatient)
    supervisor = supervised(line)
    line.send(picture, "before")
    assert len(line.verdicts(1)) == 1
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert not server.is_listening(supervisor.metrics_port)


def test_a_worker_that_has_fallen_behind_answers_the_expired_and_catches_up(line, picture):
    now = connections.now_ms()
    for number in range(300):
        line.send(picture, f"late-{number}", captured_at=now - 60_000, deadline=now - 50_000)
    line.send(picture, "fresh", deadline=now + 60_000)
    worker = line.worker("--device", "cpu")
    verdicts = line.verdicts(301)
    late = [verdict for verdict in verdicts if verdict.decision is Decision.EXPIRED]
    (fresh,) = [verdict for verdict in verdicts if verdict.job_id == "fresh"]
    assert len(late) == 300
    assert fresh.decision in (Decision.PASS, Decision.REVIEW)
    assert all("extract" not in verdict.durations_ms for verdict in late)
    assert line.metric(worker.metrics_port, "patchline_errors_total") == 300
    assert line.metric(worker.metrics_port, "patchline_behind_seconds") < 60


def test_a_full_queue_fills_the_spool_and_nothing_is_lost(line, impatient, texture_folder):
    line.reset(impatient)
    images = sorted((texture_folder / "train" / "good").glob("*.png"))[:12]
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    states = [next(publisher.stdout) for _ in images]
    told = [record["state"] for record in records("".join(states))]
    spooled = told.count("spooled")
    assert 5 <= spooled <= 7  # RabbitMQ's limit is not sharp
    assert told == ["confirmed"] * (12 - spooled) + ["spooled"] * spooled
    line.worker("--device", "cpu")
    out, _ = publisher.communicate(timeout=40)
    assert [record["state"] for record in records(out)] == ["confirmed"] * spooled
    assert len({verdict.job_id for verdict in line.verdicts(12)}) == 12
