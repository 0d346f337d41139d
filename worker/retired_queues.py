"""Moves what earlier builds have left in their common queues to the queues of its categories."""

from __future__ import annotations

import threading
from dataclasses import replace

import structlog

from patchline.broker.base import (
    PREVIOUS_ATTEMPTS,
    Broker,
    BrokerError,
    Delivery,
    Outgoing,
    TopologyMismatch,
    Unroutable,
    previous_attempts,
)
from patchline.protocol import topology
from patchline.protocol.topology import Queue, Topology

_log = structlog.get_logger(__name__)
_PREFETCH = 4
_MOVED = "patchline-moved"  # a header: the common queue is still bound, and got the moved message again
_RETRY_S = 1.0
_TAKE_TIMEOUT_S = 0.5


def move_all(broker: Broker, stop: threading.Event) -> None:
    """Empty the queues of earlier builds until the stop event is set. Return at once if there is none."""
    for queue in topology.RETIRED:
        if _exists(broker, queue):
            command = f"rabbitmqctl delete_queue {queue.name} --if-empty"
            _log.warning("moving jobs from the queue of an earlier build", queue=queue.name, then=command)
            threading.Thread(target=_move, args=(broker, queue.name, stop), name="retired-queue", daemon=True).start()


def _exists(broker: Broker, queue: Queue) -> bool:
    try:
        broker.declare(Topology((), (Queue(queue.name, ()),)), passive=True)
    except TopologyMismatch:
        return False
    return True


def _move(broker: Broker, queue: str, stop: threading.Event) -> None:
    try:
        consumer = broker.consume(queue, _PREFETCH)
        while not stop.is_set() and not consumer.gaps:  # a gap: it was deleted, as it should be
            delivery = consumer.take(_TAKE_TIMEOUT_S)
            if delivery is not None and not _move_one(broker, queue, delivery):
                stop.wait(_RETRY_S)
        consumer.cancel()
    except BrokerError:  # the broker is closed
        return


def _move_one(broker: Broker, exchange: str, delivery: Delivery) -> bool:
    """Publish a delivery to the queue of its category. Return False, and requeue it, if that is not possible now."""
    job = delivery.message
    if _MOVED in job.headers:
        delivery.ack()
        return True
    headers = {**job.headers, _MOVED: 1}
    if delivery.redelivered:
        exchange = topology.SUSPECTS
        headers[PREVIOUS_ATTEMPTS] = previous_attempts(job.headers) + 1
    try:
        broker.publish_all([Outgoing(exchange, delivery.routing_key, replace(job, headers=headers))])
    except BrokerError as error:
        event = "no queue for the category of an old job" if isinstance(error, Unroutable) else "old job not moved"
        _log.warning(event, job_id=job.message_id, reason=str(error))
        delivery.requeue()
        return False
    delivery.ack()
    return True
