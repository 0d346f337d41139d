"""Dead letters as people handle them."""

import json
from pathlib import Path

import pytest

from patchline.protocol import topology
from patchline.protocol.messages import Decision
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").iterdir()).read_bytes()


@pytest.fixture
def buried(line, picture):
    """Three jobs of a category that nobody serves, and one that is no image, with their error verdicts."""
    line.worker("--device", "cpu")
    for number in range(3):
        line.send(picture, f"j{number}", category="gravel", part_id=f"p{number}", deadline=4_000_000_000_000)
    line.send(b"junk", "j3", part_id="p3")
    assert {verdict.decision for verdict in line.verdicts(4)} == {Decision.ERROR}
    return line


def listed(line):
    return [record["job_id"] for record in records(line.run("dead-letters", "list").out)]


def test_dead_letters_are_listed_shown_and_stay(buried, picture, tmp_path):
    found = {record["job_id"]: record for record in records(buried.run("dead-letters", "list").out)}
    assert set(found) == {"j0", "j1", "j2", "j3"}
    assert (found["j0"]["reason"], found["j3"]["reason"]) == ("unknown_category", "unreadable_image")
    assert (found["j3"]["stage"], found["j3"]["attempts"], found["j3"]["bytes"]) == ("decode", 1, 4)
    shown = buried.run("dead-letters", "show", "j1", "--out", str(tmp_path))
    document, path = shown.out.rsplit("}", 1)
    assert json.loads(document + "}")["part_id"] == "p1"
    assert Path(path.strip()).read_bytes() == picture
    for _ in range(3):
        assert sorted(listed(buried)) == ["j0", "j1", "j2", "j3"]


def test_a_replayed_letter_keeps_its_id_and_is_judged_anew(buried):
    before = buried.run("dead-letters", "replay", "j3")
    assert before.out.strip() == "1 replayed"
    (verdict,) = buried.verdicts(1)
    assert (verdict.job_id, verdict.decision, verdict.deadline) == ("j3", Decision.ERROR, None)
    wait_for(lambda: sorted(listed(buried)) == ["j0", "j1", "j2", "j3"])
    assert buried.run("dead-letters", "replay", "--all").out.strip() == "4 replayed"
    assert {verdict.job_id for verdict in buried.verdicts(4)} == {"j0", "j1", "j2", "j3"}


def test_purged_letters_are_gone_and_the_unknown_is_said(buried):
    assert buried.run("dead-letters", "purge", "j0").out.strip() == "1 purged"
    assert sorted(listed(buried)) == ["j1", "j2", "j3"]
    assert "no dead letter of job j0" in buried.run("dead-letters", "purge", "j0").err
    assert "name one job, or say --all" in buried.run("dead-letters", "purge").err
    assert buried.run("dead-letters", "purge", "--all").out.strip() == "3 purged"
    assert listed(buried) == []
    assert buried.messages(topology.JOBS, 1, timeout_s=0.5) == []
