"""Faults on a line: an image that kills its worker, a frozen worker, late jobs, a full queue."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from patchline.protocol import topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from patchline.services import server
from tests import children
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(120)
FAILPOINTS = Path("tests/chaos/faults").resolve()


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").glob("*.png")).read_bytes()


@pytest.fixture
def short_timeouts(plant, tmp_path):
    """Copy the plant, with a watchdog of 2 s, restarts without a pause and a queue of 5 jobs. Return its folder."""
    folder = tmp_path / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    text = (folder / "config.yaml").read_text()
    text = text.replace("worker: {", "worker: {stuck_s: 2.0, restart_pause_s: 0.1, restart_pause_max_s: 0.1, ")
    text = text.replace("broker: {", "broker: {jobs_max_length: 5, confirm_timeout_s: 1.0, ")
    (folder / "config.yaml").write_text(text.replace("publisher: {", "publisher: {confirm_timeout_s: 1.0, "))
    return folder


def start_supervisor(line, port=None, **environment):
    """Start a supervisor with one worker. The port of its metrics is in `metrics_port`."""
    port = port or server.free_ports(1)[0]
    text = (line.folder / "config.yaml").read_text()
    (line.folder / "config.yaml").write_text(text.replace("worker: {", f"worker: {{supervisor_port: {port}, ", 1))
    (worker_port,) = server.free_ports(1)
    process = line.start("worker", "--devices", "cpu:0", "--metrics-port", str(worker_port), **environment)
    wait_for(lambda: server.is_listening(port))
    process.metrics_port, process.worker_port = port, worker_port
    return process


def test_a_supervisor_answers_probes_and_scrapes_on_one_port(line, short_timeouts):
    line.reconfigure(short_timeouts)
    supervisor = start_supervisor(line)
    for page in ("healthz", "readyz", "metrics"):
        wait_for(lambda page=page: server.responds(f"http://127.0.0.1:{supervisor.metrics_port}/{page}"))
    assert line.metric(supervisor.metrics_port, "patchline_worker_restarts_total") == 0


def test_a_job_that_kills_its_worker_gets_an_error_verdict_and_the_others_are_inspected(
    line, short_timeouts, picture, tmp_path
):
    line.reconfigure(short_timeouts)
    points = tmp_path / "failpoints"
    points.mkdir()
    environment = {"PATCHLINE_FAILPOINTS": str(points), "PYTHONPATH": f"{FAILPOINTS}{os.pathsep}{Path.cwd()}"}
    supervisor = start_supervisor(line, **environment)
    line.send(picture, "poison", part_id="poison-1")
    for number in range(4):
        line.send(picture, f"good-{number}")
    verdicts = {}
    while len(verdicts) < 5:  # a job that was in progress during a crash may get two verdicts
        verdicts |= {verdict.job_id: verdict for verdict in line.verdicts(1) or pytest.fail("a verdict is missing")}
    assert (verdicts["poison"].decision, verdicts["poison"].reason) == (Decision.ERROR, Reason.CRASHED)
    assert all(verdicts[f"good-{number}"].decision is not Decision.ERROR for number in range(4))
    (dead,) = line.all_messages(topology.DEAD, 1)
    assert (dead.message_id, dead.body) == ("poison", picture)
    crashes = len(list(points.glob("poisoned-*")))
    assert crashes == line.settings.broker.max_attempts
    assert line.metric(supervisor.metrics_port, "patchline_worker_restarts_total") == crashes


def test_a_supervisor_whose_port_is_taken_says_so_and_its_worker_still_inspects(line, picture, short_timeouts):
    line.reconfigure(short_timeouts)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        supervisor = start_supervisor(line, port=taken.getsockname()[1])
        line.send(picture, "job")
        assert [verdict.job_id for verdict in line.verdicts(1)] == ["job"]
        supervisor.terminate()
        (event,) = (
            event
            for event in records(supervisor.communicate(timeout=30)[1])
            if event["event"] == "supervising without metrics"
        )
    assert f"127.0.0.1:{supervisor.metrics_port}" in event["reason"]


def test_a_frozen_worker_is_restarted_and_counted(line, short_timeouts, picture):
    line.reconfigure(short_timeouts)
    supervisor = start_supervisor(line)
    line.send(picture, "before")
    assert len(line.verdicts(1)) == 1
    time.sleep(0.5)  # until its supervisor knows that it is ready
    (frozen,) = children.living(supervisor.pid)
    frozen.suspend()
    line.send(picture, "after")
    wait_for(lambda: "after" in {verdict.job_id for verdict in line.verdicts(1)})  # the first may be repeated
    assert not children.is_alive(frozen)
    assert line.metric(supervisor.metrics_port, "patchline_worker_restarts_total") == 1


@pytest.mark.parametrize("ready", [True, False])
def test_a_worker_ends_when_its_supervisor_is_killed(line, short_timeouts, ready):
    line.reconfigure(short_timeouts)
    supervisor = start_supervisor(line)
    wait_for(lambda: children.living(supervisor.pid))
    (worker,) = children.living(supervisor.pid)
    if ready:
        wait_for(lambda: server.responds(f"http://127.0.0.1:{supervisor.worker_port}/readyz"))
    supervisor.kill()
    wait_for(lambda: not children.is_alive(worker), 10)


def test_a_supervisor_drains_its_worker_on_sigterm(line, short_timeouts, picture):
    line.reconfigure(short_timeouts)
    supervisor = start_supervisor(line)
    line.send(picture, "before")
    assert len(line.verdicts(1)) == 1
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert not server.is_listening(supervisor.metrics_port)


def test_a_worker_with_a_backlog_answers_expired_jobs_without_inspecting_them(line, picture):
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
    line.send(picture, "last", deadline=now + 120_000)  # the lanes took the others in parallel, in no certain order
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["last"]
    assert line.metric(worker.metrics_port, "patchline_behind_seconds") < 60


def test_a_full_queue_fills_the_spool_and_no_job_is_lost(line, short_timeouts, picture, texture_folder):
    line.reconfigure(short_timeouts)
    images = sorted((texture_folder / "train" / "good").glob("*.png"))[:12]
    waiting = line.fill(picture)
    assert len(waiting) >= 5
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    spooled = [records(publisher.stdout.readline())[0] for _ in images]
    assert {record["state"] for record in spooled} == {"spooled"}
    line.worker("--device", "cpu")
    out, _ = publisher.communicate(timeout=40)
    job_ids = [record["job_id"] for record in spooled]
    assert [(record["job_id"], record["state"]) for record in records(out)] == [(one, "confirmed") for one in job_ids]
    assert {verdict.job_id for verdict in line.verdicts(len(waiting) + 12)} == waiting | set(job_ids)
