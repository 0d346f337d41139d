"""A camera's process that is killed and frozen while parts pass, and what became of each part."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from statistics import median

from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from patchline.services.server import free_ports
from tests.system.cameras import CAMERA, configure
from tests.system.conftest import wait_for
from tests.system.gates import Arm

AUDIT = "camera.audit"
JUDGED = {Decision.PASS, Decision.REVIEW, Decision.FAIL}
RATE, RESTART_S = 10, 1.0  # parts a second; as RestartSec= of the unit
RETURN_S = 10.0  # frames flow again within this time
_LIMIT_S = 120.0  # of a wait on a busy machine
_OPTIONS = ("--rate", str(RATE), "--deadline-ms", "60000")


@dataclass
class Reckoning:
    """What became of the parts.

    Attributes:
        announced: number of parts.
        judged: those with a verdict on their image.
        no_image: those with the verdict `error` and the reason `no_image`, by the reason's text.
        without_act: announced parts on which the gate did not act.
        without_verdict: announced parts without a verdict.
        wrongly_accepted: accepted parts whose verdict is no `pass`.
        other: other verdicts.
        start_s: after each kill, the seconds until the new process said its first word. They are the machine's.
        return_s: after each fault, the seconds from then on until a part with an image was judged again.
    """

    announced: int = 0
    judged: int = 0
    no_image: dict[str, int] = field(default_factory=dict)
    without_act: int = 0
    without_verdict: int = 0
    wrongly_accepted: int = 0
    other: int = 0
    return_s: dict[str, list[float]] = field(default_factory=dict)
    start_s: list[float] = field(default_factory=list)

    @property
    def holds(self):
        """Every announced part was answered for, and nothing was accepted without a pass."""
        return not (self.without_act or self.without_verdict or self.wrongly_accepted or self.other)

    def summary(self):
        """Return the median and the greatest time of each kind."""
        kinds = self.return_s | {"start": self.start_s}
        return {kind: (round(median(times), 2), round(max(times), 2)) for kind, times in kinds.items()}


class Audit:
    """The announcements and verdicts, as they come."""

    def __init__(self, url):
        bindings = ((topology.VERDICTS, "#"), (topology.PARTS, "#"))
        self.announced, self.verdicts, self.last_judged_at = set(), {}, 0.0
        self.judged_at = {}
        self._ended = threading.Event()
        self._broker = RabbitBroker(url)
        queue = topology.Queue(AUDIT, bindings, {"x-queue-type": "quorum"})
        self._broker.declare(topology.Topology(topology.EXCHANGES, (queue,)))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        consumer = self._broker.consume(AUDIT, prefetch=500)
        while not self._ended.is_set():
            delivery = consumer.take(0.2)
            if delivery is None:
                continue
            if delivery.message.type == messages.PART_TYPE:
                self.announced.add(messages.parse_announcement(delivery.message).job_id)
            else:
                verdict = messages.parse_verdict(delivery.message)
                self.verdicts[verdict.job_id] = verdict
                if verdict.decision in JUDGED:
                    self.judged_at.setdefault(verdict.job_id, (time.monotonic(), verdict.captured_at))
            delivery.ack()

    def judged_since(self, captured_ms):
        """When the first part that was triggered after a time was judged; None if none was."""
        return min((at for at, captured_at in list(self.judged_at.values()) if captured_at > captured_ms), default=None)

    def close(self):
        """End."""
        self._ended.set()
        self._thread.join()
        self._broker.close()


class Supervised:
    """The process of a camera, which is started again after its end, as by systemd."""

    def __init__(self, line, source):
        (port,) = free_ports(1)
        options = (*_OPTIONS, "--metrics-port", str(port), "--config", str(line.folder / "config.yaml"))
        self._command = [sys.executable, "-m", "patchline", *CAMERA, *options, source]
        self._environment = os.environ | line.environment
        self.log = line.folder / "camera.log"
        self._ended = threading.Event()
        self.starts = []  # times of the wall clock in ms, and monotonic ones
        self.process = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended.is_set():
            self.starts.append((time.time_ns() // 1_000_000, time.monotonic()))
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=log
                )
            self.process.wait()
            self._ended.wait(RESTART_S)

    def end(self):
        """Let the process end its work."""
        self._ended.set()
        self.process.terminate()
        self._thread.join(_LIMIT_S)


def run(line, folder, source, kills, freezes, seed=1):
    """Kill and freeze the process of a camera. Return the reckoning."""
    configure(line, folder, reopen_max_s=1.0)
    arm = Arm(folder / "arm", "arm")
    line.worker("--category", "brick")
    line.start("gate", "--line", "l1", "--exec", arm.command)
    reckoning, audit = Reckoning(return_s={"kill": [], "freeze": []}), Audit(line.environment["PATCHLINE_AMQP_URL"])
    camera = Supervised(line, source)
    try:
        _wait_for_frames(audit, *camera.starts[0])
        faults = ["kill"] * kills + ["freeze"] * freezes
        random.Random(seed).shuffle(faults)
        rng = random.Random(seed)
        for fault in faults:
            time.sleep(rng.uniform(0.3, 1.3))
            over = _kill(camera, reckoning) if fault == "kill" else _freeze(camera, rng)
            reckoning.return_s[fault].append(_wait_for_frames(audit, *over))
    finally:
        camera.end()
        with contextlib.suppress(AssertionError):  # what is missing is reckoned
            wait_for(lambda: audit.announced <= audit.verdicts.keys() & arm.job_ids(), timeout_s=_LIMIT_S)
        audit.close()
    return _reckon(reckoning, audit, {act["job_id"]: act["action"] for act in arm.acts()})


def _kill(camera, reckoning):
    """Kill the process. Return when it was started again by the wall clock, and when it ran."""
    starts = len(camera.starts)
    camera.process.kill()
    camera.process.wait(_LIMIT_S)
    said = camera.log.stat().st_size
    wait_for(lambda: len(camera.starts) > starts)
    wait_for(lambda: camera.log.stat().st_size > said, timeout_s=_LIMIT_S)
    wall_ms, started = camera.starts[-1]
    now = time.monotonic()
    reckoning.start_s.append(now - started)
    return wall_ms, now


def _freeze(camera, rng):
    """Suspend the process. Return when it went on."""
    camera.process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(1.0, 4.0))
    camera.process.send_signal(signal.SIGCONT)
    return time.time_ns() // 1_000_000, time.monotonic()


def _wait_for_frames(audit, wall_ms, since):
    """Return after which time a part that was triggered since then was judged."""
    wait_for(lambda: audit.judged_since(wall_ms) is not None, timeout_s=_LIMIT_S)
    return audit.judged_since(wall_ms) - since


def _reckon(reckoning, audit, acts):
    reckoning.announced = len(audit.announced)
    reckoning.without_act = len(audit.announced - acts.keys())
    reckoning.without_verdict = len(audit.announced - audit.verdicts.keys())
    for job_id, verdict in audit.verdicts.items():
        if verdict.decision in JUDGED:
            reckoning.judged += 1
        elif (verdict.decision, verdict.reason) == (Decision.ERROR, Reason.NO_IMAGE):
            reason = str(verdict.detail)[:60]
            reckoning.no_image[reason] = reckoning.no_image.get(reason, 0) + 1
        else:
            reckoning.other += 1
        is_pass = verdict.decision is Decision.PASS
        reckoning.wrongly_accepted += acts.get(job_id) == "accept" and not is_pass
    return reckoning
