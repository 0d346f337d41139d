"""A complete line with real processes, real servers and real signals."""

import json
import os
import re
import shutil
import signal
import time
import urllib.parse
import urllib.request
from contextlib import closing

import cv2
import numpy as np
import psutil
import pytest
import redis

from patchline.banks import serving
from patchline.broker.base import Message
from patchline.devices import backbone
from patchline.inspection.inspector import untimed
from patchline.protocol import messages, topology
from patchline.protocol.messages import Announcement, Decision
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests import children
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").iterdir()).read_bytes()


@pytest.fixture(scope="session")
def slow_picture():
    """A picture of 49 million pixels. A signal arrives while it is decoded."""
    row = (np.arange(7000) % 251).astype(np.uint8)
    return cv2.imencode(".png", np.dstack([np.add.outer(row, row)] * 3))[1].tobytes()


def wait_until_busy(worker):
    """Wait until a worker has spent 0.2 s of CPU time on images."""
    process = psutil.Process(worker.pid)
    before_s = process.cpu_times().user
    wait_for(lambda: process.cpu_times().user - before_s > 0.2)


def test_images_become_verdicts_actions_and_metrics(line, texture_folder):
    gate = line.start("gate", "--line", "l1", "--dry-run")
    worker = line.worker("--device", "cpu")
    published = line.run("publish", "--line", "l1", "--category", "brick", str(texture_folder / "test"))
    accepted = {record["part_id"]: record["job_id"] for record in records(published.out)}
    verdicts = {verdict.part_id: verdict for verdict in line.verdicts(16)}
    assert len(accepted) == 16
    assert {verdict.part_id: verdict.job_id for verdict in verdicts.values()} == accepted

    inspector = serving.load(line.settings, ["brick"], backbone.CPU, streams=1)["brick"]
    for path in (texture_folder / "test").glob("*/*.png"):
        direct, verdict = inspector.inspect(path.read_bytes(), "image/png", untimed), verdicts[path.stem]
        assert (verdict.decision, verdict.regions) == (direct.decision, direct.regions)
        assert verdict.scores.topk10 == pytest.approx(direct.scores.topk10, rel=1e-4)
        if path.parent.name == "scratch":
            assert verdict.decision is Decision.FAIL
            assert verdict.regions

    printed = "".join(gate.stdout.readline() for _ in verdicts)  # a gate acts 2.5 s after its start at the earliest
    gate.send_signal(signal.SIGTERM)
    acted = {record["job_id"]: record["action"] for record in records(printed + gate.stdout.read())}
    assert acted == {
        verdict.job_id: "accept" if verdict.decision is Decision.PASS else "reject" for verdict in verdicts.values()
    }
    cache = redis.Redis.from_url(line.environment["PATCHLINE_REDIS_URL"])
    wait_for(lambda: cache.llen("patchline:recent:l1:brick") >= 16)
    verdict = next(iter(verdicts.values()))
    assert messages.Verdict.model_validate_json(cache.get(f"patchline:verdict:{verdict.job_id}")) == verdict
    assert 0 < cache.ttl(f"patchline:verdict:{verdict.job_id}") <= 3600
    cache.close()
    assert line.metric(worker.metrics_port, "patchline_images_total") == 16
    assert line.metric(worker.metrics_port, "patchline_fps") > 0
    assert line.metric(worker.metrics_port, "patchline_stage_seconds_count") >= 16 * 5


def test_a_capture_that_is_sent_twice_is_acted_on_once(line, texture_folder):
    gate = line.start("gate", "--line", "l1", "--dry-run")
    line.worker("--device", "cpu")
    image = sorted((texture_folder / "test" / "good").iterdir())[0]
    for _ in range(2):
        line.run("publish", "--line", "l1", "--category", "brick", str(image))
    first, second = line.verdicts(2)
    assert first.job_id == second.job_id
    line.publish_part_and_verdict("after")  # when the gate acts on it, it has heard of both
    acted = [records(gate.stdout.readline())[0]["job_id"] for _ in range(2)]
    assert acted == [first.job_id, "after"]
    gate.send_signal(signal.SIGTERM)
    assert gate.communicate(timeout=20)[0] == ""


def reconfigure_worker(line, folder, settings):
    """Use a copy of the plant with other settings of the worker."""
    shutil.copytree(line.folder, folder, symlinks=True)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("drain_s: 20.0", settings))
    line.reconfigure(folder)


def test_sigterm_finishes_the_images_that_have_arrived_and_leaves_the_others(line, slow_picture, tmp_path):
    reconfigure_worker(line, tmp_path / "plant", "drain_s: 90.0, concurrency: 1, lanes: 2")
    worker = line.worker("--device", "cpu")
    count = 6  # the worker prefetches three
    for number in range(count):
        line.send(slow_picture, f"slow-{number}")
    wait_until_busy(worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(100) == 0
    finished, left = line.answered_and_left(count, JOBS_QUEUE)
    assert 1 <= len(finished) < count
    requeued = {delivery.message.message_id for delivery in left}
    assert finished | requeued == {f"slow-{number}" for number in range(count)}
    assert not finished & requeued


def test_sigterm_gives_back_what_cannot_be_finished_in_time(line, slow_picture, tmp_path):
    reconfigure_worker(line, tmp_path / "plant", "drain_s: 0.1")
    worker = line.worker("--device", "cpu")
    for number in range(8):
        line.send(slow_picture, f"slow-{number}")
    wait_until_busy(worker)
    worker.send_signal(signal.SIGTERM)
    errors = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0
    assert "terminate called" not in errors
    (stopped,) = [event for event in records(errors) if event["event"] == "worker stopped"]
    assert stopped["given_back"] >= 1
    assert stopped["busy_lanes"] >= 1
    finished, left = line.answered_and_left(8, JOBS_QUEUE)
    assert finished | {delivery.message.message_id for delivery in left} == {f"slow-{number}" for number in range(8)}
    assert {(delivery.attempt, delivery.redelivered) for delivery in left} == {(1, False)}


def test_a_worker_waits_for_a_rabbitmq_that_is_away_when_it_starts(line, picture):
    (port,) = server.free_ports(1)
    (metrics_port,) = server.free_ports(1)
    url = line.environment["PATCHLINE_AMQP_URL"]
    away = re.sub(r":\d+(/|$)", rf":{port}\1", url)
    worker = line.start("worker", "--metrics-port", str(metrics_port), PATCHLINE_AMQP_URL=away)
    probe = f"http://127.0.0.1:{metrics_port}"
    wait_for(lambda: "waiting for RabbitMQ" in worker.stderr.readline())
    assert server.responds(f"{probe}/healthz")
    assert not server.responds(f"{probe}/readyz")
    with closing(Proxy(urllib.parse.urlsplit(url).port, port)):
        wait_for(lambda: server.responds(f"{probe}/readyz"))
        line.send(picture, "at-last")
        assert [verdict.job_id for verdict in line.verdicts(1)] == ["at-last"]
        worker.terminate()
        worker.communicate(timeout=30)
    assert worker.returncode == 0


def test_a_category_with_a_damaged_bank_stops_no_other_category(line, picture, tmp_path):
    folder = shutil.copytree(line.folder, tmp_path / "plant", symlinks=True)
    banks = folder / "faiss-index-precision"
    shutil.copytree(banks / "brick", banks / "tile")
    (banks / "tile" / "manifest.json").write_text("{}")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + text[text.index("  brick:") :].replace("brick", "tile"))
    line.reconfigure(folder)
    worker = line.worker("--device", "cpu")
    line.send(picture, "good")
    (verdict,) = line.verdicts(1)
    assert verdict.decision in (Decision.PASS, Decision.REVIEW)
    page = urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=5).read().decode()
    assert 'patchline_category_ready{category="brick"} 1.0' in page
    assert 'patchline_category_ready{category="tile"} 0.0' in page
    worker.terminate()
    assert "category cannot be served" in worker.communicate(timeout=30)[1]
    alone = line.run("worker", "--category", "tile")
    assert alone.returncode == 2
    assert "manifest.json" in alone.err


def test_a_second_signal_ends_the_worker_immediately_and_loses_no_job(line, slow_picture):
    worker = line.worker("--device", "cpu")
    for number in range(4):
        line.send(slow_picture, f"slow-{number}")
    wait_until_busy(worker)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)  # of two that are the same, a busy process hears one
    assert worker.wait(30) == 70, "it is 0 if the worker has finished its images"
    finished, left = line.answered_and_left(4, JOBS_QUEUE)
    assert finished | {delivery.message.message_id for delivery in left} == {f"slow-{number}" for number in range(4)}


def test_a_killed_worker_is_restarted_and_its_jobs_are_inspected(line, slow_picture):
    supervisor = line.worker("--devices", "cpu:0,cpu:1")
    workers = children.living(supervisor.pid, recursive=False)
    for number in range(6):
        line.send(slow_picture, f"slow-{number}")
    time.sleep(0.7)
    workers[0].send_signal(signal.SIGKILL)
    assert {verdict.job_id for verdict in line.verdicts(6)} == {f"slow-{number}" for number in range(6)}
    wait_for(lambda: len(children.living(supervisor.pid, recursive=False)) == 2)


def test_the_heat_map_of_a_rejected_part_can_be_shown(line, texture_folder, tmp_path):
    line.worker("--device", "cpu")
    line.send(next((texture_folder / "test" / "scratch").glob("*.png")).read_bytes(), "scratched")
    (verdict,) = line.verdicts(1)
    assert verdict.decision is Decision.FAIL
    wait_for(lambda: line.run("show", "scratched", "--out", str(tmp_path)).out.endswith("scratched.jpg\n"))
    assert cv2.imread(str(tmp_path / "scratched.jpg")).shape == (128, 128, 3)
    assert "Redis does not know job" in line.run("show", "another").err
    assert "is not a job id" in line.run("show", "../another").err


def test_the_debug_log_has_one_line_with_the_trace_per_verdict(line, picture):
    worker = line.worker("--device", "cpu", PATCHLINE_LOG_LEVEL="debug")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    line.send(picture, "traced", traceparent=trace)
    (verdict,) = line.verdicts(1)
    assert verdict.traceparent == trace
    worker.terminate()
    logged = [event for event in records(worker.communicate(timeout=30)[1]) if event["event"] == "verdict"]
    assert [(event["job_id"], event["trace"], event["decision"]) for event in logged] == [
        ("traced", trace, verdict.decision)
    ]
    refused = line.run("topology", PATCHLINE_LOG_LEVEL="loud")
    assert "'loud' of PATCHLINE_LOG_LEVEL is not one of debug" in refused.err


def test_a_line_works_without_redis(line, picture):
    worker = line.worker("--device", "cpu", PATCHLINE_REDIS_URL="redis://127.0.0.1:1/0")
    for number in range(3):
        line.send(picture, f"j{number}")
    assert len(line.verdicts(3)) == 3
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_redis_failures_total") >= 1)


def test_a_job_after_its_deadline_gets_the_verdict_expired(line, picture):
    line.worker("--device", "cpu")
    line.send(picture, "late", deadline=now_ms() - 1)
    (verdict,) = line.verdicts(1)
    assert verdict.decision is Decision.EXPIRED


def test_the_gate_rejects_a_part_without_a_verdict(line):
    gate = line.start("gate", "--line", "l2", "--dry-run")
    deadline = now_ms() + 2000
    part = Announcement(
        job_id="lost", line="l2", category="brick", part_id="p", captured_at=now_ms(), deadline=deadline
    )
    line.broker.publish(topology.PARTS, "l2", Message(b"", "lost", messages.PART_TYPE, None, part.headers()))
    action = json.loads(gate.stdout.readline())
    assert (action["job_id"], action["action"], action["because"]) == ("lost", "reject", "no verdict in time")
    assert action["acted_at"] >= deadline + line.settings.gate.grace_ms
    assert gate.poll() is None


def test_an_image_captured_an_hour_before_it_is_sent_is_rejected_at_its_deadline(line, picture, tmp_path):
    image = tmp_path / "cell.png"
    image.write_bytes(picture)
    os.utime(image, (time.time() - 3600,) * 2)
    gate = line.start("gate", "--line", "l1", "--dry-run")
    while "gate is serving" not in gate.stderr.readline():
        assert gate.poll() is None
    sent_at = now_ms()
    (sent,) = records(
        line.run("publish", "--line", "l1", "--category", "brick", "--deadline-ms", "1500", str(image)).out
    )
    action = json.loads(gate.stdout.readline())
    assert (action["job_id"], action["action"], action["because"]) == (sent["job_id"], "reject", "no verdict in time")
    assert action["acted_at"] - sent_at < line.settings.gate.max_wait_ms, "the deadline of 1.5 s is what counts"
    gate.terminate()
    assert "clocks differ" not in gate.communicate(timeout=20)[1]


def test_a_killed_gate_restores_its_state_on_restart(line, texture_folder):
    line.worker("--device", "cpu")
    image = str(sorted((texture_folder / "test" / "good").iterdir())[3])
    publish = ("publish", "--line", "l1", "--category", "brick", image)
    gate = line.start("gate", "--line", "l1", "--dry-run")
    line.run(*publish)
    first = json.loads(gate.stdout.readline())
    assert first["because"] in ("pass", "review", "fail")
    deadline = now_ms() + 15_000
    part = Announcement(
        job_id="silent", line="l1", category="brick", part_id="p", captured_at=now_ms(), deadline=deadline
    )
    line.broker.publish(topology.PARTS, "l1", Message(b"", "silent", messages.PART_TYPE, None, part.headers()))
    time.sleep(0.3)
    gate.send_signal(signal.SIGKILL)
    gate.wait(10)
    again = line.start("gate", "--line", "l1", "--dry-run")
    line.run(*publish)  # the same job: the gate does not act on it again
    action = json.loads(again.stdout.readline())
    assert (action["job_id"], action["action"]) == ("silent", "reject")
    again.send_signal(signal.SIGTERM)
    rest = records(again.communicate(timeout=20)[0])
    assert first["job_id"] not in {record["job_id"] for record in rest}


def test_new_images_in_a_watched_folder_are_sent(line, tmp_path, picture):
    publisher = line.start("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    while "watching folder" not in publisher.stderr.readline():
        pass
    growing = tmp_path / "growing.png"
    growing.write_bytes(picture[:100])
    (tmp_path / "notes.txt").write_text("not an image")
    time.sleep(0.2)
    growing.write_bytes(picture)
    record = json.loads(publisher.stdout.readline())
    assert record["part_id"] == "growing"
    (sent,) = line.messages(JOBS_QUEUE, 1)
    assert sent.body == picture
    publisher.send_signal(signal.SIGTERM)
    assert publisher.wait(20) == 0


def test_images_that_arrive_while_no_publisher_runs_are_sent_on_the_next_start(line, tmp_path, picture):
    arguments = ("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    (tmp_path / "long-ago.png").write_bytes(picture)
    time.sleep(0.05)

    def start():
        publisher = line.start(*arguments)
        while "connected to RabbitMQ" not in publisher.stderr.readline():
            pass
        return publisher

    def stop(publisher):
        publisher.send_signal(signal.SIGTERM)
        out, _ = publisher.communicate(timeout=20)
        assert publisher.returncode == 0
        return [record["part_id"] for record in records(out)]

    first = start()
    time.sleep(1.0)
    (tmp_path / "watched.png").write_bytes(picture + b"1")
    assert json.loads(first.stdout.readline())["part_id"] == "watched"
    time.sleep(2.5)  # until the bookmark is updated
    assert stop(first) == []
    outside = tmp_path.with_name("outside.png")
    outside.write_bytes(picture + b"2")
    (tmp_path / "missed.png").write_bytes(picture + b"3")
    os.utime(outside, (1_700_000_000, 1_700_000_000))
    outside.rename(tmp_path / "moved-here-but-older.png")
    second = start()
    missed = {json.loads(second.stdout.readline())["part_id"] for _ in range(2)}
    time.sleep(2.5)
    assert missed == {"missed", "moved-here-but-older"}
    assert stop(second) == []
    third = start()
    time.sleep(1.5)
    assert stop(third) == []


def test_images_are_published_at_an_even_rate(line, texture_folder):
    started = time.monotonic()
    folder = texture_folder / "test" / "good"
    published = line.run("publish", "--line", "l1", "--category", "brick", "--rate", "4", str(folder))
    assert len(records(published.out)) == 8
    assert time.monotonic() - started > 7 / 4
