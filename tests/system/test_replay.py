"""Archived rejects of a busy worker are judged again: the same scores to the last digit, whichever bank is active."""

import re
from contextlib import ExitStack

import cv2
import numpy as np
import pytest

from patchline.archive import opening
from patchline.services import server
from tests.conftest import CONFIG
from tests.system import test_living_banks
from tests.system.conftest import Line, wait_for
from tests.system.test_living_banks import activate, serves

banks = test_living_banks.banks
pytestmark = pytest.mark.timeout(240)
REJECTS = 100
SETTINGS = """
archive: {batch: 20, batch_ms: 20, pictures: {decisions: [fail, review, expired, error], min_free_bytes: 0}}
banks: {store: banks-store, poll_s: 0.2}
"""


@pytest.fixture
def line(plant, empty_servers, tmp_path):
    """A line with an archive and a store of banks."""
    (tmp_path / "config.yaml").write_text(CONFIG + SETTINGS)
    (tmp_path / "models").symlink_to((plant / "models").resolve())
    with ExitStack() as stack:
        yield Line(tmp_path, empty_servers, stack)


def scratched(folder):
    """Different pictures with a scratch, as PNG."""
    pieces, rng = (
        [cv2.imread(str(path)) for path in sorted((folder / "test" / "good").iterdir())],
        np.random.default_rng(3),
    )
    for number in range(REJECTS):
        piece = pieces[number % len(pieces)].copy()
        start, end = rng.integers(10, 50, 2).tolist(), rng.integers(70, 118, 2).tolist()
        cv2.line(piece, start, end, rng.integers(180, 256, 3).tolist(), 3)
        yield cv2.imencode(".png", piece)[1].tobytes()


def published(line, folder):
    result = line.run("banks", "publish", "brick", "--from", str(folder), "--why", "a test")
    return re.findall(r"is version ([0-9a-f]{64})", result.out)[0]


def test_a_hundred_archived_rejects_have_the_same_scores_again_also_with_another_bank_active(
    line, banks, texture_folder
):
    assert line.run("banks", "init").returncode == 0
    versions = [published(line, folder) for folder in banks]
    activate(line, versions[0])
    worker = line.worker("--device", "cpu")
    for number, picture in enumerate(scratched(texture_folder)):  # all of them wait: every lane is busy
        line.send(picture, f"job-{number}")
    (port,) = server.free_ports(1)
    archive = line.start("archive", "--metrics-port", str(port))
    wait_for(lambda: server.is_listening(port) and server.responds(f"http://127.0.0.1:{port}/readyz"))
    wait_for(lambda: line.metric(port, "patchline_archive_verdicts_total") == REJECTS, 90)
    wait_for(lambda: line.metric(port, "patchline_archive_pictures_total") >= 2 * REJECTS, 90)
    activate(line, versions[1])
    wait_for(lambda: serves(worker) == versions[1][:12])
    result = line.run("archive", "replay", "--last", str(REJECTS), "--decision", "fail", "--decision", "review")
    assert result.returncode == 0, result.out + result.err
    assert result.out.count(": same score, ") == REJECTS
    assert "then" not in result.out  # nothing is other than it was
    assert result.out.splitlines()[-1] == f"{REJECTS} jobs: {REJECTS} same score, 0 another score, 0 cannot be replayed"
    archive.terminate()
    assert archive.wait(20) == 0
    store = opening.open_store(line.settings)
    (lost,) = re.findall(r"^(job-\d+): same", result.out)[:1] or [None]
    for digest in list(store.list()):
        store.delete(digest)
    result = line.run("archive", "replay", lost)
    assert result.returncode == 2
    assert f"{lost}: cannot be replayed: the image is missing" in result.out
    assert line.run("archive", "replay").returncode == 2
