"""A shadow bank on a real line: its report names the parts that the two judge differently, and it is promoted."""

import itertools
import json
import shutil
import sqlite3
from contextlib import ExitStack, closing

import pytest

from patchline import config
from patchline.archive import opening
from patchline.banks import serving, store
from patchline.devices.backbone import CPU
from patchline.inspection.inspector import untimed
from patchline.protocol.messages import Thresholds
from patchline.services import server
from tests.system import test_living_banks, test_replay
from tests.system.conftest import Line, records, wait_for
from tests.system.test_living_banks import activate, serves

banks = test_living_banks.banks
pytestmark = pytest.mark.timeout(300)
UNDER_WAY = 40


@pytest.fixture
def line(plant, empty_servers, tmp_path):
    """A line with an archive and a store of banks."""
    (tmp_path / "config.yaml").write_text(test_replay.CONFIG + test_replay.SETTINGS)
    (tmp_path / "models").symlink_to((plant / "models").resolve())
    with ExitStack() as stack:
        yield Line(tmp_path, empty_servers, stack)


@pytest.fixture
def crossed(banks, plant, texture_folder, tmp_path):
    """The two banks with other thresholds: each of them rejects pictures that the other one accepts."""
    folders = [shutil.copytree(bank, tmp_path / f"bank-{number}") for number, bank in enumerate(banks)]
    images = pictures(texture_folder)
    scores = [
        [inspector.inspect(image, "image/png", untimed).score for image in images]
        for inspector in (inspector_of(folder, plant) for folder in folders)
    ]

    def apart(pair):
        """How far apart two pictures are that the banks put into another order; below 0 if they do not."""
        (one, other), (first, second) = pair, scores
        return min(first[other] / first[one], second[one] / second[other]) - 1

    pair = max(itertools.permutations(range(len(images)), 2), key=apart)
    assert apart(pair) > 1e-4
    for folder, of_bank in zip(folders, scores, strict=True):
        limit = sum(of_bank[number] for number in pair) / 2
        thresholds = Thresholds(review=limit, fail=limit * 1.001)
        store.replace_manifest(folder, store.load(folder).manifest.model_copy(update={"thresholds": thresholds}))
    return folders


def pictures(texture_folder):
    return [path.read_bytes() for path in sorted((texture_folder / "test").rglob("*.png"))]


def inspector_of(folder, plant):
    return serving.Loader(config.load(plant / "config.yaml"), CPU, streams=1).load_folder("brick", folder)


def archived(line, query):
    with closing(sqlite3.connect(opening.target(line.settings), timeout=10)) as connection:
        return connection.execute(query).fetchall()


def test_the_report_names_exactly_the_parts_that_differ_and_promotion_and_rollback_lose_no_job(
    line, plant, crossed, texture_folder
):
    images = pictures(texture_folder)
    inspectors = [inspector_of(folder, plant) for folder in crossed]
    expected = {
        f"part-{number}": [inspector.inspect(image, "image/png", untimed) for inspector in inspectors]
        for number, image in enumerate(images)
    }
    differ = {part for part, (one, other) in expected.items() if one.decision is not other.decision}
    assert 0 < len(differ) < len(images)
    assert line.run("banks", "init").returncode == 0
    versions = [test_replay.published(line, folder) for folder in crossed]
    activate(line, versions[0])
    (port,) = server.free_ports(1)
    line.start("archive", "--metrics-port", str(port))
    worker = line.worker("--device", "cpu")
    wait_for(lambda: server.is_listening(port) and server.responds(f"http://127.0.0.1:{port}/readyz"))
    result = line.run("banks", "shadow", "brick", versions[1][:8], "--who", "anna", "--why", "a test")
    assert "is the shadow, of 100% of the images" in result.out, result.err

    def metric(name):
        return line.metric(worker.metrics_port, f"patchline_shadow_{name}")

    wait_for(lambda: metric("bank_info") == 1)
    for number, image in enumerate(images):  # one at a time: none is skipped
        line.send(image, f"job-{number}", part_id=f"part-{number}")
        wait_for(lambda number=number: metric("judged_total") == number + 1)
    wait_for(lambda: archived(line, "SELECT COUNT(*) FROM shadows") == [(len(images),)])
    report = json.loads(line.run("banks", "report", "brick", "--json").out)
    found = {row["part_id"]: row for row in report["different"]}
    assert set(found) == differ
    for part, (one, other) in expected.items():
        if part in differ:
            row = found[part]
            assert (row["decision"], row["shadow_decision"]) == (one.decision, other.decision)
            assert (row["score"], row["shadow_score"]) == (one.score, other.score)  # to the last digit
    (table,) = report["tables"]
    rejected = {part: [inspection.decision != "pass" for inspection in pair] for part, pair in expected.items()}
    assert table["shadow_only"] == sum(pair == [False, True] for pair in rejected.values())
    assert table["bank_only"] == sum(pair == [True, False] for pair in rejected.values())
    assert min(table["shadow_only"], table["bank_only"]) > 0  # both directions
    assert "McNemar's exact test: p = " in line.run("banks", "report", "brick", versions[1][:8]).out
    assert_promoted_and_rolled_back_under_load(line, worker, versions, images, metric)


class Load:
    """Jobs of which always some are under way."""

    def __init__(self, line, worker, images):
        self._line, self._worker, self._images = line, worker, images
        self._before, self.sent = self._judged(), 0

    def _judged(self):
        return self._line.metric(self._worker.metrics_port, "patchline_images_total")

    def run_until(self, condition):
        while not condition():
            for _ in range(10):
                image = self._images[self.sent % len(self._images)]
                self._line.send(image, f"load-{self.sent}", part_id=f"load-{self.sent}")
                self.sent += 1
            wait_for(lambda: self._judged() - self._before > self.sent - UNDER_WAY)

    def run_during(self, *command):
        process = self._line.start(*command)
        self.run_until(lambda: process.poll() is not None)
        assert process.returncode == 0, process.stderr.read()


def assert_promoted_and_rolled_back_under_load(line, worker, versions, images, metric):
    before, load = len(images), Load(line, worker, images)
    load.run_during("banks", "activate", "brick", versions[1], "--why", "promoted")
    load.run_until(lambda: serves(worker) == versions[1][:12])
    load.run_during("banks", "rollback", "brick", "--why", "back")
    load.run_until(lambda: serves(worker) == versions[0][:12])
    wait_for(lambda: archived(line, "SELECT COUNT(*) FROM verdicts") == [(before + load.sent,)], 90)
    verdicts = [json.loads(document) for (document,) in archived(line, "SELECT document FROM verdicts")]
    judged_under_load = [verdict for verdict in verdicts if verdict["job_id"].startswith("load-")]
    assert {verdict["attempt"] for verdict in judged_under_load} == {1}
    assert {verdict["decision"] for verdict in judged_under_load} <= {"pass", "review", "fail"}
    assert {verdict["bank_version"] for verdict in judged_under_load} == set(versions)
    assert archived(line, "SELECT COUNT(*) FROM further_verdicts") == [(0,)]
    assert worker.poll() is None
    assert line.metric(worker.metrics_port, "patchline_jobs_set_apart_total") == 0
    assert metric("bank_info") == 0  # the shadow ended when it was activated
    judged = archived(line, "SELECT COUNT(*) FROM shadows WHERE job_id LIKE 'load-%'")[0][0]
    assert judged <= metric("judged_total") - before  # the rest is on its way
    acts = [(entry["act"], entry["who"]) for entry in records(line.run("banks", "log", "brick").out) if "act" in entry]
    assert ("shadow", "anna") in acts
    assert [act for act, _ in acts][-3:] == ["shadow", "activate", "rollback"]
