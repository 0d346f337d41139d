"""Both ends of a line: publishers that watch folders, and two gates with arms. Every process can be killed."""

import contextlib
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from patchline import config
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import server
from tests.chaos import scene
from tests.proxy import Proxy
from tests.queues import BACKLOG_QUEUE, JOBS_QUEUE, SUSPECTS_QUEUE

HERE = Path(__file__).parent
GATES = ("a", "b")
CAMERAS = ("true", "ahead", "behind")  # the first has the right time
CAMERA_AHEAD_S, HOST_BEHIND_S = 240, 180
MAX_IMAGE_BYTES = 150_000
CHANGES = {
    "worker": scene.CHANGES["worker"],
    "broker": {"confirm_timeout_s": 1.0, "max_attempts": 5},
    "publisher": {"confirm_timeout_s": 1.0, "list_ms": 1000},
    "gate": {"lease_ms": 1000},
    "images": {"max_bytes": MAX_IMAGE_BYTES},
}


@dataclass
class Process:
    """A process that can be killed and started again. Its output goes to files with its name."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    guard: object = None

    def start(self):
        with (self.folder / f"{self.name}.out").open("ab") as out, (self.folder / f"{self.name}.err").open("ab") as err:
            self.guard = server.start_guarded(self.command, out, err, self.environment)
        return self

    def stop(self):
        server.stop_guarded(self.guard)

    @property
    def process(self):
        """The process below its guard; None if it is not running."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.guard.pid).children():
                is_ours = any(word.split(".")[0] == "patchline" for word in child.cmdline())
                if is_ours and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

    def kill(self):
        """Send SIGKILL. Return False if it was not running."""
        process = self.process
        if process is not None:
            process.kill()
        return process is not None

    def restart(self):
        """Start it again after its end."""
        self.guard.wait(60)
        self.guard.stdin.close()
        self.start()


@dataclass
class LineEnds:
    """Handles on a line, and the images that were written for it."""

    folder: Path
    settings: config.Config
    proxies: dict[str, list[Proxy]]
    publishers: dict[str, Process] = field(default_factory=dict)
    gates: dict[str, Process] = field(default_factory=dict)
    worker: Process | None = None
    sources: dict[str, Path | None] = field(default_factory=dict)  # by part id; None: oversized

    def workers(self):
        """Return the running worker processes, without their supervisor."""
        return scene.worker_processes(self.worker.guard.pid)

    def captured(self, camera):
        return self.folder / f"captured-{camera}"

    def write_image(self, camera, source, oversized=False):
        """Write an image into a watched folder, with the time of its camera."""
        part_id = f"p{len(self.sources):05}"
        self.sources[part_id] = None if oversized else source
        path = self.captured(camera) / f"{part_id}.png"
        path.write_bytes(source.read_bytes() + bytes(MAX_IMAGE_BYTES if oversized else 0))
        if camera == "ahead":  # after its close: its publisher may have read it, and may be killed
            _shift_time(path, CAMERA_AHEAD_S)
        return part_id

    def arms(self):
        """Return the running programs of the arms."""
        with contextlib.suppress(psutil.Error):
            processes = [gate.process for gate in self.gates.values()]
            return [arm for process in processes if process for arm in process.children()]
        return []

    def acts(self):
        """Return the actions of the arms by part id, in the order of their times."""
        acts = defaultdict(list)
        for act in _records(self.folder / "arm.jsonl"):
            acts[act["part_id"]].append(act)
        return acts

    def heard(self):
        """Return by part id when a gate first heard of a part, and the patience with it."""
        heard = {}
        for record in _records(self.folder / "witness.jsonl"):
            if "heard" in record:
                heard.setdefault(record["heard"], (record["at"], record["patience_s"]))
        return heard

    def beats(self):
        """Return the times at which gates looked for something to do, with what they may do."""
        return [record for record in _records(self.folder / "witness.jsonl") if "role" in record]

    def roles(self, since_s=1.0):
        """Return the role of each gate that made a step a moment ago, by name."""
        roles, now = {}, time.monotonic()
        recent = _records(self.folder / "witness.jsonl", last_bytes=20_000)
        latest = {record["pid"]: record for record in recent if "role" in record and record["at"] > now - since_s}
        for name, gate in self.gates.items():
            if (process := gate.process) is not None and process.pid in latest:
                roles[name] = latest[process.pid]["role"]
        return roles

    def was_blind(self, name, since):
        """Return True if a gate has heard nothing of its line at some time since then."""
        process = self.gates[name].process
        recent = _records(self.folder / "witness.jsonl", last_bytes=200_000)
        beats = [record for record in recent if "role" in record and record["at"] > since]
        return process is not None and any(beat["pid"] == process.pid and beat["role"] == "blind" for beat in beats)


@contextmanager
def set_up(plant, folder, amqp_url, redis_url, broken=None):
    """Start two workers, two gates with arms, and a publisher for each camera."""
    settings = scene.configured(plant, folder, CHANGES)
    with ExitStack() as stack:
        proxies, urls = {}, {}
        for name in ("worker", "publisher", "gate"):
            proxies[name], urls[name] = scene.behind_proxies([amqp_url], stack)
        _make_queues(settings, amqp_url)
        ends = LineEnds(folder, settings, proxies)
        common = {"PATCHLINE_REDIS_URL": redis_url, "PATCHLINE_WITNESS": str(folder / "witness.jsonl")}
        environments = {
            "gate": _faults("witness") | {"PATCHLINE_BROKEN": broken or ""},
            "worker": {"PYTHONPATH": str(Path.cwd())},
        }
        environments = {
            name: values | common | {"PATCHLINE_AMQP_URL": urls[name]} for name, values in environments.items()
        }
        ends.worker = _process(ends, "worker", environments["worker"], "worker", "--devices", "cpu:0,cpu:1")
        for name in GATES:
            ends.gates[name] = _gate(ends, name, environments["gate"])
        for camera in CAMERAS:
            ends.publishers[camera] = _publisher(ends, camera, common | {"PATCHLINE_AMQP_URL": urls["publisher"]})
        for process in (ends.worker, *ends.gates.values(), *ends.publishers.values()):
            process.start()
            stack.callback(process.stop)
        yield ends


def _gate(ends, name, environment):
    arm = shlex.join([sys.executable, "-I", "-S", str(HERE / "arm.py"), str(ends.folder / "arm.jsonl")])
    return _process(ends, f"gate-{name}", environment, "gate", "--line", "l1", "--instance", name, "--exec", arm)


def _publisher(ends, camera, environment):
    """Return a publisher with a folder and a spool of its own. That of the camera `behind` has a wrong wall clock."""
    ends.captured(camera).mkdir()
    paths = ends.settings.paths.model_copy(update={"spool": ends.folder / f"spool-{camera}"})
    path = ends.folder / f"{camera}.yaml"
    config.save(ends.settings.model_copy(update={"paths": paths}), path)
    clock = _faults("clock") | {"PATCHLINE_CLOCK_S": str(-HOST_BEHIND_S)} if camera == "behind" else {}
    options = ("--line", "l1", "--category", scene.CATEGORY, "--deadline-ms", "2000")
    watch = ("--watch", str(ends.captured(camera)))
    return _process(ends, f"publisher-{camera}", environment | clock, "publish", *options, *watch, configuration=path)


def _process(ends, name, environment, *arguments, configuration=None):
    configuration = configuration or ends.folder / "config.yaml"
    command = [sys.executable, "-m", "patchline", *arguments, "--config", str(configuration)]
    return Process(name, command, environment, ends.folder)


def _faults(name):
    return {"PYTHONPATH": f"{HERE / name}:{Path.cwd()}"}


def _make_queues(settings, amqp_url):
    """Delete what another test has left, and declare the queues."""
    with RabbitBroker(amqp_url) as broker:
        broker.declare(connections.plant(settings))
        broker.declare(topology.gate("l1", GATES))
    for queue in (JOBS_QUEUE, BACKLOG_QUEUE, SUSPECTS_QUEUE, topology.VERDICTS, topology.DEAD):
        scene.purge(amqp_url, queue)


def _shift_time(file, seconds):
    at = file.stat().st_mtime + seconds
    os.utime(file, (at, at))


def _records(path, last_bytes=None):
    """Return the records of a log, without a torn last line: all, or those in its last bytes."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        start = max(0, path.stat().st_size - last_bytes) if last_bytes else 0
        log.seek(start)
        lines = log.read().split(b"\n")
    return [json.loads(line) for line in lines[1 if start else 0 : -1]]
