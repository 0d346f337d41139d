"""Every exchange and queue, with its arguments: the same on RabbitMQ 3.10 and 4.x."""

from __future__ import annotations

from dataclasses import dataclass, field

JOBS = "patchline.jobs"
SUSPECTS = "patchline.suspects"
PARTS = "patchline.parts"
VERDICTS = "patchline.verdicts"
DEAD = "patchline.dead"
TRACES = "patchline.traces"  # a queue of the exchange of the verdicts
EXCHANGES = (JOBS, SUSPECTS, PARTS, VERDICTS, DEAD)
_UNLIMITED = 1_000_000  # said, because RabbitMQ 4 drops what comes 20 times: without a verdict, and looking counts too
GATE_MAX_LENGTH = 100_000  # a gate that was away for so many parts has missed them
_TRACES_MAX_LENGTH = 10_000


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


def plant(jobs_max_length: int, jobs_max_bytes: int, verdicts_max_length: int, dead_max_length: int) -> Topology:
    """What the whole plant shares: jobs, suspects, verdicts and dead letters.

    A full queue of jobs or verdicts refuses (the sender gets a nack and waits), since dropping would break the promise.
    A full dead-letter queue drops its oldest: their verdicts were given long ago, and the line must go on.

    A job that was delivered before may have ended its worker, or only have lain beside one that did. It is a suspect:
    it goes to the end of a queue of its own, of which a worker holds one at a time and judges it alone. Its attempts
    are written in a header, and the worker keeps the limit, and answers: the broker's own count would also count the
    times that a job only lay there, and its limit would lose jobs without a verdict. No length limits it: a worker
    that could not set a job apart could not go on.
    """
    jobs = _quorum(jobs_max_length, "reject-publish") | {"x-max-length-bytes": jobs_max_bytes}
    return Topology(
        EXCHANGES,
        (
            Queue(DEAD, ((DEAD, "#"),), _quorum(dead_max_length, "drop-head")),
            Queue(VERDICTS, ((VERDICTS, "#"),), _quorum(verdicts_max_length, "reject-publish")),
            Queue(SUSPECTS, ((SUSPECTS, "#"),), {"x-queue-type": "quorum", "x-delivery-limit": _UNLIMITED}),
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


def traces() -> Topology:
    """A second copy of every verdict, for their traces; the oldest are dropped while nobody exports them."""
    return Topology(EXCHANGES, (Queue(TRACES, ((VERDICTS, "#"),), _quorum(_TRACES_MAX_LENGTH, "drop-head")),))


def _quorum(max_length: int, overflow: str) -> dict[str, str | int]:
    limits: dict[str, str | int] = {"x-max-length": max_length, "x-overflow": overflow, "x-delivery-limit": _UNLIMITED}
    return {"x-queue-type": "quorum", **limits}
