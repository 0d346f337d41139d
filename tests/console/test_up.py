"""`patchline up` in a fresh folder, with real servers and processes, as somebody meets it who tries Patchline."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import psutil
import pytest

from patchline.operations import init
from patchline.services import server
from patchline.trial import plant as trial_plant
from patchline.trial import ports, processes
from tests import children
from tests.conftest import require_servers
from tests.console.web_client import web_client
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(600)
PATIENCE_S = 200.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PATCHLINE_")}


@pytest.fixture
def folder(tmp_path):
    """The folder of a plant with small images, whose urls name servers that do not run."""
    require_servers()
    plant = tmp_path / "plant"
    init.init(plant, "l1", "brick")
    amqp, redis = server.free_ports(2)
    text = (plant / "config.yaml").read_text()
    for old, new in {
        "127.0.0.1:5672": f"127.0.0.1:{amqp}",
        "127.0.0.1:6379": f"127.0.0.1:{redis}",
        "size: 256 ": "size: 128 ",  # resize and imagesize
        "coreset_ratio: 0.01": "coreset_ratio: 0.05",
        "false_reject_rate: 0.01": "false_reject_rate: 0.05",
        "review_rate: 0.05": "review_rate: 0.1",
        "deadline_ms: 10000 ": "deadline_ms: 100000 ",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    (plant / "config.yaml").write_text(text)
    return plant


class Trial:
    """A running `patchline up`, and what it has said."""

    def __init__(self, folder, stack):
        command = [sys.executable, "-m", "patchline", "up", str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=ENVIRONMENT, **pipes)
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        stack.callback(self.end, signal.SIGTERM)

    def _read(self):
        for row in self.process.stdout:
            self.said += row

    def wait_for(self, pattern, count=1):
        """Wait until it has said this so many times. Return the last match."""

        def found():
            assert self.process.poll() is None or re.search(pattern, self.said), self.said
            return len(re.findall(pattern, self.said)) >= count

        wait_for(found, PATIENCE_S)
        return [*re.finditer(pattern, self.said)][-1]

    def end(self, number):
        """Signal it, and return its exit code and how long it has taken."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(150)
        self._reader.join(10)
        self.process.stdout.close()
        return code, time.monotonic() - began


OWN = "a password of my own"


def logged_in(stack, address, password):
    client = stack.enter_context(web_client(address))
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("login").text)[1]
    page = client.post("login", data={"csrf": token, "name": "admin", "password": password})
    assert page.status_code == 200
    if password != OWN:  # it was given, and may be used once
        assert client.get("search").url.path == "/password"
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
        client.post("password", data={"csrf": token, "old": password, "new": OWN, "again": OWN})
        return logged_in(stack, address, OWN)
    return client


def test_a_plant_comes_up_judges_a_picture_is_ended_and_still_knows_the_part(folder, plant, texture_folder):
    with ExitStack() as stack:
        trial = Trial(folder, stack)
        address = trial.wait_for(r"open (http\S+) in a browser")[1]
        password = trial.wait_for(r"name admin, password (\S+)")[1]
        trial.wait_for("worker +waits for a memory bank")
        client = logged_in(stack, address, password)
        assert client.get("line").status_code == 200
        second = subprocess.run(
            [sys.executable, "-m", "patchline", "up", str(folder)], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert second.returncode == 2
        assert f"runs here already; its console is at {address}" in second.stderr
        shutil.copytree(plant / "faiss-index-precision" / "brick", folder / "fitted")
        (folder / "fitted").rename(folder / "faiss-index-precision" / "brick")
        trial.wait_for("publisher l1 +ready")
        shutil.copy(next((texture_folder / "test" / "scratch").glob("*.png")), folder / "captured" / "part-1.png")
        wait_for(lambda: "part-1" in client.get("search?part=part-1").text.partition("<tbody")[2], PATIENCE_S)
        (archive,) = children.living(trial.process.pid, "-m", "patchline", "archive")
        archive.kill()
        trial.wait_for(r"archive +was ended by signal 9, starts again in 1 s")
        trial.wait_for("archive +ready", count=2)
        started = children.living(trial.process.pid)
        code, seconds = trial.end(signal.SIGINT)
        assert (code, seconds < trial_plant._END_S) == (0, True), (seconds, trial.said)
        ended = re.findall(r"(?m)^\S+  (\w+)[\w ]* ended$", trial.said)
        assert {*ended[:2]} == {"publisher", "console"}
        assert ended[2] == "worker"
        assert {*ended[-2:]} == {"redis", "rabbitmq"}
        assert not [one for one in started if children.is_alive(one)]
    with ExitStack() as stack:
        trial = Trial(folder, stack)
        trial.wait_for("publisher l1 +ready")
        client = logged_in(stack, trial.wait_for(r"open (http\S+) in a browser")[1], OWN)
        assert "part-1" in client.get("search?part=part-1").text.partition("<tbody")[2]
        assert "password" not in trial.said


def test_two_plants_that_come_up_together_have_pages_of_their_own(folder, tmp_path):
    """The second one said that it was ready, since the first one's console answered its probes."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    with ExitStack() as stack:
        trials = [Trial(plant, stack) for plant in (folder, other)]
        opened = [trial.wait_for(r"open (http\S+) in a browser")[1] for trial in trials]
        given = [trial.wait_for(r"name admin, password (\S+)")[1] for trial in trials]
        assert len({*opened}) == 2
        for trial, address, password in zip(trials, opened, given, strict=True):
            trial.wait_for("archive +ready")
            assert "starts again" not in trial.said
            assert logged_in(stack, address, password).get("line").status_code == 200


def test_two_trials_choose_other_ports_before_anybody_listens_and_one_that_ends_gives_them_back():
    wanted = {"pages": 0, "worker": 0}
    with ports.Claims() as first:
        taken = first.choose(wanted)
        with ports.Claims() as second:
            others = second.choose(taken)
        assert not {*taken.values()} & {*others.values()}
    with ports.Claims() as third:
        assert third.choose(taken) == taken


def resume(process):
    with suppress(psutil.NoSuchProcess):  # it has ended
        process.resume()


def test_a_trial_that_follows_a_killed_one_waits_for_the_end_of_its_rabbitmq(folder):
    """Two nodes had the same data for seconds."""
    with ExitStack() as stack:
        first = Trial(folder, stack)
        first.wait_for("rabbitmq +ready")
        left, guards = (children.living(first.process.pid, recursive=deep) for deep in (True, False))
        for guard in guards:  # they end nothing before the second one has seen them, however slowly it comes up
            guard.suspend()
            stack.callback(resume, guard)
        first.end(signal.SIGKILL)
        second = Trial(folder, stack)
        second.wait_for("an earlier one was killed")
        for guard in guards:
            resume(guard)
        second.wait_for("redis +ready")
        assert not [one for one in left if children.is_alive(one)]
        assert second.end(signal.SIGINT)[0] == 0


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_a_port_that_somebody_has_at_another_address_of_the_console_is_not_chosen(host):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        port = taken.getsockname()[1]
        for hosts in (["::"], [host]) if ":" in host else (["0.0.0.0"], [host], ["", "no.such.host"]):
            with ports.Claims(hosts) as claims:
                assert not claims.take(port)
        with ports.Claims(["no.such.host", "192.0.2.1"]) as claims:
            assert claims.take(port)


SERVES = """
import sys, time
from patchline.runtime import health
from patchline.runtime.metrics import Registry, application
class Ready:
    is_alive = is_ready = lambda self: True
if sys.argv[1] != "0":
    health.serve("127.0.0.1", int(sys.argv[1]), application(Registry()), Ready())
time.sleep(60)
"""


def test_a_process_is_not_ready_because_another_one_answers_at_its_port(tmp_path):
    (port,) = server.free_ports(1)
    launcher = processes.Launcher(tmp_path / "config.yaml", tmp_path, {}, server.HOST, print)
    child = launcher.child(processes.Program("worker", ("worker",), port), lambda: True)
    with ExitStack() as stack:
        silent, serving = (
            server.start_guarded([sys.executable, "-c", SERVES, number], None, None, {}) for number in ("0", str(port))
        )
        stack.callback(server.stop_guarded, silent)
        stack.callback(server.stop_guarded, serving)
        wait_for(lambda: child.is_ready(serving))
        assert not child.is_ready(silent)
