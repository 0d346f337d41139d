"""A camera that the PLC of a simulated belt triggers, over each protocol, through restarts and lost packets."""

import os
import signal
import subprocess
import sys
import time

import pytest

from patchline import config
from patchline.plant import plc_server, starting
from patchline.plant.plc_server import GATE_NODE, PLC_NODE
from patchline.plc.register_map import Layout
from patchline.protocol import messages
from patchline.services.server import free_ports
from tests.plant.scene import Ledger
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.scripted_gate import GOOD
from tests.system.cameras import CAMERA, configure
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(300)
LAYOUT = Layout(gate=0, plc=2000, slots=128)
RATE = 5.0
READ = "the PLC is read"
LATE_MS = 10_000  # for a busy machine


class Belt:
    """A belt whose PLC is behind a proxy, and the camera that it triggers."""

    def __init__(self, line, folder, process, ledger, kind, link):
        self.line, self.folder, self.process, self.ledger, self.link = line, folder, process, ledger, link
        nodes = {"gate_node": GATE_NODE, "plc_node": PLC_NODE} if kind == "opcua" else {}
        rules = config.Plc(plc_start=LAYOUT.plc, slots=LAYOUT.slots, timeout_ms=1000, **nodes)
        configure(line, folder, plc=rules, trigger_late_ms=LATE_MS, frame_timeout_ms=LATE_MS)
        self.log = folder / "camera.log"
        self.jobs = {}

    def start_camera(self, address):
        command = [sys.executable, "-m", "patchline", *CAMERA, "--deadline-ms", "60000", "--triggers", address]
        with self.log.open("w") as log:
            camera = subprocess.Popen(
                [*command, "--config", str(self.folder / "config.yaml"), "simulated:frame_s=0.001"],
                env=os.environ | self.line.environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.line.on_exit(camera)
        wait_for(lambda: "camera open" in self.log.read_text())
        wait_for(lambda: READ in self.log.read_text())
        return camera

    def command(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def until(self, condition):
        """Take the jobs of the camera until a condition holds."""

        def holds():
            for message in self.line.messages(JOBS_QUEUE, 100, timeout_s=0.2):
                job = messages.parse_job(message)
                self.jobs[job.job_id] = job
            return condition()

        wait_for(holds, timeout_s=90)

    def triggers(self, since=0.0):
        return [(event["number"], event["count"]) for event in self.ledger.of("trigger") if event["at"] > since]

    def pictured(self, since=0.0):
        """The parts that were triggered after a time, and have an image."""
        pictured = {(job.number, job.encoder_count) for job in self.jobs.values() if job.no_image is None}
        return pictured & set(self.triggers(since))


@pytest.fixture
def belt(line, tmp_path, request):
    kind = getattr(request, "param", "modbus")
    plc_port, nobody = free_ports(2)
    (tmp_path / "pictures.txt").write_text(f"{GOOD}\n")
    link = Proxy(plc_port)
    simulator = starting.simulator(
        tmp_path / "simulator.log", LAYOUT, plc=kind, port=plc_port, camera_port=nobody,
        pictures=tmp_path / "pictures.txt", ledger=tmp_path / "ledger.jsonl", rate=RATE, motion="steady",
    )  # fmt: skip
    with simulator as process:
        belt = Belt(line, tmp_path, process, Ledger(tmp_path / "ledger.jsonl"), kind, link)
        belt.camera = belt.start_camera(plc_server.gate_address(kind, link.port))
        yield belt
    link.close()


@pytest.mark.parametrize("belt", plc_server.KINDS, indirect=True)
def test_each_part_that_the_plc_numbers_is_photographed_over_every_protocol(belt):
    starting.run_belt(belt.process)
    belt.until(lambda: len(belt.pictured()) >= 15)
    belt.command("finish")
    belt.until(lambda: belt.ledger.of("empty") and len(belt.jobs) == len(belt.triggers()))
    assert sorted((job.number, job.encoder_count) for job in belt.jobs.values()) == sorted(belt.triggers())


@pytest.mark.parametrize("command", ["restart 0.5", "reset 0.5", "freeze 0.5"])
def test_a_camera_says_that_its_plc_is_away_and_goes_on_when_it_returns(belt, command):
    starting.run_belt(belt.process)
    belt.until(lambda: len(belt.pictured()) >= 3)
    belt.command(command)
    belt.until(lambda: len(belt.ledger.of("plc")) == 3)
    again = belt.ledger.of("plc")[-1]["at"]
    belt.until(lambda: len(belt.pictured(since=again)) >= 3)
    log = belt.log.read_text()
    assert ("the PLC counts its triggers anew" in log) == command.startswith("reset")
    if "freeze" not in command:
        assert "the PLC gives no triggers" in log
        assert log.count(READ) >= 2  # once more for each answer that took a busy machine longer than a second


def test_lost_packets_delay_triggers_and_lose_none(belt):
    starting.run_belt(belt.process)
    belt.link.loss = 0.3
    belt.until(lambda: len(belt.jobs) >= 20)
    belt.link.loss = 0.0
    belt.command("finish")
    belt.until(lambda: belt.ledger.of("empty") and len(belt.jobs) == len(belt.triggers()))
    assert sorted((job.number, job.encoder_count) for job in belt.jobs.values()) == sorted(belt.triggers())


def test_a_camera_that_was_frozen_photographs_none_of_the_parts_that_have_passed(belt):
    starting.run_belt(belt.process)
    belt.until(lambda: len(belt.pictured()) >= 3)
    belt.camera.send_signal(signal.SIGSTOP)
    seen = len(belt.triggers())
    wait_for(lambda: len(belt.triggers()) >= seen + 8)
    thawed = time.monotonic()
    belt.camera.send_signal(signal.SIGCONT)
    belt.until(lambda: len(belt.pictured(since=thawed)) >= 3)
    belt.until(lambda: {number for number, _ in belt.triggers()} <= {job.number for job in belt.jobs.values()})
    passed = [job for job in belt.jobs.values() if seen + 1 < job.number < seen + 8]
    assert len(passed) == 6
    assert {str(job.no_image)[:36] for job in passed} == {"the PLC had triggered another part b"}
