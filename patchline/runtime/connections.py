"""The broker and queues of the configuration, and the wall clock."""

from __future__ import annotations

import time
from collections.abc import Iterable

from patchline import config
from patchline.broker.base import Broker
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology


def connect(
    settings: config.Config, name: str, confirm_timeout_s: float | None = None, quiet: bool = False
) -> RabbitBroker:
    """Connect to the configured broker. See `RabbitBroker` for the arguments."""
    broker = settings.broker
    broker.certificates.check("broker", broker.url)
    return RabbitBroker(
        lambda: config.broker_url(broker),
        ca_file=broker.ca_file,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        heartbeat_s=broker.heartbeat_s,
        confirm_timeout_s=confirm_timeout_s or broker.confirm_timeout_s,
        reconnect_max_s=broker.reconnect_max_s,
        name=f"patchline {name}",
        quiet=quiet,
    )


def plant(settings: config.Config, categories: Iterable[str] | None = None) -> topology.Topology:
    """Return the shared queues of the plant, with the configured limits. None: of all configured categories."""
    broker = settings.broker
    return topology.plant(
        settings.categories if categories is None else categories,
        jobs_max_length=broker.jobs_max_length,
        jobs_max_bytes=broker.jobs_max_bytes,
        verdicts_max_length=broker.verdicts_max_length,
        dead_max_length=broker.dead_max_length,
        dead_max_bytes=broker.dead_max_bytes,
        pictures_max_bytes=broker.pictures_max_bytes,
    )


def ledger(settings: config.Config) -> topology.Topology:
    """Return the queue of the ledger, with the configured limit."""
    return topology.ledger(settings.broker.ledger_max_length)


def declare(broker: Broker, settings: config.Config, queues: topology.Topology) -> None:
    """Create the queues. If `broker.make_queues` is false, only check that they exist.

    Raises:
        TopologyMismatch: one is missing or has other arguments.
        BrokerError: the broker cannot be used.
    """
    broker.declare(queues, passive=not settings.broker.make_queues)


def now_ms() -> int:
    """Return the wall clock in epoch milliseconds, the unit of every time in a message."""
    return time.time_ns() // 1_000_000
