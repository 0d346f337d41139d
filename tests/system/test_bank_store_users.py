"""Two people and two workers, each a user of its own, and a folder of memory banks that they share."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import Line, records, wait_for
from tests.system.test_living_banks import banks, make_host, serves

__all__ = ["banks"]  # a fixture
pytestmark = pytest.mark.timeout(480)
PEOPLE = 64_000  # their group
ANNA, BOB, WORKER_A, WORKER_B = 64_001, 64_002, 64_003, 64_004
READ_AT = "patchline_bank_store_read_timestamp_seconds"


def command(user, umask):
    """What runs patchline as a user. People have a group in common."""
    groups = f"--groups={PEOPLE}" if user in (ANNA, BOB) else "--clear-groups"
    shell = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", groups, "--", *shell, interpreter(), "-m", "patchline"]


def interpreter():
    """A Python that other users may run: this one, or that of the system with the same packages."""
    return next(python for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}") if runs(python))


def runs(python):
    if not Path(python).exists():
        return False
    as_user = ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--clear-groups", "--", "env", python]
    script = "import patchline.worker.process, numpy"
    return subprocess.run([*as_user, "-c", script], env=environment(), cwd="/", capture_output=True).returncode == 0


def environment():
    packages = [str(Path.cwd()), sysconfig.get_paths()["purelib"]]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(packages),
        "HOME": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture(scope="module", autouse=True)
def _other_users():
    if os.geteuid() != 0:
        pytest.skip("only root can run processes as several users")
    if not any(map(runs, (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"))):
        pytest.skip(f"no other user may run {sys.executable} and read {Path.cwd()}")


@pytest.fixture
def shared():
    """A folder that all users may go through; pytest's belong to root only."""
    folder = Path(tempfile.mkdtemp(prefix="patchline-users-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(shared, empty_servers):
    """Make a line whose processes run as a user, with a host's folder of its own."""
    with ExitStack() as stack:

        def start_(name, user, store, umask="077"):
            host = make_host(shared / name, store)
            line = Line(host, empty_servers, stack)
            line.command = command(user, umask)
            line.environment |= environment() | {"USER": name, "LOGNAME": name}
            shutil.chown(host, user, user)
            return line

        yield start_


def acted(line, *arguments, code=0):
    result = line.run("banks", *arguments)
    assert result.returncode == code, result.err
    assert "Traceback" not in result.err
    return result.out + result.err


def read_at(line, worker):
    return line.metric(worker.metrics_port, READ_AT)


@dataclass
class Plant:
    """Two people and two workers, with a store of two versions. The second worker finds the store by a link."""

    store: Path
    link: Path
    anna: Line
    bob: Line
    a: Line
    b: Line
    versions: list[str]
    of_a: subprocess.Popen = None
    of_b: subprocess.Popen = None

    def serve(self, version):
        wait_for(lambda: {serves(self.of_a), serves(self.of_b)} == {version[:12]})


@pytest.fixture
def plant_of_four(start, shared, banks):
    """Each of the two people has published a version, and the first one is active."""
    store, link = shared / "store", shared / "store-of-b"
    store.mkdir()
    shutil.chown(store, ANNA, PEOPLE)
    store.chmod(0o2775)  # people write, all others read; each of them has a umask that lets in nobody
    link.symlink_to(store)
    anna, bob = start("anna", ANNA, store), start("bob", BOB, store)
    a, b = start("a", WORKER_A, store), start("b", WORKER_B, link)
    for folder in banks:
        shutil.copytree(folder, shared / folder.parents[1].name, copy_function=shutil.copyfile)
    first, second = (str(shared / folder.parents[1].name) for folder in banks)
    assert "cannot be written by 64003 (Permission denied)" in acted(a, "init", code=2)
    acted(anna, "init")
    versions = [
        re.search(r"is version ([0-9a-f]{64})", acted(person, "publish", "brick", "--from", folder, "--why", "x"))[1]
        for person, folder in ((anna, first), (bob, second))
    ]
    acted(anna, "activate", "brick", versions[0], "--why", "x")
    assert "cannot be written by 64003" in acted(a, "activate", "brick", versions[1], "--why", "x", code=2)
    return Plant(store, link, anna, bob, a, b, versions)


def test_people_and_workers_with_users_of_their_own_share_a_store(plant_of_four):
    plant = plant_of_four
    plant.of_a, plant.of_b = plant.a.worker("--device", "cpu"), plant.b.worker("--device", "cpu")
    plant.serve(plant.versions[0])
    assert_a_host_that_is_cut_off_keeps_its_bank_and_catches_up(plant)
    assert_workers_report_once_they_may_write(plant)
    assert_workers_that_may_not_read_the_store_go_on_and_say_so(plant)


def assert_a_host_that_is_cut_off_keeps_its_bank_and_catches_up(plant):
    first, second = plant.versions
    plant.link.unlink()
    acted(plant.bob, "activate", "brick", second, "--why", "x")
    wait_for(lambda: serves(plant.of_a) == second[:12])
    wait_for(lambda: "does not take the report of this worker" in plant.of_a.stderr.readline())
    wait_for(lambda: read_at(plant.a, plant.of_a) > read_at(plant.b, plant.of_b) + 1)
    assert serves(plant.of_b) == first[:12]
    listed = acted(plant.anna, "list", "brick")
    assert re.search(rf"{second[:12]} │ active .* │ 1 ", listed)
    assert re.search(rf"{first[:12]} │ previous .* │ 1 ", listed)
    plant.of_b.terminate()  # also after a restart
    assert plant.of_b.wait(30) == 0
    plant.of_b = plant.b.worker("--device", "cpu")
    assert serves(plant.of_b) == first[:12]
    plant.link.symlink_to(plant.store)
    wait_for(lambda: serves(plant.of_b) == second[:12])


def assert_workers_report_once_they_may_write(plant):
    log = records(acted(plant.bob, "log", "brick"))
    assert [entry.get("act") for entry in log] == ["publish", "publish", "activate", "activate"]  # no worker may write
    reports = plant.store / "brick" / "reports"
    reports.mkdir()
    reports.chmod(0o1777)
    acted(plant.bob, "rollback", "brick", "--why", "x")
    plant.serve(plant.versions[0])
    wait_for(
        lambda: [entry.get("state") for entry in records(acted(plant.anna, "log", "brick"))][5:] == ["serving"] * 2
    )


def assert_workers_that_may_not_read_the_store_go_on_and_say_so(plant):
    plant.store.chmod(0o2770)
    wait_for(lambda: "cannot be read, serving the previous banks" in plant.of_a.stderr.readline())
    plant.serve(plant.versions[0])
    found = plant.a.run("doctor")
    assert found.returncode == 1
    assert re.search(r"bank store +│ PROBLEM │ .* cannot be read by 64003 \(Permission denied\)", flat(found.out))
    plant.store.chmod(0o2775)
    acted(plant.anna, "activate", "brick", plant.versions[1], "--why", "x")
    plant.serve(plant.versions[1])


def flat(table):
    """A table whose cells have one line."""
    return re.sub(r" +│\n│ +│ +│ ", " ", table)


def test_doctor_says_what_a_user_may_do_in_the_store(start, shared, banks):
    store = shared / "store"
    store.mkdir()
    shutil.chown(store, ANNA, PEOPLE)
    store.chmod(0o2775)
    anna, bob, a = start("anna", ANNA, store), start("bob", BOB, store), start("a", WORKER_A, store)
    acted(anna, "init")
    shutil.copytree(banks[0], shared / "bank", copy_function=shutil.copyfile)
    acted(anna, "publish", "brick", "--from", str(shared / "bank"), "--why", "x")
    assert "ok: 64001 may publish and activate" in stores(anna)
    assert "note: 64003 may only read, which is enough to serve" in stores(a)
    (store / "brick" / "log").chmod(0o755)  # as an earlier build made it
    assert re.search(r"PROBLEM: .*brick/log: 64002 may not write there, but elsewhere", stores(bob))
    (shared / "a").chmod(0o755)
    shutil.chown(shared / "a", ANNA)
    (shared / "a" / "archive").mkdir(mode=0o700)
    text = stores(a)
    assert re.search(r"bank copies PROBLEM: .*64003 may not write there", text)
    assert re.search(r"archive PROBLEM: .*archive: cannot be read \(Permission denied\)", text)


def stores(line):
    """What doctor says of the stores, without the rest of it."""
    script = """
import pathlib, sys
from patchline import config
from patchline.operations import store_checks
for finding in store_checks.run(config.load(pathlib.Path(sys.argv[1]))):
    print(f"{finding.subject} {finding.state}: {finding.text}")
"""
    command = [*line.command[:-2], "-c", script, str(line.folder / "config.yaml")]
    return subprocess.run(command, env=os.environ | line.environment, capture_output=True, text=True, check=True).stdout
