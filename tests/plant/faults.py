"""What can go wrong at a plant, injected in a random order that depends on a seed."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from tests.plant.scene import wait_until

HOLD_S, FREEZE_S = 1.0, 3.0
LOSS, LOSS_S = 0.05, 3.0  # share of the packets, and for how long
START = "start"
_CALM_S, _CALM_SHARE = 10.0, 0.2  # long enough for parts whose way touches no fault
_RECOVERY_S = 300.0  # a limit for a busy machine, not a promise


@dataclass(frozen=True)
class Fault:
    """A fault that is over. All times are those of CLOCK_MONOTONIC.

    Attributes:
        kind: which one.
        at: when it began.
        over_at: when it was taken away: the process started again, the network was there again.
        recovered_at: when the PLC decided to accept a part again that was triggered afterwards.
    """

    kind: str
    at: float
    over_at: float
    recovered_at: float


@dataclass
class Faults:
    """Injects faults into a plant, and remembers them."""

    plant: object
    node: object
    seed: int
    done: list[Fault] = field(default_factory=list)

    def start(self):
        """Start the belt once a gate acts. Until worker and camera are ready too, it is as after a fault."""
        self.wait_for_gates()
        assert wait_until(self._may_accept, _RECOVERY_S), f"the PLC hears no gate\n{self.plant.last_log_lines()}"
        at = time.monotonic()
        self.plant.command("run")
        self.done.append(Fault(START, at, at, self.wait_for_an_accept(at)))

    def inject(self, **counts):
        """Inject each kind of fault as often as its count says, in random order."""
        rng = random.Random(self.seed)
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        rng.shuffle(kinds)
        for kind in kinds:
            calm = rng.random() < _CALM_SHARE
            time.sleep(_CALM_S if calm else rng.uniform(0.5, 1.5))
            self._inject(kind, rng)
        time.sleep(_CALM_S)

    def counts(self):
        """Return how many there were of each kind."""
        return dict(Counter(fault.kind for fault in self.done))

    def wait_for_an_accept(self, since):
        """Wait until the PLC accepts a part that was triggered after a time. Return when it did."""
        found = []

        def accepted():
            events = self.plant.ledger.read()
            numbers = {event["number"] for event in events if event["kind"] == "trigger" and event["at"] > since}
            found[:] = [
                event["at"]
                for event in events
                if event["kind"] == "decision"
                and event["accept"]
                and event["number"] in numbers
                and event["at"] > since
            ]
            return bool(found)

        assert wait_until(accepted, _RECOVERY_S, 0.1), f"nothing is accepted any more\n{self.plant.last_log_lines()}"
        return found[0]

    def _inject(self, kind, rng):
        at = getattr(self, kind)(rng)
        over_at = time.monotonic()
        self.done.append(Fault(kind, at, over_at, self.wait_for_an_accept(over_at)))
        if kind in ("gate_kill", "gate_freeze", "standby_kill", "broker_kill", "amqp_cut"):
            self.wait_for_gates()

    def wait_for_gates(self):
        """Wait until one gate acts and the other one stands by. Return their names by role."""
        names = {}

        def ready():
            roles = self.plant.roles()
            names.update({role: name for name, role in roles.items()})
            return sorted(roles.values()) == ["serving", "standby"]

        assert wait_until(ready, _RECOVERY_S, 0.2), f"the gates are {self.plant.roles()}\n{self.plant.last_log_lines()}"
        return names

    def camera_kill(self, rng):
        """Kill the camera, and start it again."""
        return self._kill(self.plant.camera, rng)

    def camera_freeze(self, _):
        """Suspend the process of the camera while parts pass, then let it go on."""
        victim, at = self.plant.camera.process, time.monotonic()
        victim.suspend()
        time.sleep(FREEZE_S)
        victim.resume()
        return at

    def camera_loss(self, _):
        """Take the camera away from its process, and bring it back."""
        at = time.monotonic()
        self.plant.eye.take_away(self.plant.camera.process)
        time.sleep(HOLD_S)
        self.plant.eye.bring_back()
        return at

    def merged_triggers(self, _):
        """Let an exposure take longer than the time between two parts, by suspending what exposes."""
        pid, at = self.plant.eye.exposing(self.plant.camera.process).pid, time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(HOLD_S)
        os.kill(pid, signal.SIGCONT)
        return at

    def packet_loss(self, _):
        """Lose packets of the camera. The fake one must be started anew for that."""
        at = time.monotonic()
        self.plant.eye.lose_packets(True)
        self.wait_for_an_accept(time.monotonic())
        time.sleep(LOSS_S)
        self.plant.eye.lose_packets(False)
        return at

    def gate_kill(self, rng):
        """Kill the gate that acts, and start it again. The other one takes over."""
        return self._kill(self.plant.gates[self.wait_for_gates()["serving"]], rng)

    def gate_freeze(self, _):
        """Suspend the gate that acts for longer than its lease, then let it go on."""
        victim = self.plant.gates[self.wait_for_gates()["serving"]].process
        at = time.monotonic()
        victim.suspend()
        time.sleep(FREEZE_S)
        victim.resume()
        return at

    def standby_kill(self, rng):
        """Kill the gate that stands by, and start it again."""
        return self._kill(self.plant.gates[self.wait_for_gates()["standby"]], rng)

    def worker_kill(self, _):
        """Kill the worker. Its supervisor starts another one."""
        assert wait_until(self.plant.workers, _RECOVERY_S), "no worker runs"
        workers, at = self.plant.workers(), time.monotonic()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        return at

    def archive_kill(self, rng):
        """Kill the archive, and start it again. Nothing else notices."""
        return self._kill(self.plant.archive, rng)

    def broker_kill(self, _):
        """Kill RabbitMQ, and start it again with its data."""
        children = psutil.Process(self.node.server.guard.pid).children(recursive=True)
        at = time.monotonic()
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # the node's short-lived children
                if process.name() == "beam.smp":
                    process.kill()
        self.node.server.stop()
        self.node.server.start()
        self.node.server.wait()
        return at

    def amqp_cut(self, rng):
        """Cut all connections of one kind of process to RabbitMQ."""
        at = time.monotonic()
        for proxy in self.plant.proxies[rng.choice(("worker", "camera", "gate"))]:
            proxy.cut()
        return at

    def link_cut(self, _):
        """Cut the gate's connection to the PLC."""
        at = time.monotonic()
        self.plant.link.cut()
        return at

    def link_freeze(self, _):
        """Let nothing through between the gates and the PLC."""
        at = time.monotonic()
        self.plant.link.hold()
        time.sleep(HOLD_S)
        self.plant.link.release()
        return at

    def link_loss(self, _):
        """Lose packets between the gates and the PLC."""
        at = time.monotonic()
        self.plant.link.loss = LOSS
        time.sleep(LOSS_S)
        self.plant.link.loss = 0.0
        return at

    def plc_freeze(self, _):
        """Let the PLC's cycle stand. Its server answers with old words."""
        return self._disturb_plc("freeze", "frozen")

    def plc_restart(self, _):
        """Let the PLC lose its power."""
        return self._disturb_plc("restart", "off")

    def plc_reset(self, _):
        """Let the PLC lose its power and its memory. It counts its parts anew."""
        return self._disturb_plc("reset", "off")

    def _disturb_plc(self, command, state):
        seen = len(self.plant.ledger.read())
        self.plant.command(f"{command} {HOLD_S}")

        def times(wanted):
            events = self.plant.ledger.read()[seen:]
            return [event["at"] for event in events if event["kind"] == "plc" and event["state"] == wanted]

        assert wait_until(lambda: times("runs"), _RECOVERY_S), "the PLC does not return"
        return times(state)[0]

    def _may_accept(self):
        permits = self.plant.ledger.of("permit")
        return bool(permits) and permits[-1]["permit"]

    def _kill(self, process, rng):
        assert wait_until(lambda: process.process, _RECOVERY_S), f"{process.name} does not run"
        victim, at = process.process, time.monotonic()
        victim.kill()
        time.sleep(rng.uniform(0.0, 0.5))
        process.restart()
        return at
