"""The scene: a simulated belt with its PLC, a camera, a worker, two gates, and all that can disturb them."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from patchline import config
from patchline.broker.rabbitmq import RabbitBroker
from patchline.plant import plc_server, starting
from patchline.plant.ledger import LedgerReader
from patchline.plant.line import gate_settings, plc_settings
from patchline.plant.simulator import geometry_of
from patchline.plc.register_map import Layout
from patchline.protocol import gate_messages, messages, topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from patchline.services.server import free_ports
from tests.chaos import scene as line
from tests.chaos.line_ends import Process
from tests.plant import archived
from tests.plant.eyes import POLL_MS, FileEye
from tests.plant.goods import CATEGORY, digest
from tests.proxy import Proxy

LINE, GATES = "l1", ("a", "b")
ARM_S = 2.5
LAYOUT = Layout(gate=0, plc=2000, slots=128)
AUDIT = "plant.audit"
WITNESS = Path(line.__file__).with_name("witness")
CHANGES = {
    "worker": {"start_s": 20.0, "stuck_s": 5.0, "restart_pause_s": 0.2, "restart_pause_max_s": 0.5, "metrics_port": 0},
    "broker": {"confirm_timeout_s": 1.0, "max_attempts": 5},
    "publisher": {"confirm_timeout_s": 1.0},
    "gate": {"lease_ms": 1000},
    "archive": archived.CHANGES,
}


class Ledger:
    """The events that the simulator has written so far."""

    def __init__(self, path):
        self._reader = LedgerReader(path)
        self.events = []

    def read(self):
        """Read what is new. Return all events."""
        self.events += self._reader.read()
        return self.events

    def of(self, kind):
        """Return all events of a kind."""
        return [event for event in self.read() if event["kind"] == kind]


@dataclass
class Audit:
    """What was published about parts: decisions of verdicts, acts of gates, and what the gates say became of parts.

    A part has a number and the encoder's count at its trigger (None if its gate does not know it). Of its job there is
    a digest of the picture, if jobs are listened to; of its verdict, why there is no picture.
    """

    verdicts: list[tuple[int, int | None, Decision]] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)  # of the verdicts
    acts: list[tuple[int, int | None, str, str]] = field(default_factory=list)  # with action and reason
    outcomes: list[tuple[int, str]] = field(default_factory=list)
    pictures: list[tuple[int, int | None, str]] = field(default_factory=list)
    no_image: list[tuple[int, int | None, str]] = field(default_factory=list)

    def take(self, message):
        """Take note of a message."""
        if message.type == messages.VERDICT_TYPE:
            verdict = messages.parse_verdict(message)
            self.verdicts.append((verdict.number, verdict.encoder_count, verdict.decision))
            self.jobs.add(verdict.job_id)
            if verdict.reason is Reason.NO_IMAGE:
                self.no_image.append((verdict.number, verdict.encoder_count, str(verdict.detail)))
        elif message.type == messages.JOB_TYPE:
            job = messages.parse_job(message)
            if job.no_image is None:
                self.pictures.append((job.number, job.encoder_count, digest(message.body)))
        elif message.type == gate_messages.ACT_TYPE:
            act = gate_messages.parse_act(message)
            if act.state is gate_messages.ActState.DONE:
                self.acts.append((act.number, act.encoder_count, act.action, act.because))
        elif message.type == gate_messages.OUTCOME_TYPE:
            outcome = gate_messages.OutcomeRecord.model_validate_json(message.body)
            self.outcomes.append((outcome.number, outcome.outcome))


@dataclass
class Plant:
    """Handles on the processes of a plant."""

    folder: Path
    rate: float
    ledger: Ledger
    link: Proxy
    proxies: dict[str, list[Proxy]]
    eye: object
    simulator: subprocess.Popen | None = None
    camera: Process | None = None
    worker: Process | None = None
    archive: Process | None = None
    settings: config.Config | None = None
    gates: dict[str, Process] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)

    def command(self, text):
        """Give the simulator a command."""
        self.simulator.stdin.write(text + "\n")
        self.simulator.stdin.flush()

    def fallen(self):
        """Return how many parts lie in a bin."""
        return sum(event["kind"] == "bin" for event in self.ledger.read())

    def workers(self):
        """Return the running worker processes, without their supervisor."""
        return line.worker_processes(self.worker.guard.pid)

    def roles(self):
        """Return what each running gate has said last about its role, by name."""
        roles = {}
        for name, gate in self.gates.items():
            for record in _logged(self.folder / f"gate-{name}.err"):
                if record["event"] == "gate started":
                    roles.pop(name, None)
                if record["event"].startswith("gate is "):
                    roles[name] = record["event"].removeprefix("gate is ")
            if gate.process is None:
                roles.pop(name, None)
        return roles

    def last_log_lines(self, count=5):
        """Return the end of the log of each process, for the message of a failed test."""
        logs = sorted(self.folder.glob("*.err"))
        return "\n".join(f"{log.name}: {text}" for log in logs for text in log.read_text().splitlines()[-count:])


@contextmanager
def set_up(goods, folder, amqp_url, redis_url, rate, seed, broken=None, plc="modbus", eye=None):
    """Start a belt with parts at a rate per second, and the line that inspects them.

    `plc` is the protocol of its PLC, and `eye` what looks at the belt (eyes.py). `broken` names a bug of the gates, see
    tests/chaos/witness.
    """
    eye = eye or FileEye()
    geometry, speed = geometry_of(rate, ARM_S)
    plc_port, camera_port = free_ports(2)
    plc_section = _plc(plc_settings(geometry, LAYOUT, speed), plc)
    settings = line.configured(goods.folder, folder, {**CHANGES, "plc": plc_section, "camera": eye.settings})
    with ExitStack() as stack:
        proxies, urls = {}, {}
        for name in ("worker", "camera", "gate"):
            proxies[name], urls[name] = line.behind_proxies([amqp_url], stack)
        link = Proxy(plc_port)
        stack.callback(link.close)
        urls["archive"] = amqp_url
        scene = Plant(folder, rate, Ledger(folder / "ledger.jsonl"), link, proxies, eye, settings=settings)
        _declare(settings, amqp_url, eye)
        _audit(scene.audit, amqp_url, stack)
        view = {} if eye.view is None else {"view": eye.view}
        scene.simulator = _simulator(folder, plc, plc_port, camera_port, goods.pictures, rate, seed, **view)
        stack.callback(_end, scene.simulator)
        for process in _processes(scene, urls, redis_url, camera_port, plc_server.gate_address(plc, link.port), broken):
            process.start()
            stack.callback(process.stop)
        yield scene


def _plc(measured, plc):
    """Return the section of the configuration for the belt."""
    nodes = {"gate_node": plc_server.GATE_NODE, "plc_node": plc_server.PLC_NODE} if plc == "opcua" else {}
    return nodes | gate_settings(measured, ARM_S) | {"poll_ms": POLL_MS}


def _processes(scene, urls, redis_url, camera_port, output, broken):
    common = {"PATCHLINE_REDIS_URL": redis_url, "PYTHONPATH": str(Path.cwd())}
    configuration = str(scene.folder / "config.yaml")

    def process(name, kind, *arguments):
        command = [sys.executable, "-m", *arguments, "--config", configuration]
        return Process(name, command, common | {"PATCHLINE_AMQP_URL": urls[kind]}, scene.folder)

    if broken:
        common |= {"PATCHLINE_BROKEN": broken, "PATCHLINE_WITNESS": str(scene.folder / "witness.jsonl")}
        common["PYTHONPATH"] = f"{WITNESS}{os.pathsep}{Path.cwd()}"
    for name in GATES:
        arguments = ("gate", "--line", LINE, "--instance", name, "--output", output)
        scene.gates[name] = process(f"gate-{name}", "gate", "patchline", *arguments)
    scene.worker = process("worker", "worker", "patchline", "worker", "--devices", "cpu:0")
    scene.archive = process("archive", "archive", "patchline", "archive")
    common |= scene.eye.environment
    scene.camera = process("camera", "camera", *scene.eye.arguments(LINE, CATEGORY, output, camera_port))
    return [*scene.gates.values(), scene.worker, scene.camera, scene.archive]


def _simulator(folder, plc, plc_port, camera_port, pictures, rate, seed, **options):
    (folder / "pictures.txt").write_text("".join(f"{path}\n" for path in pictures))
    command = starting.simulator_command(
        LAYOUT,
        plc=plc,
        port=plc_port,
        camera_port=camera_port,
        rate=rate,
        pictures=folder / "pictures.txt",
        ledger=folder / "ledger.jsonl",
        arm_s=ARM_S,
        seed=seed,
        first_count=2**31 - 200_000,
        **options,
    )
    with (folder / "simulator.err").open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, text=True)
    with contextlib.suppress(PermissionError):  # belt and PLC are other machines: a busy one must not slow them down
        os.setpriority(os.PRIO_PROCESS, process.pid, -10)
    return process


def _end(simulator):
    simulator.stdin.close()  # it ends with its input
    simulator.wait(30)


def _declare(settings: config.Config, amqp_url, eye):
    """Declare the queues of the plant, and one for the audit. Drop what another test has left."""
    bindings = ((topology.VERDICTS, "#"), (topology.ACTS, "#")) + (((topology.JOBS, "#"),) if eye.view else ())
    audit = topology.Queue(AUDIT, bindings, {"x-queue-type": "quorum"})
    with RabbitBroker(amqp_url) as broker:
        broker.declare(connections.plant(settings) | connections.ledger(settings))
        broker.declare(topology.gate(LINE, GATES))
        broker.declare(topology.Topology(topology.EXCHANGES, (audit,)))
    kinds = (topology.JOBS, topology.BACKLOG, topology.SUSPECTS)
    queues = [topology.category_queue(kind, CATEGORY) for kind in kinds]
    for queue in (*queues, topology.VERDICTS, topology.PICTURES, topology.LEDGER, topology.DEAD, AUDIT):
        line.purge(amqp_url, queue)


def _audit(audit, amqp_url, stack):
    """Take note of verdicts and acts until the scene ends."""
    broker, done = stack.enter_context(RabbitBroker(amqp_url)), threading.Event()

    def run():
        consumer = broker.consume(AUDIT, prefetch=500)
        while not done.is_set():
            delivery = consumer.take(0.2)
            if delivery is not None:
                audit.take(delivery.message)
                delivery.ack()

    thread = threading.Thread(target=run)
    thread.start()
    stack.callback(thread.join)
    stack.callback(done.set)


def _logged(path):
    """Return the records of a log of JSON lines; a process that was killed may leave a torn one."""
    records = []
    for text in path.read_text().splitlines() if path.exists() else ():
        if text.startswith("{") and text.endswith("}"):
            records.append(json.loads(text))
    return records


def wait_until(condition, timeout_s, pause_s=0.05):
    """Return True as soon as a condition holds, False after the time limit."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
