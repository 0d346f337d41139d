"""The commands for dead letters."""

import json
from pathlib import Path

import pytest

from patchline.broker.base import Message
from patchline.protocol import messages, topology
from patchline.protocol.messages import Decision
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").iterdir()).read_bytes()


@pytest.fixture
def line_with_dead_letters(line, picture):
    """A line with four dead letters: three jobs of an unknown category and one unreadable image."""
    line.worker("--device", "cpu")
    for number in range(3):
        line.send(picture, f"j{number}", category="gravel", part_id=f"p{number}", deadline=4_000_000_000_000)
    line.send(b"junk", "j3", part_id="p3")
    assert {verdict.decision for verdict in line.verdicts(4)} == {Decision.ERROR}
    return line


def listed_job_ids(line):
    return [record["job_id"] for record in records(line.run("dead-letters", "list").out)]


def test_dead_letters_are_listed_and_shown_and_stay_in_the_queue(line_with_dead_letters, picture, tmp_path):
    letters = {record["job_id"]: record for record in records(line_with_dead_letters.run("dead-letters", "list").out)}
    assert set(letters) == {"j0", "j1", "j2", "j3"}
    assert (letters["j0"]["reason"], letters["j3"]["reason"]) == ("unknown_category", "unreadable_image")
    assert (letters["j3"]["stage"], letters["j3"]["attempts"], letters["j3"]["bytes"]) == ("decode", 1, 4)
    shown = line_with_dead_letters.run("dead-letters", "show", "j1", "--out", str(tmp_path))
    document, path = shown.out.rsplit("}", 1)
    assert json.loads(document + "}")["part_id"] == "p1"
    assert Path(path.strip()).read_bytes() == picture
    for _ in range(3):
        assert sorted(listed_job_ids(line_with_dead_letters)) == ["j0", "j1", "j2", "j3"]


def test_a_replayed_dead_letter_keeps_its_id_and_is_inspected_again(line_with_dead_letters):
    replayed = line_with_dead_letters.run("dead-letters", "replay", "j3")
    assert replayed.out.strip() == "1 replayed"
    (verdict,) = line_with_dead_letters.verdicts(1)
    assert (verdict.job_id, verdict.decision, verdict.deadline) == ("j3", Decision.ERROR, None)
    wait_for(lambda: sorted(listed_job_ids(line_with_dead_letters)) == ["j0", "j1", "j2", "j3"])
    assert line_with_dead_letters.run("dead-letters", "replay", "--all").out.strip() == "1 replayed"
    assert {verdict.job_id for verdict in line_with_dead_letters.verdicts(1)} == {"j3"}


def test_dead_letters_of_a_category_without_a_queue_stay_and_are_named(line_with_dead_letters):
    replayed = line_with_dead_letters.run("dead-letters", "replay", "j0")
    assert replayed.returncode == 2
    assert "no queue takes the category 'gravel' of job j0" in replayed.err
    assert line_with_dead_letters.run("dead-letters", "replay", "--all").out.strip() == "1 replayed"
    wait_for(lambda: sorted(listed_job_ids(line_with_dead_letters)) == ["j0", "j1", "j2", "j3"])


def test_purged_dead_letters_are_gone_and_unknown_ids_are_reported(line_with_dead_letters):
    assert line_with_dead_letters.run("dead-letters", "purge", "j0").out.strip() == "1 purged"
    assert sorted(listed_job_ids(line_with_dead_letters)) == ["j1", "j2", "j3"]
    assert "no dead letter of job j0" in line_with_dead_letters.run("dead-letters", "purge", "j0").err
    assert "name one job, or use --all" in line_with_dead_letters.run("dead-letters", "purge").err
    assert line_with_dead_letters.run("dead-letters", "purge", "--all").out.strip() == "3 purged"
    assert listed_job_ids(line_with_dead_letters) == []
    assert line_with_dead_letters.messages(JOBS_QUEUE, 1, timeout_s=0.5) == []


def test_dead_letters_have_a_limit_in_bytes_and_the_oldest_are_dropped(line, tmp_path):
    folder = tmp_path / "plant"
    folder.mkdir()
    for name in ("models", "faiss-index-precision"):
        (folder / name).symlink_to((line.folder / name).resolve())
    text = (line.folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("broker: {", "broker: {dead_max_bytes: 100000, "))
    line.reconfigure(folder)
    for number in range(10):
        message = Message(bytes(30_000), f"job-{number}", messages.JOB_TYPE)
        line.broker.publish(topology.DEAD, "l1.brick.error", message)
    listed = records(line.run("dead-letters", "list").out)
    assert [letter["job_id"] for letter in listed] == ["job-7", "job-8", "job-9"]
