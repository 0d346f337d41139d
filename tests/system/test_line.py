"""The whole path with real processes, real servers and real signals."""

import json
import os
import signal
import time

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
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").iterdir()).read_bytes()


@pytest.fixture(scope="session")
def slow_picture():
    """A picture of 49 million pixels, which takes long enough to decode to be interrupted."""
    row = (np.arange(7000) % 251).astype(np.uint8)
    return cv2.imencode(".png", np.dstack([np.add.outer(row, row)] * 3))[1].tobytes()


def test_images_become_confirmed_verdicts_actions_scores_and_metrics(line, texture_folder):
    gate = line.start("gate", "--line", "l1")
    worker = line.worker("--device", "cpu")
    published = line.run("publish", "--line", "l1", "--category", "brick", str(texture_folder / "test"))
    accepted = {record["part_id"]: record["job_id"] for record in records(published.out)}
    verdicts = {verdict.part_id: verdict for verdict in line.verdicts(16)}
    assert len(accepted) == 16
    assert {verdict.part_id: verdict.job_id for verdict in verdicts.values()} == accepted

    inspect = serving.load(line.settings, ["brick"], backbone.CPU, streams=1)["brick"]
    for path in (texture_folder / "test").glob("*/*.png"):
        direct, verdict = inspect.inspect(path.read_bytes(), "image/png", untimed), verdicts[path.stem]
        assert (verdict.decision, verdict.regions) == (direct.decision, direct.regions)
        assert verdict.scores.topk10 == pytest.approx(direct.scores.topk10, rel=1e-4)
        if path.parent.name == "scratch":
            assert verdict.decision is Decision.FAIL
            assert verdict.regions

    gate.send_signal(signal.SIGTERM)
    acted = {record["job_id"]: record["action"] for record in records(gate.communicate(timeout=20)[0])}
    assert acted == {
        verdict.job_id: "accept" if verdict.decision is Decision.PASS else "reject" for verdict in verdicts.values()
    }
    cache = redis.Redis.from_url(line.environment["PATCHLINE_REDIS_URL"])
    wait_for(lambda: cache.llen("patchline:recent:l1:brick") >= 16)
    some = next(iter(verdicts.values()))
    assert messages.Verdict.model_validate_json(cache.get(f"patchline:verdict:{some.job_id}")) == some
    assert 0 < cache.ttl(f"patchline:verdict:{some.job_id}") <= 3600
    cache.close()
    assert line.metric(worker.metrics_port, "patchline_images_total") == 16
    assert line.metric(worker.metrics_port, "patchline_fps") > 0
    assert line.metric(worker.metrics_port, "patchline_stage_seconds_count") >= 16 * 5
    assert line.metric(worker.metrics_port, "patchline_in_flight") == 0


def test_the_same_capture_sent_twice_is_acted_on_once(line, texture_folder):
    gate = line.start("gate", "--line", "l1")
    line.worker("--device", "cpu")
    image = sorted((texture_folder / "test" / "good").iterdir())[0]
    for _ in range(2):
        line.run("publish", "--line", "l1", "--category", "brick", str(image))
    first, second = line.verdicts(2)
    assert first.job_id == second.job_id
    (action,) = records(gate.stdout.readline())
    assert action["job_id"] == first.job_id
    time.sleep(0.5)
    gate.send_signal(signal.SIGTERM)
    assert gate.communicate(timeout=20)[0] == ""


def test_sigterm_in_the_middle_of_an_image_finishes_it_and_gives_the_others_back(line, slow_picture):
    worker = line.worker("--device", "cpu")
    many = 3 * (len(os.sched_getaffinity(0)) + 2) + 5  # more than its lanes take
    for number in range(many):
        line.send(slow_picture, f"slow-{number}")
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_in_flight") >= 2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    done = {verdict.job_id for verdict in line.verdicts(many, timeout_s=1.0)}
    assert 1 <= len(done) < many
    left = {each.message_id for each in line.messages(topology.JOBS, many, timeout_s=2.0)}
    assert done | left == {f"slow-{number}" for number in range(many)}
    assert not done & left


def test_a_second_signal_leaves_at_once_and_loses_nothing(line, slow_picture):
    worker = line.worker("--device", "cpu")
    for number in range(4):
        line.send(slow_picture, f"slow-{number}")
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_in_flight") >= 1)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(2) == 70
    done = {verdict.job_id for verdict in line.verdicts(4, timeout_s=1.0)}
    left = {each.message_id for each in line.messages(topology.JOBS, 4, timeout_s=3.0)}
    assert done | left == {f"slow-{number}" for number in range(4)}


def test_a_killed_worker_is_started_again_and_its_jobs_are_judged(line, slow_picture):
    line.worker("--devices", "cpu:0,cpu:1")
    workers = _supervised(line)
    for number in range(6):
        line.send(slow_picture, f"slow-{number}")
    time.sleep(0.7)
    workers[0].send_signal(signal.SIGKILL)
    found = {verdict.job_id for verdict in line.verdicts(6)}
    assert found == {f"slow-{number}" for number in range(6)}
    wait_for(lambda: len(_supervised(line)) == 2)


def _supervised(line):
    (supervisor,) = [
        child for child in psutil.Process(os.getpid()).children() if "--devices" in " ".join(child.cmdline())
    ]
    return [child for child in supervisor.children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_rejected_part_can_be_looked_at(line, texture_folder, tmp_path):
    line.worker("--device", "cpu")
    line.send(next((texture_folder / "test" / "scratch").glob("*.png")).read_bytes(), "scratched")
    (verdict,) = line.verdicts(1)
    assert verdict.decision is Decision.FAIL
    wait_for(lambda: line.run("show", "scratched", "--out", str(tmp_path)).out.endswith("scratched.jpg\n"))
    assert cv2.imread(str(tmp_path / "scratched.jpg")).shape == (128, 128, 3)
    assert "Redis knows no job" in line.run("show", "another").err
    assert "is no job id" in line.run("show", "../another").err


def test_a_verdict_is_one_line_of_the_log_with_its_trace_where_it_is_wanted(line, picture):
    worker = line.worker("--device", "cpu", PATCHLINE_LOG_LEVEL="debug")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    line.send(picture, "traced", traceparent=trace)
    (verdict,) = line.verdicts(1)
    assert verdict.traceparent == trace
    worker.terminate()
    told = [each for each in records(worker.communicate(timeout=30)[1]) if each["event"] == "verdict"]
    assert [(each["job_id"], each["trace"], each["decision"]) for each in told] == [("traced", trace, verdict.decision)]
    refused = line.run("topology", PATCHLINE_LOG_LEVEL="loud")
    assert "'loud' of PATCHLINE_LOG_LEVEL is not one of debug" in refused.err


def test_a_line_without_redis_goes_on(line, picture):
    worker = line.worker("--device", "cpu", PATCHLINE_REDIS_URL="redis://127.0.0.1:1/0")
    for number in range(3):
        line.send(picture, f"j{number}")
    assert len(line.verdicts(3)) == 3
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_redis_failures_total") >= 1)


def test_a_late_job_is_answered_expired(line, picture):
    line.worker("--device", "cpu")
    line.send(picture, "late", deadline=now_ms() - 1)
    (verdict,) = line.verdicts(1)
    assert verdict.decision is Decision.EXPIRED


def test_the_gate_rejects_a_part_whose_verdict_does_not_come(line):
    gate = line.start("gate", "--line", "l2")
    deadline = now_ms() + 2000
    part = Announcement(
        job_id="lost", line="l2", category="brick", part_id="p", captured_at=now_ms(), deadline=deadline
    )
    line.broker.publish(topology.PARTS, "l2", Message(b"", "lost", messages.PART_TYPE, None, part.headers()))
    action = json.loads(gate.stdout.readline())
    assert (action["job_id"], action["action"], action["because"]) == ("lost", "reject", "no verdict in time")
    assert action["acted_at"] >= deadline + line.settings.gate.grace_ms
    assert gate.poll() is None


def test_a_gate_that_is_killed_goes_on_where_it_ended(line, texture_folder):
    line.worker("--device", "cpu")
    image = str(sorted((texture_folder / "test" / "good").iterdir())[3])
    gate = line.start("gate", "--line", "l1")
    deadline = now_ms() + 4000
    part = Announcement(
        job_id="silent", line="l1", category="brick", part_id="p", captured_at=now_ms(), deadline=deadline
    )
    line.broker.publish(topology.PARTS, "l1", Message(b"", "silent", messages.PART_TYPE, None, part.headers()))
    line.run("publish", "--line", "l1", "--category", "brick", image)
    first = json.loads(gate.stdout.readline())
    time.sleep(0.3)
    gate.send_signal(signal.SIGKILL)
    gate.wait(10)
    again = line.start("gate", "--line", "l1")
    line.run("publish", "--line", "l1", "--category", "brick", image)  # the same job: not acted on again
    action = json.loads(again.stdout.readline())
    assert (action["job_id"], action["action"]) == ("silent", "reject")
    again.send_signal(signal.SIGTERM)
    rest = records(again.communicate(timeout=20)[0])
    assert first["job_id"] not in {record["job_id"] for record in rest}


def test_a_watched_folder_sends_what_appears_in_it(line, tmp_path, picture):
    publisher = line.start("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    time.sleep(2.0)
    half = tmp_path / "growing.png"
    half.write_bytes(picture[:100])
    (tmp_path / "notes.txt").write_text("no image")
    time.sleep(0.2)
    half.write_bytes(picture)
    record = json.loads(publisher.stdout.readline())
    assert record["part_id"] == "growing"
    (sent,) = line.messages(topology.JOBS, 1)
    assert sent.body == picture
    publisher.send_signal(signal.SIGTERM)
    assert publisher.wait(20) == 0


def test_what_appears_in_a_watched_folder_while_nobody_watches_is_sent_too(line, tmp_path, picture):
    arguments = ("publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path))
    (tmp_path / "long-ago.png").write_bytes(picture)
    time.sleep(0.05)

    def started():
        publisher = line.start(*arguments)
        while "broker connected" not in publisher.stderr.readline():
            pass
        return publisher

    def ended(publisher):
        publisher.send_signal(signal.SIGTERM)
        said, _ = publisher.communicate(timeout=20)
        assert publisher.returncode == 0
        return [record["part_id"] for record in records(said)]

    first = started()
    time.sleep(1.0)
    (tmp_path / "watched.png").write_bytes(picture + b"1")
    assert json.loads(first.stdout.readline())["part_id"] == "watched"
    time.sleep(2.5)  # the bookmark follows
    assert ended(first) == []
    aside = tmp_path.with_name("aside.png")
    aside.write_bytes(picture + b"2")
    (tmp_path / "missed.png").write_bytes(picture + b"3")
    os.utime(aside, (1_700_000_000, 1_700_000_000))
    aside.rename(tmp_path / "moved-here-but-older.png")
    second = started()
    missed = {json.loads(second.stdout.readline())["part_id"] for _ in range(2)}
    time.sleep(2.5)
    assert missed == {"missed", "moved-here-but-older"}
    assert ended(second) == []
    third = started()
    time.sleep(1.5)
    assert ended(third) == []


def test_an_even_rate_is_kept(line, texture_folder):
    started = time.monotonic()
    folder = texture_folder / "test" / "good"
    published = line.run("publish", "--line", "l1", "--category", "brick", "--rate", "4", str(folder))
    assert len(records(published.out)) == 8
    assert time.monotonic() - started > 7 / 4
