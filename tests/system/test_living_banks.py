"""Memory banks that are switched while real workers judge: under load, on two hosts, and cut off from the store."""

import re
import shutil
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from patchline import config
from patchline.banks import fit, serving
from patchline.devices.backbone import Device
from patchline.inspection.inspector import untimed
from patchline.protocol.messages import Decision
from tests.conftest import CONFIG, made_once, make_bank, make_textures
from tests.system.conftest import Line, records, wait_for

pytestmark = pytest.mark.timeout(240)
JOBS = 600
TOLERANCE = 1e-3  # of a score: the same bank and image in another process
JUDGED = {Decision.PASS, Decision.REVIEW, Decision.FAIL}


@pytest.fixture(scope="module")
def banks(tmp_path_factory, plant):
    """Folders of two banks of the category: that of the plant, and one of more good images."""

    def make(folder):
        make_textures(folder / "pictures", "brick.png", count=60)
        make_bank(folder, folder / "pictures" / "train" / "good", seed=1)

    folder = made_once(tmp_path_factory, "two-banks", make)
    return plant / "faiss-index-precision" / "brick", folder / "faiss-index-precision" / "brick"


def make_host(folder, store, endpoint="null"):
    """Write the configuration of a host whose store is a folder, a link to one, or a bucket at an endpoint."""
    folder.mkdir()
    banks = f"{{store: '{store}', endpoint: {endpoint}, poll_s: 0.2}}"
    (folder / "config.yaml").write_text(CONFIG + f"banks: {banks}\n")
    (folder / "models").symlink_to(Path("models").resolve())
    return folder


@pytest.fixture
def line(empty_servers, tmp_path):
    """A line whose banks are in a store."""
    with ExitStack() as stack:
        yield Line(make_host(tmp_path / "a", tmp_path / "store"), empty_servers, stack)


@pytest.fixture
def versions(line, banks):
    """The digests of the two versions. The first one is active."""
    assert line.run("banks", "init").returncode == 0
    digests = []
    for folder in banks:
        result = line.run("banks", "publish", "brick", "--from", str(folder), "--why", "a test")
        digests += re.findall(r"is version ([0-9a-f]{64})", result.out)
    activate(line, digests[0])
    return digests


def activate(line, version, *options):
    result = line.run("banks", "activate", "brick", version[:8], "--why", "a test", *options)
    assert result.returncode == 0, result.err


def serves(worker):
    """The version that a worker serves, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=5) as reply:
        page = reply.read().decode()
    (version,) = re.findall(r'(?m)^patchline_bank_info{category="brick",version="(\w+)"} 1', page)
    return version


def scores_of(banks, versions, pictures):
    """The score of each picture by each version, measured in this process."""
    scores = {}
    for folder, version in zip(banks, versions, strict=True):
        loader = serving.Loader(config.load(folder.parents[1] / "config.yaml"), Device.parse("cpu"), streams=1)
        inspector = loader.load_folder("brick", folder)
        for number, picture in enumerate(pictures):
            scores[version, number] = inspector.inspect(picture.read_bytes(), "image/png", untimed).score
    return scores


class Load:
    """Jobs of which always as many are under way, until a condition holds: on a fast machine as on a slow one."""

    def __init__(self, line, pictures, under_way=60):
        self._line, self._pictures = line, pictures
        self.sent, self.verdicts = 0, []
        for _ in range(under_way):
            self._send()

    def _send(self):
        picture = self._pictures[self.sent % len(self._pictures)]
        self._line.send(picture.read_bytes(), f"job-{self.sent}")
        self.sent += 1

    def run_until(self, condition):
        while not condition():
            self.verdicts += self._line.verdicts(1) or pytest.fail("a verdict is missing")
            self._send()

    def run_until_judged_by(self, version):
        self.run_until(lambda: self.verdicts and self.verdicts[-1].bank_version == version)

    def run_during(self, *command):
        """Run a command while the jobs go on. It must succeed."""
        process = self._line.start(*command)
        self.run_until(lambda: process.poll() is not None)
        assert process.returncode == 0, process.stderr.read()

    def finish(self):
        self.verdicts += self._line.verdicts(self.sent - len(self.verdicts))


def test_a_bank_is_switched_under_full_load_and_every_verdict_is_of_one_bank(line, banks, versions, texture_folder):
    pictures = sorted((texture_folder / "test").rglob("*.png"))
    settings = line.folder / "config.yaml"
    settings.write_text(settings.read_text().replace("poll_s: 0.2", "poll_s: 60"))  # the message is faster
    worker = line.worker("--device", "cpu")
    load = Load(line, pictures)
    load.run_until(lambda: len(load.verdicts) >= JOBS // 6)
    load.run_during("banks", "activate", "brick", versions[1], "--why", "a test")
    load.run_until_judged_by(versions[1])
    load.run_during("banks", "rollback", "brick", "--why", "a test")
    load.run_until_judged_by(versions[0])
    load.run_until(lambda: load.sent >= JOBS)
    load.finish()
    verdicts = load.verdicts
    assert {verdict.job_id for verdict in verdicts} == {f"job-{number}" for number in range(load.sent)}
    assert {verdict.decision for verdict in verdicts} <= JUDGED
    assert {verdict.attempt for verdict in verdicts} == {1}
    assert {verdict.bank_version for verdict in verdicts} == set(versions)
    expected = scores_of(banks, versions, pictures)
    apart = [abs(expected[versions[0], n] / expected[versions[1], n] - 1) for n in range(len(pictures))]
    assert min(apart) > 2 * TOLERANCE
    for verdict in verdicts:
        number = int(verdict.job_id.removeprefix("job-")) % len(pictures)
        assert verdict.score == pytest.approx(expected[verdict.bank_version, number], rel=TOLERANCE)
    wait_for(lambda: serves(worker) == versions[0][:12])
    assert line.metric(worker.metrics_port, "patchline_bank_switches_total") == 2
    assert line.metric(worker.metrics_port, "patchline_bank_not_activated") == 0
    log = records(line.run("banks", "log", "brick").out)
    assert [entry["state"] for entry in log if "worker" in entry] == ["serving", "serving"]


def test_a_worker_that_is_cut_off_from_the_store_keeps_its_bank_and_catches_up(line, versions, tmp_path, servers):
    link = tmp_path / "store-of-b"
    link.symlink_to(tmp_path / "store")
    with ExitStack() as stack:
        other = Line(make_host(tmp_path / "b", link), servers, stack)
        first, second = line.worker("--device", "cpu"), other.worker("--device", "cpu")
        link.unlink()  # unmounted
        read_at = "patchline_bank_store_read_timestamp_seconds"
        wait_for(lambda: line.metric(first.metrics_port, read_at) > other.metric(second.metrics_port, read_at) + 1)
        activate(line, versions[1])
        wait_for(lambda: serves(first) == versions[1][:12])
        assert serves(second) == versions[0][:12]
        listed = line.run("banks", "list", "brick").out
        assert re.search(rf"{versions[1][:12]} │ active .* │ 1 ", listed)
        assert re.search(rf"{versions[0][:12]} │ previous .* │ 1 ", listed)
        second.terminate()  # also after a restart, without the store
        assert second.wait(30) == 0
        second = other.worker("--device", "cpu")
        assert serves(second) == versions[0][:12]
        link.symlink_to(tmp_path / "store")
        wait_for(lambda: serves(second) == versions[1][:12])
        shutil.rmtree(line.folder / "served-banks")
        assert serves(first) == versions[1][:12]


def test_of_two_people_who_activate_at_the_same_time_one_is_told_what_the_other_has_done(line, versions):
    command = ("banks", "activate", "brick", versions[1], "--why", "a test", "--instead-of", versions[0])
    people = [line.start(*command, "--who", name) for name in ("anna", "bob")]
    results = {person.communicate(timeout=40)[1]: person.returncode for person in people}
    assert sorted(results.values()) == [0, 2]
    (text,) = [text for text, code in results.items() if code == 2]
    assert re.search(rf"(anna|bob) has activated {versions[1][:12]} \(a test\)", text)
    assert "Traceback" not in text


def test_a_worker_refuses_a_version_that_does_not_fit_its_recipe(line, banks, versions, tmp_path):
    worker = line.worker("--device", "cpu")
    settings = config.load(banks[0].parents[1] / "config.yaml")
    other = settings.categories["brick"].model_copy(update={"resize": 160})
    paths = settings.paths.model_copy(update={"memory_banks": tmp_path / "other"})
    changed = settings.model_copy(update={"categories": {"brick": other}, "paths": paths})
    make_textures(tmp_path / "pictures", "brick.png")
    fit.fit(changed, "brick", tmp_path / "pictures" / "train" / "good", seed=0)
    result = line.run("banks", "publish", "brick", "--from", str(tmp_path / "other" / "brick"), "--why", "larger")
    (version,) = re.findall(r"is version ([0-9a-f]{64})", result.out)
    assert line.run("banks", "shadow", "brick", version[:8], "--why", "a test").returncode == 0
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_shadow_bank_not_loaded") == 1)
    activate(line, version)
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_bank_not_activated") == 1)
    assert serves(worker) == versions[0][:12]
    refused = [entry for entry in records(line.run("banks", "log", "brick").out) if entry.get("state") == "refused"]
    assert "resize was 160 and is 128" in refused[0]["reason"]
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_shadow_bank_not_loaded") == 0)  # it is to serve now
    refused = [
        entry for entry in records(line.run("banks", "log", "brick").out) if entry.get("state") == "shadow refused"
    ]
    assert "resize was 160 and is 128" in refused[0]["reason"]
