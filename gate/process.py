"""The gate's process: parts and verdicts in, one JSON line per decision out."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from broker import topology
from broker.base import Consumer, Delivery
from gate.decide import Act, Action, Gate
from inspection import config, message
from inspection.errors import Unusable
from process import line as surroundings

_log = structlog.get_logger(__name__)
_TICK_S = 0.05  # how late a rejection on silence may be
_PREFETCH = 100


def run(settings: config.Config, line: str, act: Callable[[Action], None], stop: threading.Event) -> None:
    """Serve one line until `stop` is set.

    Args:
        settings: the configuration.
        line: whose gate this is.
        act: does it, and returns when it is done; only then is the verdict acknowledged.
        stop: asks for the end.

    Raises:
        BrokerError: the broker cannot be used.
    """
    with surroundings.connect(settings, f"gate {line}") as broker:
        broker.declare(topology.gate(line))
        arrivals = broker.consume(topology.gate_queue(line), prefetch=_PREFETCH)
        rules = settings.gate
        gate = Gate(Act(rules.review_action), rules.grace_ms, rules.remember_jobs)
        _log.info("gate serves", line=line, review_action=rules.review_action)
        while not stop.is_set():
            turn(gate, arrivals, act, surroundings.now_ms)
        arrivals.cancel()
    _log.info("gate ends", line=line, still_expected=gate.waiting, repeated_verdicts=gate.repeated_verdicts)


def turn(gate: Gate, arrivals: Consumer, act: Callable[[Action], None], clock_ms: Callable[[], int]) -> None:
    """One turn: what has arrived, then what is overdue."""
    delivery = arrivals.take(_TICK_S)
    if delivery is not None:
        _receive(gate, delivery, act, clock_ms())
    for action in gate.on_time(clock_ms()):
        act(action)


def _receive(gate: Gate, delivery: Delivery, act: Callable[[Action], None], now_ms: int) -> None:
    try:
        if delivery.message.type == message.PART_TYPE:
            gate.on_part(message.parse_announcement(delivery.message))
        else:
            action = gate.on_verdict(message.parse_verdict(delivery.message), now_ms)
            if action is not None:
                act(action)
    except Unusable as error:
        _log.error("message for the gate cannot be read", message_id=delivery.message.message_id, why=error.detail)
    delivery.ack()
