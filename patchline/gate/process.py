"""The gate's process: consumes announcements and verdicts, and acts once on each part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import structlog

from patchline import config
from patchline.broker.base import Consumer, Delivery
from patchline.gate.decide import Action, ActionRecord, Gate
from patchline.gate.memory import Memory
from patchline.protocol import messages, topology
from patchline.protocol.errors import Unusable
from patchline.runtime import connections

_log = structlog.get_logger(__name__)
_TICK_S = 0.05  # upper bound of the delay of a rejection without a verdict
_PREFETCH = 1000  # deliveries while the disk of the memory stalls: 14 s of a line with 36 parts per second


def run(settings: config.Config, line: str, act: Callable[[ActionRecord], None], stop: threading.Event) -> None:
    """Serve one line until `stop` is set. Restores the state of an earlier process.

    Args:
        settings: the configuration.
        line: the line of this gate.
        act: accepts or rejects the part and returns when that is done. Only then is the action saved and the verdict
            acknowledged.
        stop: ends the gate when set.

    Raises:
        BrokerError: the broker cannot be used.
        SetupError: the gate's memory cannot be used.
    """
    rules = settings.gate
    gate = Gate(Action(rules.review_action), rules.grace_ms, rules.remember_jobs)
    with (
        connections.connect(settings, f"gate {line}") as broker,
        closing(Memory(settings.paths.gate / f"{line}.sqlite", rules.remember_jobs)) as memory,
    ):
        gate.restore(memory.load_expected(), memory.load_acted())
        connections.declare(broker, settings, topology.gate(line))
        consumer = broker.consume(topology.gate_queue(line), prefetch=_PREFETCH)
        _log.info("gate started", line=line, review_action=rules.review_action, expected=gate.pending)

        def act_and_save(record: ActionRecord) -> None:
            act(record)
            memory.save_action(record)

        while not stop.is_set():
            _step(gate, memory, consumer, act_and_save, connections.now_ms)
        consumer.cancel()
    _log.info("gate stopped", line=line, still_expected=gate.pending, late_verdicts=gate.late_verdicts)


def _step(
    gate: Gate, memory: Memory, consumer: Consumer, act: Callable[[ActionRecord], None], clock_ms: Callable[[], int]
) -> None:
    """Handle one delivery, if there is one, then reject the overdue parts."""
    delivery = consumer.take(_TICK_S)
    if delivery is not None:
        _handle(gate, memory, delivery, act, clock_ms())
    for record in gate.reject_overdue(clock_ms()):
        act(record)


def _handle(gate: Gate, memory: Memory, delivery: Delivery, act: Callable[[ActionRecord], None], now_ms: int) -> None:
    try:
        if delivery.message.type == messages.PART_TYPE:
            part = messages.parse_announcement(delivery.message)
            if gate.on_part(part):
                memory.save_part(part)
        else:
            late_verdicts = gate.late_verdicts
            verdict = messages.parse_verdict(delivery.message)
            record = gate.on_verdict(verdict, now_ms)
            if record is not None:
                act(record)
            elif gate.late_verdicts > late_verdicts:
                _log.warning("verdict too late", job_id=verdict.job_id, decision=verdict.decision)
    except Unusable as error:
        _log.error("invalid message in the gate's queue", message_id=delivery.message.message_id, reason=error.detail)
    memory.enqueue(delivery.ack)
