"""The gate's process: parts and verdicts in, one JSON line per decision out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import structlog

from patchline import config
from patchline.broker.base import Consumer, Delivery
from patchline.gate.decide import Act, Action, Gate
from patchline.gate.memory import Memory
from patchline.protocol import messages, topology
from patchline.protocol.errors import Unusable
from patchline.runtime import connections

_log = structlog.get_logger(__name__)
_TICK_S = 0.05  # how late a rejection on silence may be
_PREFETCH = 1000  # what comes while the disk of the memory stalls: 14 s of a line with 36 parts a second


def run(settings: config.Config, line: str, act: Callable[[Action], None], stop: threading.Event) -> None:
    """Serve one line until `stop` is set, going on where an earlier process ended.

    Args:
        settings: the configuration.
        line: whose gate this is.
        act: does it, and returns when it is done; only then is it remembered, and the verdict acknowledged.
        stop: asks for the end.

    Raises:
        BrokerError: the broker cannot be used.
        SetupError: the gate's memory cannot be used.
    """
    rules = settings.gate
    gate = Gate(Act(rules.review_action), rules.grace_ms, rules.remember_jobs)
    with (
        connections.connect(settings, f"gate {line}") as broker,
        closing(Memory(settings.paths.gate / f"{line}.sqlite", rules.remember_jobs)) as memory,
    ):
        gate.restore(memory.expected(), memory.remembered())
        connections.declare(broker, settings, topology.gate(line))
        arrivals = broker.consume(topology.gate_queue(line), prefetch=_PREFETCH)
        _log.info("gate serves", line=line, review_action=rules.review_action, expected=gate.waiting)

        def act_once(action: Action) -> None:
            act(action)
            memory.acted(action)

        while not stop.is_set():
            turn(gate, memory, arrivals, act_once, connections.now_ms)
        arrivals.cancel()
    _log.info("gate ends", line=line, still_expected=gate.waiting, late_verdicts=gate.late_verdicts)


def turn(
    gate: Gate, memory: Memory, arrivals: Consumer, act: Callable[[Action], None], clock_ms: Callable[[], int]
) -> None:
    """One turn: what has arrived, then what is overdue."""
    delivery = arrivals.take(_TICK_S)
    if delivery is not None:
        _receive(gate, memory, delivery, act, clock_ms())
    for action in gate.on_time(clock_ms()):
        act(action)


def _receive(gate: Gate, memory: Memory, delivery: Delivery, act: Callable[[Action], None], now_ms: int) -> None:
    try:
        if delivery.message.type == messages.PART_TYPE:
            part = messages.parse_announcement(delivery.message)
            if gate.on_part(part):
                memory.expect(part)
        else:
            late = gate.late_verdicts
            verdict = messages.parse_verdict(delivery.message)
            action = gate.on_verdict(verdict, now_ms)
            if action is not None:
                act(action)
            elif gate.late_verdicts > late:
                _log.warning("verdict came too late", job_id=verdict.job_id, decision=verdict.decision)
    except Unusable as error:
        _log.error("message for the gate cannot be read", message_id=delivery.message.message_id, why=error.detail)
    memory.then(delivery.ack)
