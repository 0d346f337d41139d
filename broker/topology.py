"""Every exchange and queue, with its arguments: the same on RabbitMQ 3.10 and 4.x."""

from __future__ import annotations

from dataclasses import dataclass, field

JOBS = "patchline.jobs"
PARTS = "patchline.parts"
VERDICTS = "patchline.verdicts"
DEAD = "patchline.dead"
EXCHANGES = (JOBS, PARTS, VERDICTS, DEAD)
_UNLIMITED = 1_000_000  # said, because RabbitMQ 4 drops what comes 20 times, and looking at a dead letter counts
GATE_MAX_LENGTH = 100_000  # a gate that was away for so many parts has missed them


@dataclass(frozen=True)
class Queue:
    """A durable quorum queue, what it is bound to, and its limits."""

    name: str
    bindings: tuple[tuple[str, str], ...]  # exchange, routing key pattern
    arguments: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Topology:
    """Durable topic exchanges and the queues behind them."""

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]


def plant(
    max_attempts: int, jobs_max_length: int, jobs_max_bytes: int, verdicts_max_length: int, dead_max_length: int
) -> Topology:
    """What the whole plant shares: jobs, verdicts and dead letters.

    A full queue of jobs or verdicts refuses (the sender gets a nack and waits), since dropping would break the promise.
    A full dead-letter queue drops its oldest: their verdicts were given long ago, and the line must go on.
    """
    # The worker answers `error` on attempt `max_attempts`. The broker's own limit lies beyond it and is for jobs that
    # kill every worker before it can answer. RabbitMQ counts redeliveries, so a limit of n allows n + 1 attempts.
    jobs = _quorum(jobs_max_length, "reject-publish") | {
        "x-max-length-bytes": jobs_max_bytes,
        "x-delivery-limit": max_attempts + 1,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
    }
    return Topology(
        EXCHANGES,
        (
            Queue(DEAD, ((DEAD, "#"),), _quorum(dead_max_length, "drop-head")),
            Queue(VERDICTS, ((VERDICTS, "#"),), _quorum(verdicts_max_length, "reject-publish")),
            Queue(JOBS, ((JOBS, "#"),), jobs),
        ),
    )


def gate_queue(line: str) -> str:
    """The name of the queue of a line's gate."""
    return f"patchline.gate.{line}"


def gate(line: str) -> Topology:
    """A gate's own queue: the announced parts and the verdicts of its line, in one order.

    Full, it drops its oldest: a gate that is away must not stop the other lines.
    """
    bindings = ((PARTS, line), (VERDICTS, f"{line}.#"))
    return Topology(EXCHANGES, (Queue(gate_queue(line), bindings, _quorum(GATE_MAX_LENGTH, "drop-head")),))


def _quorum(max_length: int, overflow: str) -> dict[str, str | int]:
    limits: dict[str, str | int] = {"x-max-length": max_length, "x-overflow": overflow, "x-delivery-limit": _UNLIMITED}
    return {"x-queue-type": "quorum", **limits}
