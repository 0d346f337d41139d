"""A gate on a test bench: its files, with clock, link and arm of the test."""

import itertools

from patchline import config
from patchline.broker.base import Delivery, Message
from patchline.gate.decide import Gate
from patchline.gate.journal import Journal
from patchline.gate.lease import Lease
from patchline.gate.memory import Memory
from patchline.gate.metrics import Metrics
from patchline.gate.outputs import MemoryOutput
from patchline.gate.service import Service
from patchline.protocol.gate_messages import (
    ACT_TYPE,
    PING_TYPE,
    SNAPSHOT_TYPE,
    SYNC_TYPE,
    Act,
    OpenPart,
    Ping,
    Snapshot,
    SyncRequest,
)
from patchline.protocol.messages import Decision
from tests.gate_input import announcement, message_of, verdict

WALL_MS = 1_800_000_000_000


class FakeLink:
    def __init__(self):
        self.queue, self.lease_pings, self.declared_again = [], [], 0
        self.acts, self.snapshots, self.requests = [], [], 0
        self.queue_loss, self.holds_lease, self.unsent, self.told = False, True, 0, []

    def take(self, _):
        return self.queue.pop(0) if self.queue else None

    def take_lease_pings(self):
        pings, self.lease_pings = self.lease_pings, []
        return pings

    def announce(self, message):
        (self.snapshots if isinstance(message, Snapshot) else self.acts).append(message)

    def ask(self):
        self.requests += 1

    def hold_lease(self, wanted):
        self.holds_lease = wanted

    def declare_again(self):
        self.declared_again += 1

    def take_told(self):
        told, self.told = self.told, []
        return told

    def take_queue_loss(self):
        loss, self.queue_loss = self.queue_loss, False
        return loss


class Bench:
    """A service on a test bench. `start` may be called again, as after a crash: the files remain."""

    def __init__(self, folder):
        self.folder, self.now, self.acked = folder, 50.0, []
        self.delivered, self.settled, self.lost = [], set(), set()  # the last two: numbers of deliveries
        self.wall_offset_ms = 0
        self.processes = itertools.count()
        self.start()

    def start(self):
        self.process = f"process {next(self.processes)}"
        self.memory = Memory(self.folder / "l.g.sqlite", 100)
        self.journal = Journal(self.folder / "l.g.journal")
        self.link = FakeLink()
        held_last, has_partner = self.memory.load_held_last(), self.memory.load_has_partner()
        self.lease = Lease("g", self.process, 2.0, held_last, self.now, has_partner)
        rules = config.GateRules(max_wait_ms=5000)
        self.belt = self.make_belt()
        self.gate = Gate(lambda _: rules, 1.0, 100, self.belt)
        self.metrics = Metrics("l", self.gate, lambda: self.lease.role(self.now), ["c"])
        self.arm, follower = self.make_output()
        self.service = Service(
            "l",
            "g",
            self.gate,
            self.lease,
            self.link,
            self.arm,
            self.journal,
            self.memory,
            self.metrics,
            *self.clocks(),
            follower,
        )
        self.service.restore()

    def close(self):
        self.memory.close()

    def make_belt(self):
        """Return where the parts are; None: nobody knows."""

    def make_output(self):
        """Return the output, and what follows the belt."""
        return MemoryOutput(), None

    def clocks(self):
        return lambda: self.now, lambda: WALL_MS + int(self.now * 1000) + self.wall_offset_ms

    def crash(self):
        """The process ends; only the files and what RabbitMQ still has remain. Then it starts again."""
        self.memory.close()
        self.journal.close()
        self.start()

    def receive(self, type_, body=b"", message_id="m"):
        self.deliver(Message(body, message_id, type_))

    def deliver(self, message):
        number = len(self.delivered)

        def settle(settlement):
            self.acked.append((message.message_id, settlement))
            self.settled.add(number)

        delivery = Delivery(message, "", 1, settle, lambda: number in self.lost)
        self.delivered.append(delivery)
        self.link.queue.append(delivery)

    def lose_connection(self):
        """RabbitMQ takes back what is not settled, and the test delivers it again."""
        self.lost = set(range(len(self.delivered)))

    def unsettled(self, job_id):
        """Return the deliveries of a job's verdicts that RabbitMQ still waits for."""
        open_ = set(range(len(self.delivered))) - self.settled - self.lost
        found = [self.delivered[number] for number in sorted(open_)]
        return [delivery for delivery in found if delivery.message.message_id == job_id]

    def part(self, job_id, patience_ms=1000, captured_ago_ms=0, **fields):
        captured_at = WALL_MS + int(self.now * 1000) - captured_ago_ms
        self.deliver(message_of(announcement(job_id, captured_at, patience_ms, **fields)))

    def verdict(self, job_id, decision=Decision.PASS, decided_ago_ms=0, **fields):
        now_ms = WALL_MS + int(self.now * 1000)
        times = {"received_at": now_ms, "decided_at": now_ms - decided_ago_ms}
        self.deliver(message_of(verdict(job_id, now_ms, decision, **times | fields)))

    def act_of_other(self, job_id, state, action="accept", **fields):
        act = Act(
            job_id=job_id,
            line="l",
            category="c",
            part_id="p",
            action=action,
            because="pass",
            acted_at=WALL_MS,
            gate="other",
            state=state,
            **fields,
        )
        self.receive(ACT_TYPE, act.to_json(), message_id=job_id)

    def request(self, gate="other"):
        self.receive(SYNC_TYPE, SyncRequest(gate=gate).to_json())

    def open_part(self, job_id, due_in_s=1.0, **fields):
        return OpenPart(part=announcement(job_id, WALL_MS, None), due_in_s=due_in_s, **fields)

    def snapshot(self, *open_parts, acted=(), sent_ago_ms=0):
        sent_at = WALL_MS + int(self.now * 1000) - sent_ago_ms
        snapshot = Snapshot(gate="other", sent_at=sent_at, open=open_parts, acted=acted)
        self.receive(SNAPSHOT_TYPE, snapshot.to_json())

    def pass_time(self, seconds, pings=True, active=True, deaf=False, other=False):
        """Let time pass in steps of half a second, with a step of the service after each.

        If `deaf`, nothing comes through the gate's queue. `other`: another gate hears the line.
        """
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            ping = Ping(gate="g", process=self.process, sent_at=self.now, active=active)
            if pings and not deaf:
                self.receive(PING_TYPE, ping.to_json(), message_id="ping")
            if pings and active:
                self.link.lease_pings.append(ping)
            if other:
                ping = Ping(gate="other", process="other", sent_at=7.0, active=False, current=True)
                self.link.lease_pings.append(ping)
            self.step()

    def ping_of_active_other(self):
        self.receive(PING_TYPE, Ping(gate="other", process="other", sent_at=7.0, active=True).to_json())

    def step(self):
        """Make steps until nothing is left to do."""
        for _ in range(20):
            self.service.step()

    def acts(self):
        return [(act.job_id, str(act.action), act.because) for act in self.arm.actions]
