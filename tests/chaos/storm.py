"""Faults by a seed: each kind so many times, shuffled, one after the other."""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from patchline.services import private_servers

STAGES = ("receive", "decode", "preprocess", "extract", "search", "score", "publish", "ack", "cache")
_PATIENCE_S = 15.0


@dataclass
class Storm:
    """What it does to a scene, what it has done, and how soon verdicts came again."""

    scene: object
    seed: int
    node: object = None
    redis: object = None
    disk: object = None
    done: Counter = field(default_factory=Counter)
    recovery_s: dict = field(default_factory=dict)

    def rage(self, **times):
        """Do each kind of fault so many times, in an order of the seed's choosing."""
        rng = random.Random(self.seed)
        faults = [kind for kind, count in times.items() for _ in range(count)]
        rng.shuffle(faults)
        for kind in faults:
            time.sleep(rng.uniform(0.1, 0.6))
            getattr(self, kind)(rng)

    def worker_kill(self, rng):
        """In a stage that a failpoint chooses; whoever reaches it first."""
        stage = STAGES[self.done["worker_kill"] % len(STAGES)]
        point = self.scene.failpoints / stage
        point.touch()
        if _until(lambda: not point.exists()):
            self.done["worker_kill"] += 1
            self.done[f"worker_kill in {stage}"] += 1
        else:
            point.unlink(missing_ok=True)
            self.outside_kill(rng)

    def outside_kill(self, rng):
        """At any moment."""
        workers = self.scene.workers()
        if workers:
            rng.choice(workers).kill()
            self.done["worker_kill"] += 1
            self.done["worker_kill at any moment"] += 1

    def cut(self, rng):
        """Every connection of one process breaks."""
        for proxy in self.scene.proxies[rng.choice(("worker", "publisher", "gate"))]:
            proxy.cut()
        self.done["connection_cut"] += 1

    def delay(self, rng):
        """A slow network, for a while."""
        proxies = [each for group in self.scene.proxies.values() for each in group]
        for proxy in proxies:
            proxy.delay_s = rng.uniform(0.02, 0.1)
        time.sleep(2.0)
        for proxy in proxies:
            proxy.delay_s = 0.0
        self.done["slow_network"] += 1

    def freeze(self, rng):
        """A worker stands still with jobs in its hands, until its supervisor replaces it."""
        workers = self.scene.workers()
        if workers:
            victim = rng.choice(workers)
            victim.suspend()
            assert _until(lambda: not _exists(victim), 40.0), "a frozen worker was not replaced"
            self.done["worker_freeze"] += 1

    def flood(self, rng):
        """Nobody works for a while: the queue reaches its limit, and the publisher its spool."""
        for victim in self.scene.workers():
            victim.suspend()
        time.sleep(4.5)
        for victim in self.scene.workers():
            victim.send_signal(signal.SIGCONT)
        self.done["flood"] += 1

    def broker_restart(self, rng):
        """RabbitMQ goes, and comes again with its data."""
        self.node.server.stop()
        time.sleep(rng.uniform(0.0, 2.0))
        self.bring_back(self.node, "broker_restart")

    def broker_alarm(self, rng):
        """RabbitMQ reads nothing from those who publish, for longer than they wait for a confirmation."""
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.0001")
        time.sleep(rng.uniform(4.0, 6.0))
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.4")
        self._recovered("broker_alarm", time.monotonic())

    def disk_stall(self, rng):
        """The disk of RabbitMQ, the publisher and the gate writes nothing through for a while."""
        self.disk.set_delay(3600)
        time.sleep(rng.uniform(4.0, 6.0))
        self.disk.set_delay(0)
        self._recovered("disk_stall", time.monotonic())

    def redis_outage(self, rng):
        """Redis goes, and comes again empty."""
        self.redis.stop()
        time.sleep(rng.uniform(2.0, 4.0))
        self.redis.start()
        self.redis.wait()
        self.done["redis_outage"] += 1

    def node_loss(self, node):
        """One node of a cluster is killed with -9."""
        for process in psutil.Process(node.server.guard.pid).children(recursive=True):
            if process.name() == "beam.smp":
                process.kill()
        self._recovered("node_loss", time.monotonic())

    def bring_back(self, node, kind):
        """Start a broker that has ended, and wait until verdicts come."""
        node.server.stop()
        node.server.start()
        node.server.wait()
        self._recovered(kind, time.monotonic())

    def _recovered(self, kind, since):
        self.done[kind] += 1
        assert _until(lambda: self.scene.last_verdict_at > since, 60.0), f"no verdict after {kind}"
        self.recovery_s.setdefault(kind, []).append(round(self.scene.last_verdict_at - since, 1))


def _until(condition, patience_s=_PATIENCE_S):
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _exists(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
