"""The exchanges and queues, with their arguments. They work with RabbitMQ 3.10 to 4.x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

JOBS = "patchline.jobs"
BACKLOG = "patchline.backlog"  # jobs whose time is over: judged when nothing else waits
SUSPECTS = "patchline.suspects"
PARTS = "patchline.parts"
VERDICTS = "patchline.verdicts"
DEAD = "patchline.dead"
TRACES = "patchline.traces"  # a queue, bound to the exchange of the verdicts
ACTS = "patchline.acts"
LEASE = "patchline.lease"
STATUS = "patchline.status"
LEDGER = "patchline.ledger"  # a queue, bound to the exchanges of parts, acts, judgements and shadows
JUDGEMENTS = "patchline.judgements"
PICTURES = "patchline.pictures"
SHADOWS = "patchline.shadows"  # what shadow banks would have said; a plant works without it
BANKS = "patchline.banks"  # news of memory banks; a plant works without it
MQTT = "patchline.mqtt"  # queues of what devices send; not an exchange
MQTT_EXCHANGE = "amq.topic"  # where RabbitMQ's plug-in publishes; every RabbitMQ has it
EXCHANGES = (JOBS, BACKLOG, SUSPECTS, PARTS, VERDICTS, DEAD, ACTS, LEASE, STATUS, PICTURES)
_UNLIMITED = 1_000_000  # explicit, because RabbitMQ 4 drops a message after 20 deliveries by default
GATE_MAX_LENGTH = 100_000
_TRACES_MAX_LENGTH = 10_000


@dataclass(frozen=True)
class Queue:
    """A durable quorum queue with its bindings and arguments."""

    name: str
    bindings: tuple[tuple[str, str], ...]  # exchange, routing key pattern
    arguments: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Topology:
    """Durable topic exchanges, and queues bound to them.

    retired: queues of earlier builds with the bindings to remove. They are not created, and keep their messages.
    """

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]
    retired: tuple[Queue, ...] = ()

    def __or__(self, other: Topology) -> Topology:
        """Return the exchanges and queues of both."""
        more = tuple(name for name in other.exchanges if name not in self.exchanges)
        return Topology(self.exchanges + more, self.queues + other.queues, self.retired + other.retired)


NOTHING = Topology((), ())
# Earlier builds had one queue for the jobs of all categories, and one for the suspects, named like their exchanges.
RETIRED = tuple(Queue(exchange, ((exchange, "#"),)) for exchange in (JOBS, SUSPECTS))


def category_queue(exchange: str, category: str) -> str:
    """Return the name of the queue of `JOBS`, `BACKLOG` or `SUSPECTS` for one category."""
    return f"{exchange}.{category}"


def plant(
    categories: Iterable[str],
    jobs_max_length: int,
    jobs_max_bytes: int,
    verdicts_max_length: int,
    dead_max_length: int,
    dead_max_bytes: int = 2_000_000_000,
    pictures_max_bytes: int = 2_000_000_000,
) -> Topology:
    """Return the queues that all lines share: verdicts, dead letters, pictures, and those of each category.

    Each category has a queue of jobs, of backlog and of suspects, so that a worker takes only what it serves.

    A full queue of jobs or verdicts rejects messages (the publisher gets a nack and waits), because no job may be lost.
    A full dead-letter queue drops its oldest message, whose verdict was published long ago. A full queue of pictures
    rejects them, and no worker waits for it.

    A redelivered job is a suspect: it may have crashed its worker, or it was only prefetched by a worker that crashed.
    Workers move it to the end of the queue of the suspects, take one suspect at a time, and inspect it alone. A header
    counts its attempts, and the worker enforces the limit. RabbitMQ's delivery count also counts prefetched
    deliveries, and its delivery limit drops a message without a verdict. The queue of the suspects has no limit:
    dropping a suspect would lose a verdict, and refusing one would block every worker that must set one apart.
    """
    jobs = _quorum(jobs_max_length, "reject-publish") | {"x-max-length-bytes": jobs_max_bytes}
    suspects: dict[str, str | int] = {"x-queue-type": "quorum", "x-delivery-limit": _UNLIMITED}
    pictures: dict[str, str | int] = suspects | {
        "x-max-length-bytes": pictures_max_bytes,
        "x-overflow": "reject-publish",
    }
    arguments = {JOBS: jobs, BACKLOG: jobs, SUSPECTS: suspects}
    return Topology(
        EXCHANGES,
        (
            Queue(DEAD, ((DEAD, "#"),), _quorum(dead_max_length, "drop-head") | {"x-max-length-bytes": dead_max_bytes}),
            Queue(VERDICTS, ((VERDICTS, "#"),), _quorum(verdicts_max_length, "reject-publish")),
            Queue(PICTURES, ((PICTURES, "#"),), pictures),
            *(
                Queue(category_queue(exchange, category), ((exchange, f"*.{category}"),), limits)
                for category in categories
                for exchange, limits in arguments.items()
            ),
        ),
        RETIRED,
    )


def gate_queue(line: str, instance: str) -> str:
    """Return the name of the queue of one gate of a line."""
    return f"patchline.gate.{line}.{instance}"


def shared_gate_queue(line: str) -> str:
    """Return the name of the queue that all gates of a line shared in earlier builds."""
    return f"patchline.gate.{line}"


def lease_queue(line: str) -> str:
    """Return the name of the queue that decides which gate of a line acts."""
    return f"patchline.lease.{line}"


def gate(line: str, instances: Sequence[str]) -> Topology:
    """Return the queues of a line's gates: one for each instance, and the lease of the line.

    A gate's queue receives the announced parts, the verdicts, the acts and the pings of the line, in one sequence. When
    it is full it drops its oldest message, so that a gate that is not running does not block other lines.

    Only one consumer of the lease queue receives messages, the single active consumer. The queue keeps one ping.
    """
    bindings = ((PARTS, line), (VERDICTS, f"{line}.#"), (ACTS, line), (LEASE, line))
    queues = (Queue(gate_queue(line, name), bindings, _quorum(GATE_MAX_LENGTH, "drop-head")) for name in instances)
    lease = Queue(lease_queue(line), ((LEASE, line),), _quorum(1, "drop-head") | {"x-single-active-consumer": True})
    return Topology(EXCHANGES, (*queues, lease))


def mqtt_queue(line: str) -> str:
    """Return the name of the queue of what the devices of a line send by MQTT."""
    return f"{MQTT}.{line}"


def mqtt(line: str, binding: str, max_bytes: int) -> Topology:
    """Return the queue of what the devices of a line send by MQTT.

    When it is full it drops its oldest message, whose part has long left the line. A queue that refuses would silence
    devices: RabbitMQ 3.10 closes their connections, and 4.0 does not answer a device of MQTT 3.1.1 any more.
    """
    limits: dict[str, str | int] = {"x-max-length-bytes": max_bytes, "x-overflow": "drop-head"}
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": _UNLIMITED, **limits}
    return Topology((), (Queue(mqtt_queue(line), ((MQTT_EXCHANGE, binding),), arguments),))


def traces() -> Topology:
    """Return the queue of the trace exporter: a copy of every verdict. When it is full it drops its oldest message."""
    return Topology(EXCHANGES, (Queue(TRACES, ((VERDICTS, "#"),), _quorum(_TRACES_MAX_LENGTH, "drop-head")),))


def ledger(max_length: int) -> Topology:
    """Return the queue of what becomes the ledger of a part in the archive, besides its verdict.

    It receives announcements, acts, outcomes, confirmations, judgements, and what shadow banks say. When it is full it
    drops its oldest message: if it refused, publishers and gates would wait for the archive.
    """
    bindings = tuple((exchange, "#") for exchange in (PARTS, ACTS, JUDGEMENTS, SHADOWS))
    return Topology((PARTS, ACTS, JUDGEMENTS, SHADOWS), (Queue(LEDGER, bindings, _quorum(max_length, "drop-head")),))


def bank_news() -> Topology:
    """Return the exchanges of the news of memory banks, and of what shadow banks say.

    Each worker that has a store listens to the news with a queue of its own.
    """
    return Topology((BANKS, SHADOWS), ())


def _quorum(max_length: int, overflow: str) -> dict[str, str | int]:
    limits: dict[str, str | int] = {"x-max-length": max_length, "x-overflow": overflow, "x-delivery-limit": _UNLIMITED}
    return {"x-queue-type": "quorum", **limits}
