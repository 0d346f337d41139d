"""What commands say to workers about memory banks, and hear from them. RabbitMQ may be away: nothing depends on it."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Mapping

from patchline import config
from patchline.broker.base import BrokerError, Message
from patchline.protocol import bank_message, status_message, topology
from patchline.protocol.errors import SetupError, Unusable
from patchline.runtime import connections

_CONNECT_S, _LISTEN_S = 3.0, 2.5  # a worker sends its status every second


def announce(settings: config.Config, category: str, version: str) -> str | None:
    """Tell all workers that a version is active. Return None, or why they were not told: they look by themselves."""
    news = bank_message.BankNews(category=category, version=version, sent_at=connections.now_ms())
    message = Message(news.to_json(), None, bank_message.BANK_TYPE, "application/json")
    try:
        with connections.connect(settings, "banks", quiet=True) as broker:
            broker.publish(topology.BANKS, category, message, mandatory=False, timeout_s=_CONNECT_S)
    except (BrokerError, SetupError) as error:
        missing = f"no exchange '{topology.BANKS}'" in str(error)
        return f"{topology.BANKS} is missing: no worker was started with banks.store yet" if missing else str(error)
    return None


def serving(settings: config.Config) -> Mapping[tuple[str, str], int] | None:
    """Listen for a moment, and return how many workers serve each version, by category and version.

    Returns:
        None if no worker was heard: there is none, RabbitMQ is away, or this user may not listen.
    """
    statuses: queue.SimpleQueue[Message] = queue.SimpleQueue()
    workers: dict[str, dict[str, str]] = {}
    try:
        with connections.connect(settings, "banks", quiet=True) as broker:
            broker.listen(topology.STATUS, "worker.#", statuses.put)
            time.sleep(_LISTEN_S)
    except (BrokerError, SetupError):
        return None
    while not statuses.empty():
        try:
            status = status_message.parse_status(statuses.get())
        except Unusable:  # of a later build
            continue
        workers[status.name] = status.banks or {}
    return Counter(version for banks in workers.values() for version in banks.items()) if workers else None
