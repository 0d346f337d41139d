"""Return jobs to their queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from patchline.broker.base import Broker, BrokerError, Delivery, Outgoing, wait_for_confirmation

_TIMEOUT_S = 2.0


def give_back(broker: Broker, deliveries: Sequence[Delivery]) -> None:
    """Return jobs to their queue such that this delivery does not count.

    RabbitMQ counts every message that is requeued, and its next worker would take it for a suspect. So a copy is
    published, and the delivery acknowledged once that is confirmed. Otherwise it is requeued after all, as is a job
    that was a suspect already.
    """
    publications = []
    for delivery in deliveries:
        copy = Outgoing(delivery.exchange, delivery.routing_key, delivery.message)
        try:
            publications.append((delivery, None if delivery.redelivered else broker.publish_nowait([copy])))
        except BrokerError:
            publications.append((delivery, None))
    deadline = time.monotonic() + _TIMEOUT_S
    for delivery, confirmation in publications:
        try:
            if confirmation is None:
                delivery.requeue()
            else:
                wait_for_confirmation(confirmation, max(0.0, deadline - time.monotonic()))
                delivery.ack()
        except BrokerError:
            delivery.requeue()
