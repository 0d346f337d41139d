"""Cameras on a line with real servers: every trigger is announced, and every announced part has a verdict."""

import signal
import time

import cv2
import numpy as np
import pytest
import zxingcpp

from patchline import config
from patchline.gate.instance import default_name
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from tests.queues import BACKLOG_QUEUE, JOBS_QUEUE
from tests.system.cameras import CAMERA, configure, start_by_hand, trigger
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(180)
GATE_QUEUE = topology.gate_queue("l1", default_name())
PUBLISH = ("publish", "--line", "l1", "--category", "brick")
JUDGED = {Decision.PASS, Decision.REVIEW, Decision.FAIL}


def announced(line, count):
    return [messages.parse_announcement(message) for message in line.messages(GATE_QUEUE, count)]


def test_the_pictures_of_a_camera_are_judged_and_its_parts_acted_on(line, texture_folder, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=20_000)
    line.worker("--category", "brick")
    gate = line.start("gate", "--line", "l1", "--dry-run")
    source = f"folder:{texture_folder}"
    camera = line.run(*CAMERA, "--rate", "1", "--count", "6", "--deadline-ms", "60000", source)
    assert camera.returncode == 0, camera.err
    states = records(camera.out)
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(6)}
    assert [state["state"] for state in states] == ["confirmed"] * 6
    assert {verdict.decision for verdict in verdicts.values()} <= JUDGED
    series = states[0]["part_id"].split("-")[0]
    assert [state["part_id"] for state in states] == [f"{series}-{number}" for number in range(1, 7)]
    expected = {messages.job_id_at_trigger("l1", "brick", int(series), number) for number in range(1, 7)}
    assert verdicts.keys() == {state["job_id"] for state in states} == expected
    acted = [records(gate.stdout.readline())[0] for _ in range(6)]
    assert {act["job_id"] for act in acted} == expected


def test_every_part_of_a_camera_that_loses_frames_and_dies_has_a_verdict_and_an_act(line, tmp_path):
    configure(line, tmp_path / "line", reopen_max_s=0.5)
    line.worker("--category", "brick")
    gate = line.start("gate", "--line", "l1", "--dry-run")
    source = "simulated:seed=5,lost=0.15,broken=0.1,late=0.1,late_s=0.3,die=0.05,down_s=0.5"
    camera = line.run(*CAMERA, "--rate", "5", "--count", "60", "--deadline-ms", "60000", source)
    assert camera.returncode == 0, camera.err
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(60)}
    assert len(verdicts) == 60
    missing = [verdict for verdict in verdicts.values() if verdict.decision is Decision.ERROR]
    assert {verdict.reason for verdict in missing} == {Reason.NO_IMAGE}
    details = " ".join(str(verdict.detail) for verdict in missing)
    assert "no frame within" in details
    assert "the frame is incomplete" in details
    assert "the camera is lost" in details
    assert camera.err.count("camera open") > 1
    assert {verdict.decision for verdict in verdicts.values()} - {Decision.ERROR} <= JUDGED
    assert len(missing) < 60
    acts = {act["job_id"]: act["action"] for act in (records(gate.stdout.readline())[0] for _ in range(60))}
    assert acts.keys() == verdicts.keys()
    assert {acts[verdict.job_id] for verdict in missing} == {"reject"}
    assert line.messages(topology.DEAD, 1, timeout_s=0.5) == []


def test_the_code_on_a_part_is_the_id_of_its_verdict(line, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=20_000, part_code="optional")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, mark in (("1.png", "SN-0815"), ("2.png", None)):
        pixels = np.full((160, 160), 170, np.uint8)
        if mark:
            code = np.array(zxingcpp.create_barcode(mark, zxingcpp.BarcodeFormat.DataMatrix).to_image(scale=5))
            pixels[30 : 30 + code.shape[0], 30 : 30 + code.shape[1]] = code
        assert cv2.imwrite(str(pictures / name), pixels)
    line.worker("--category", "brick")
    camera = line.run(*CAMERA, "--rate", "2", "--count", "2", "--deadline-ms", "60000", f"folder:{pictures}")
    assert camera.returncode == 0, camera.err
    first, second = records(camera.out)
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(2)}
    assert verdicts[first["job_id"]].part_id == "SN-0815"
    assert verdicts[second["job_id"]].part_id.endswith("-2")
    assert "a part keeps the id of its trigger" in camera.err
    assert {verdict.decision for verdict in verdicts.values()} <= JUDGED


def test_recorded_images_are_fitted_and_have_the_scores_of_the_live_ones(line, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=20_000)
    source, good = "simulated:seed=3,frame_s=0.001", tmp_path / "good"
    recorded = line.run(*CAMERA, "--record", "40", "--rate", "10", "--out", str(good), source)
    assert recorded.returncode == 0, recorded.err
    files = sorted(good.iterdir())
    assert len(files) == 40
    assert f"40 images in {good}" in recorded.out
    line.worker("--category", "brick")
    live = line.run(*CAMERA, "--rate", "1", "--count", "4", "--deadline-ms", "60000", source)
    published = line.run(*PUBLISH, "--deadline-ms", "60000", *map(str, files[:4]))
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(8)}
    scores = [[verdicts[state["job_id"]].score for state in records(run.out)] for run in (live, published)]
    assert scores[0] == scores[1]
    assert len(set(scores[0])) == 4
    elsewhere = line.settings.model_copy(
        update={"paths": line.settings.paths.model_copy(update={"memory_banks": tmp_path / "banks"})}
    )
    config.save(elsewhere, line.folder / "config.yaml")
    fitted = line.run("fit", "--category", "brick", str(good))
    assert fitted.returncode == 0, fitted.err
    again = line.run(*CAMERA, "--record", "1", "--rate", "10", "--out", str(good), source)
    assert again.returncode == 2
    assert "holds 40 images already" in again.err


def test_a_line_that_waited_in_a_frozen_process_is_announced_and_photographs_nothing(line, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=20_000, trigger_late_ms=1000)
    camera = start_by_hand(line, "simulated:frame_s=0.001")
    camera.send_signal(signal.SIGSTOP)
    trigger(camera, '{"number": 7}')
    time.sleep(1.5)
    camera.send_signal(signal.SIGCONT)
    (job,) = [messages.parse_job(message) for message in line.messages(JOBS_QUEUE, 1)]
    assert job.number == 7
    assert "camera.trigger_late_ms is 1000" in str(job.no_image)
    assert [part.job_id for part in announced(line, 1)] == [job.job_id]
    camera.stdin.close()
    camera.stdin = None  # nothing is left to flush
    assert camera.wait(60) == 0


def test_the_next_process_answers_for_the_parts_of_one_that_was_killed(line, tmp_path):
    configure(line, tmp_path / "line", frame_timeout_ms=60_000)
    camera = start_by_hand(line, "simulated:frame_s=50")
    trigger(camera, '{"number": 7, "encoder_count": -5, "part_id": "p:7"}')
    (part,) = announced(line, 1)
    camera.send_signal(signal.SIGKILL)
    camera.wait(30)
    assert line.messages(JOBS_QUEUE, 1, timeout_s=0.5) == []
    again = line.run(*CAMERA, "--rate", "5", "--count", "1", "simulated:")
    assert again.returncode == 0, again.err
    jobs = [messages.parse_job(message) for message in line.messages(JOBS_QUEUE, 2)]
    answered, fresh = sorted(jobs, key=lambda job: job.no_image is None)
    assert (answered.job_id, answered.part_id, answered.number, answered.encoder_count) == (part.job_id, "p:7", 7, -5)
    assert answered.no_image == "the process of the camera ended before the image was sent"
    assert fresh.no_image is None
    assert line.messages(BACKLOG_QUEUE, 1, timeout_s=0.5) == []
