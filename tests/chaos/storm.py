"""Injects faults in a random order that depends on a seed."""

import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from patchline.services import private_servers
from tests import children
from tests.queues import has_leader, leaders_on_record, state_of_queues

STAGES = ("receive", "decode", "preprocess", "extract", "search", "score", "publish", "ack", "cache")
_TIMEOUT_S = 15.0


@dataclass
class Storm:
    """Injects faults into a scene. Counts them, and measures the time until verdicts arrive again."""

    scene: object
    seed: int
    node: object = None
    redis: object = None
    disk: object = None
    done: Counter = field(default_factory=Counter)
    recovery_s: dict = field(default_factory=dict)
    leaders: dict = field(default_factory=dict)
    queues: str = ""

    def inject(self, **counts):
        """Inject each kind of fault as often as its count says, in random order."""
        rng = random.Random(self.seed)
        faults = [kind for kind, count in counts.items() for _ in range(count)]
        rng.shuffle(faults)
        for kind in faults:
            time.sleep(rng.uniform(0.1, 0.6))
            getattr(self, kind)(rng)

    def inject_beside(self, counts):
        """Inject faults of the archive, in another thread than `inject`, with longer pauses."""
        rng = random.Random(self.seed + 1)
        faults = [kind for kind, count in counts.items() for _ in range(count)]
        rng.shuffle(faults)
        for kind in faults:
            time.sleep(rng.uniform(3.0, 7.0))
            getattr(self, kind)(rng)

    def worker_kill(self, rng):
        """Kill the first worker that reaches a stage, by a failpoint."""
        stage = STAGES[self.done["worker_kill"] % len(STAGES)]
        point = self.scene.failpoints / stage
        point.touch()
        if wait_until(lambda: not point.exists()):
            self.done["worker_kill"] += 1
            self.done[f"worker_kill in {stage}"] += 1
        else:
            point.unlink(missing_ok=True)
            self.outside_kill(rng)

    def outside_kill(self, rng):
        """Kill a worker at a random moment."""
        workers = self.scene.workers()
        if workers:
            rng.choice(workers).kill()
            self.done["worker_kill"] += 1
            self.done["worker_kill at any moment"] += 1

    def cut(self, rng):
        """Cut all connections of one process."""
        for proxy in self.scene.proxies[rng.choice(("worker", "publisher", "gate"))]:
            proxy.cut()
        self.done["connection_cut"] += 1

    def delay(self, rng):
        """Slow the network down for two seconds."""
        proxies = [proxy for group in self.scene.proxies.values() for proxy in group]
        for proxy in proxies:
            proxy.delay_s = rng.uniform(0.02, 0.1)
        time.sleep(2.0)
        for proxy in proxies:
            proxy.delay_s = 0.0
        self.done["slow_network"] += 1

    def freeze(self, rng):
        """Suspend a worker until its supervisor replaces it."""
        workers = self.scene.workers()
        if workers:
            victim = rng.choice(workers)
            victim.suspend()
            assert wait_until(lambda: not children.is_alive(victim), 40.0), "a frozen worker was not replaced"
            self.done["worker_freeze"] += 1

    def flood(self, rng):
        """Suspend all workers until the queue is full and the publisher uses its spool."""
        for victim in self.scene.workers():
            victim.suspend()
        time.sleep(4.5)
        for victim in self.scene.workers():
            victim.send_signal(signal.SIGCONT)
        self.done["flood"] += 1

    def broker_restart(self, rng):
        """Restart RabbitMQ with its data."""
        self.node.server.stop()
        time.sleep(rng.uniform(0.0, 2.0))
        self.restart_node(self.node, "broker_restart")

    def broker_alarm(self, rng):
        """Make RabbitMQ block its publishers for longer than their confirm timeout."""
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.0001")
        time.sleep(rng.uniform(4.0, 6.0))
        private_servers.rabbitmqctl(self.node, "set_vm_memory_high_watermark", "0.4")
        self._await_recovery("broker_alarm", time.monotonic())

    def disk_stall(self, rng):
        """Block all syncs to the disk of RabbitMQ, the publisher and the gate for a few seconds."""
        self.disk.set_delay(3600)
        time.sleep(rng.uniform(4.0, 6.0))
        self.disk.set_delay(0)
        self._await_recovery("disk_stall", time.monotonic())

    def redis_outage(self, rng):
        """Restart Redis without its data."""
        self.redis.stop()
        time.sleep(rng.uniform(2.0, 4.0))
        self.redis.start()
        self.redis.wait()
        self.done["redis_outage"] += 1

    def archive_kill(self, _):
        """Kill the archive: every other time between its commit and its acknowledgement. Start it again."""
        archive, point = self.scene.archive, self.scene.archive.failpoints / "ack"
        if self.done["archive_kill"] % 2 == 0:
            point.touch()
        if point.exists() and wait_until(lambda: not point.exists()):
            self.done["archive_kill after its commit"] += 1
        else:
            point.unlink(missing_ok=True)
            archive.kill()
        assert wait_until(archive.started_again), "the archive was killed and has not ended"
        self.done["archive_kill"] += 1

    def archive_cut(self, _):
        """Cut the connections of the archive."""
        for proxy in self.scene.proxies["archive"]:
            proxy.cut()
        self.done["archive_cut"] += 1

    def database_crash(self, rng):
        """Crash PostgreSQL and start it again."""
        self.scene.archive.crash_database(rng.uniform(0.5, 2.0))
        self.done["database_crash"] += 1

    def store_away(self, rng):
        """Take the store of the pictures away for a few seconds."""
        self.scene.archive.take_store_away(rng.uniform(2.0, 4.0))
        self.done["store_away"] += 1

    def node_loss(self, node, survivors):
        """Kill one node of a cluster with SIGKILL, and wait until verdicts arrive.

        RabbitMQ before 3.13.4 can leave a queue without a leader, or with a dead one in its metadata, until the node is
        back (decision 113). Such queues are counted, if a surviving node confirms it.
        """
        for process in psutil.Process(node.server.guard.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # the node's short-lived children
                if process.name() == "beam.smp":
                    process.kill()
        self._await_recovery("node_loss", time.monotonic(), lambda: self._count_queues_without_leader(survivors))

    def _count_queues_without_leader(self, nodes):
        node = nodes[0]
        self.leaders = leaders_on_record(node)
        names = [queue for queue in self.scene.queues if not self.leaders.get(queue) or not has_leader(node, queue)]
        self.done["queue_without_leader"] += len(names)
        if not names:
            self.queues = state_of_queues(nodes)
        return len(names)

    def restart_node(self, node, kind):
        """Restart a node, and wait until verdicts arrive."""
        node.server.stop()
        node.server.start()
        node.server.wait()
        self._await_recovery(kind, time.monotonic())

    def _await_recovery(self, kind, since, is_excused=lambda: False):
        self.done[kind] += 1
        if wait_until(lambda: self.scene.last_verdict_at > since or self.scene.is_complete(), 60.0):
            if self.scene.last_verdict_at > since:
                self.recovery_s.setdefault(kind, []).append(round(self.scene.last_verdict_at - since, 1))
        else:
            assert is_excused(), (
                f"no verdict after {kind}; {self.leaders}; {self.queues}; {self.scene.last_log_lines()}"
            )


def wait_until(condition, timeout_s=_TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
