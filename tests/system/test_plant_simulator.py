"""The simulated belt as a process: the server of its PLC, its triggers, its commands and its ledger."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from patchline import config
from patchline.plant import plc_server
from patchline.plant.line import plc_settings
from patchline.plant.plc_server import GATE_NODE, PLC_NODE
from patchline.plant.simulator import geometry_of
from patchline.plc import connecting
from patchline.plc.register_map import Bin, Layout
from patchline.plc.words import PlcError
from patchline.protocol import messages
from patchline.runtime import connections
from patchline.services.server import free_ports
from tests.plant.scene import Ledger
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.scripted_gate import BAD, GOOD, ScriptedGate

LAYOUT = Layout(gate=0, plc=2000, slots=128)
RULES = config.PlcRules(
    gate_start=0, plc_start=2000, slots=128, gate_node=GATE_NODE, plc_node=PLC_NODE, timeout_ms=2000
)
pytestmark = pytest.mark.timeout(300)  # on a busy machine


class Run:
    """A simulator, the socket on which its camera would hear, and a gate."""

    def __init__(self, folder, plc):
        (port,) = free_ports(1)
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.camera = socket.socket(type=socket.SOCK_DGRAM)
        self.camera.bind(("127.0.0.1", 0))
        self.camera.settimeout(0.02)
        (folder / "pictures.txt").write_text(f"{GOOD}\n{BAD}\n{GOOD}\n")
        options = ("--plc", plc, "--port", port, "--camera-port", self.camera.getsockname()[1], "--arm-s", 1)
        files = ("--pictures", folder / "pictures.txt", "--ledger", folder / "ledger.jsonl")
        command = [sys.executable, "-m", "patchline.plant.simulator", *map(str, (*options, *files))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self.link = Proxy(port)
        memory = connecting.open_memory(plc_server.gate_address(plc, self.link.port), RULES)
        geometry, speed = geometry_of(20.0, 1.0)
        self.gate = ScriptedGate(memory, LAYOUT, distance=plc_settings(geometry, LAYOUT, speed).distance)

    def step(self):
        shots = []
        with contextlib.suppress(TimeoutError):
            shots = [SimpleNamespace(**json.loads(self.camera.recv(4096)))]
        with contextlib.suppress(PlcError):
            self.gate.step(time.monotonic(), shots)

    def command(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def of(self, kind):
        return [event for event in self.ledger.read() if event["kind"] == kind]

    def until(self, condition):
        while not condition():
            assert self.process.poll() is None or condition()
            self.step()

    def passed(self, since=0.0):
        """Return True when some parts that were triggered after a time are in the good bin."""
        parts = {event["part"] for event in self.of("trigger") if event["at"] > since}
        return len(parts & {event["part"] for event in self.of("bin") if event["bin"] == Bin.GOOD}) >= 5

    def finish(self):
        """Let the belt run empty. Only good parts are in the good bin."""
        self.command("finish")
        self.until(lambda: self.of("empty"))
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        assert {event["picture"] for event in self.of("bin") if event["bin"] == Bin.GOOD} == {GOOD}


@pytest.fixture(params=plc_server.KINDS)
def run(tmp_path, request):
    run = Run(tmp_path, request.param)
    yield run
    run.process.stdin.close()
    run.process.wait(30)
    run.gate.memory.close()
    run.link.close()
    run.camera.close()


def test_a_gate_drives_the_belt_over_every_protocol(run):
    run.until(run.passed)
    run.finish()
    assert len(run.of("trigger")) == len(run.of("confirmation")) == len(run.of("bin"))


@pytest.mark.parametrize(("command", "state"), [("restart 0.5", "off"), ("reset 0.5", "off"), ("freeze 0.5", "frozen")])
def test_a_plc_that_is_away_for_a_while_rejects_and_returns(run, command, state):
    run.until(run.passed)
    run.command(command)
    run.until(lambda: len(run.of("plc")) == 3)
    first, away, again = run.of("plc")
    assert [first["state"], away["state"], again["state"]] == ["runs", state, "runs"]
    run.until(lambda: run.passed(since=again["at"]))
    run.finish()
    assert not any(event["on"] for event in run.of("coil") if away["at"] < event["at"] < again["at"])


def test_lost_packets_between_gate_and_plc_let_no_bad_part_pass(run):
    run.until(run.passed)
    run.link.loss, lossy_at = 0.3, time.monotonic()
    run.until(lambda: sum(event["at"] > lossy_at for event in run.of("bin")) >= 40)
    run.link.loss, sound_at = 0.0, time.monotonic()
    run.until(lambda: run.passed(since=sound_at))
    run.finish()


@pytest.mark.parametrize("run", ["modbus"], indirect=True)
def test_the_simulator_ends_with_its_input(run):
    run.until(lambda: run.of("trigger"))
    run.process.stdin.close()
    assert run.process.wait(30) == 0


def test_the_camera_sends_the_picture_of_each_trigger_with_number_and_count(line, texture_folder):
    (port,) = free_ports(1)
    options = ("--line", "l1", "--category", "brick", "--port", str(port), "--deadline-ms", "60000")
    command = [sys.executable, "-m", "patchline.plant.camera", *options, "--config", str(line.folder / "config.yaml")]
    camera = subprocess.Popen(command, env=os.environ | line.environment)
    line.on_exit(camera)
    picture = next((texture_folder / "test" / "good").glob("*.png"))
    shot = {"number": 7, "count": -12, "picture": str(picture)}
    received = []
    with socket.socket(type=socket.SOCK_DGRAM) as plc:
        plc.connect(("127.0.0.1", port))
        while not received:  # a trigger that comes before the camera is there is lost
            with contextlib.suppress(ConnectionRefusedError):
                plc.send(json.dumps(shot | {"captured_at": connections.now_ms()}).encode())
            received = line.messages(JOBS_QUEUE, 1, timeout_s=1.0)
    job = messages.parse_job(received[0])
    assert (job.part_id, job.number, job.encoder_count) == ("n7", 7, -12)
    assert job.deadline - job.captured_at == 60_000
    assert received[0].body == picture.read_bytes()
