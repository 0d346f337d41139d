"""Kills and disturbs both ends of a line in a random order that depends on a seed."""

import contextlib
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from patchline.protocol import topology
from patchline.services import private_servers
from tests.chaos import scene
from tests.chaos.line_ends import CAMERAS
from tests.chaos.storm import wait_until
from tests.queues import JOBS_QUEUE

ALARM_S = 4.0  # more than three confirm timeouts
FREEZE_S = (2.0, 9.0)  # the lease is 1 s; RabbitMQ ends the connection of a frozen gate after 4 to 6 s
OVERSIZED_EVERY = 50
_SNAPSHOT_S = 1.0
_RECOVERY_S = 90.0  # a limit for a busy machine, not a promise


@dataclass
class EndsStorm:
    """Injects faults into a line, and counts them."""

    ends: object
    node: object
    images: list
    seed: int
    done: Counter = field(default_factory=Counter)
    recovery_s: dict = field(default_factory=dict)

    @contextmanager
    def feeding(self, rate):
        """Write images into the folders at a rate per second until the block ends."""
        stop = threading.Event()
        feeder = threading.Thread(target=self._feed, args=(rate, stop))
        feeder.start()
        try:
            yield
        finally:
            stop.set()
            feeder.join()

    def _feed(self, rate, stop):
        while not stop.wait(1 / rate):
            number = len(self.ends.sources)
            oversized = number % OVERSIZED_EVERY == OVERSIZED_EVERY - 1
            self.ends.write_image(CAMERAS[number % 3], self.images[number % len(self.images)], oversized)

    def inject(self, **counts):
        """Inject each kind of fault as often as its count says, in random order."""
        rng = random.Random(self.seed)
        faults = [kind for kind, count in counts.items() for _ in range(count)]
        rng.shuffle(faults)
        for kind in faults:
            time.sleep(rng.uniform(0.1, 0.6))
            getattr(self, kind)(rng)

    def worker_kill(self, rng):
        """Kill a worker at a random moment."""
        self._kill_one(self.ends.workers, "worker_kill", rng)

    def publisher_kill(self, rng):
        """Kill a publisher, and start it again."""
        self._kill(self.ends.publishers[rng.choice(CAMERAS)], "publisher_kill")

    def active_kill(self, _):
        """Kill the gate that acts, and wait until another one acts and it stands by."""
        self._kill_gate("serving")

    def standby_kill(self, _):
        """Kill the gate that stands by, and wait until it stands by again."""
        self._kill_gate("standby")

    def active_freeze(self, rng):
        """Suspend the gate that acts for longer than its lease."""
        self._freeze_gate("serving", rng)

    def standby_freeze(self, rng):
        """Suspend the gate that stands by for longer than a lease."""
        self._freeze_gate("standby", rng)

    def publisher_freeze(self, rng):
        """Suspend a publisher. Its images wait, and those that it has announced are rejected."""
        publisher = self.ends.publishers[rng.choice(CAMERAS)]
        assert wait_until(lambda: publisher.process, _RECOVERY_S), f"{publisher.name} does not run"
        self._freeze([publisher.process], rng)
        self.done["publisher_freeze"] += 1

    def worker_freeze(self, rng):
        """Suspend all workers. Their supervisor may replace them."""
        self._freeze(self.ends.workers(), rng)
        self.done["worker_freeze"] += 1

    def arm_kill(self, rng):
        """Kill the arm of a gate. Its gate starts it again."""
        self._kill_one(self.ends.arms, "arm_kill", rng)

    def cut(self, rng):
        """Cut all connections of one kind of process."""
        for proxy in self.ends.proxies[rng.choice(("worker", "publisher", "gate"))]:
            proxy.cut()
        self.done["connection_cut"] += 1
        self.wait_for_gates("connection_cut")

    def broker_alarm(self, _):
        """Make RabbitMQ block its publishers for longer than three confirm timeouts."""
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.0001")
        time.sleep(ALARM_S)
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.4")
        self.done["broker_alarm"] += 1
        self.wait_for_gates("broker_alarm")

    def broker_restart(self, rng):
        """Restart RabbitMQ with its data while two gates run."""
        self.node.server.stop()
        time.sleep(rng.uniform(0.0, 2.0))
        self.node.server.start()
        self.node.server.wait()
        self.done["broker_restart"] += 1
        self.wait_for_gates("broker_restart")

    def jobs_queue(self, _):
        """Delete the queue of the jobs."""
        self._delete(JOBS_QUEUE)

    def verdicts_queue(self, _):
        """Delete the queue of the verdicts."""
        self._delete(topology.VERDICTS)

    def active_queue(self, _):
        """Delete the queue of the gate that acts."""
        self._delete_gate_queue("serving")

    def standby_queue(self, _):
        """Delete the queue of the gate that stands by."""
        self._delete_gate_queue("standby")

    def wait_for_gates(self, kind=None):
        """Wait until one gate acts and the other one stands by. Record the time for a kind of fault."""
        started = time.monotonic()
        is_ready = wait_until(lambda: sorted(self.ends.roles().values()) == ["serving", "standby"], _RECOVERY_S)
        assert is_ready, f"the gates are {self.ends.roles()} after {kind or 'other faults'}"
        if kind is not None:
            self.recovery_s.setdefault(kind, []).append(round(time.monotonic() - started, 1))

    def _kill_one(self, find, kind, rng):
        """Kill one of the processes that are found, once there is one."""

        def is_killed():
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):  # it has just ended, or there is none
                rng.choice(find()).kill()
                return True
            return False

        assert wait_until(is_killed, _RECOVERY_S), f"{kind}: no such process runs"
        self.done[kind] += 1

    def _kill_gate(self, role):
        self.wait_for_gates()
        names = [name for name, current in self.ends.roles().items() if current == role]
        if names and self._kill(self.ends.gates[names[0]], "gate_kill"):
            self.done[f"gate_kill while {role}"] += 1
        self.wait_for_gates(f"gate_kill while {role}")

    def _freeze_gate(self, role, rng):
        """Suspend a gate: now shorter, now longer than RabbitMQ keeps its connection."""
        self.wait_for_gates()
        processes = [self.ends.gates[name].process for name, current in self.ends.roles().items() if current == role]
        if processes and processes[0] is not None:
            processes[0].suspend()
            time.sleep(rng.uniform(*FREEZE_S))
            processes[0].resume()
            self.done[f"gate_freeze while {role}"] += 1
        self.wait_for_gates(f"gate_freeze while {role}")

    def _freeze(self, processes, rng):
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in processes:
                process.suspend()
        time.sleep(rng.uniform(*FREEZE_S))
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _delete_gate_queue(self, role):
        """Delete the queue of a gate. Wait until it hears its line again, and knows what it has missed."""
        self.wait_for_gates()
        names = [name for name, current in self.ends.roles().items() if current == role]
        if names:
            started = time.monotonic()
            self._delete(topology.gate_queue("l1", names[0]))
            self.done[f"queue_deleted of a gate while {role}"] += 1
            noticed = wait_until(lambda: self.ends.was_blind(names[0], started), _RECOVERY_S)
            assert noticed, "a gate did not notice that it hears nothing"
            self.wait_for_gates(f"queue_deleted while {role}")
            time.sleep(_SNAPSHOT_S)

    def _kill(self, process, kind):
        assert wait_until(lambda: process.process, _RECOVERY_S), f"{process.name} does not run"
        killed = process.kill()
        process.restart()
        self.done[kind] += killed
        return killed

    def _delete(self, queue):
        scene.delete_queue(self.node.url, queue)
        self.done["queue_deleted"] += 1
