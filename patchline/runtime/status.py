"""Sends the status of this process every second. Whoever is interested binds a queue to the exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from patchline.broker.base import Broker, BrokerError, Message
from patchline.protocol import topology
from patchline.protocol.status_message import STATUS_TYPE, Status

_log = structlog.get_logger(__name__)
_INTERVAL_S = 1.0
_PAUSE_AFTER_FAILURE_S = 30.0  # a missing exchange or permission closes the channel that all messages share


class StatusSender:
    """Sends `describe()` every second on a background thread. A status that cannot be sent is dropped."""

    def __init__(self, broker: Broker, describe: Callable[[], Status]) -> None:
        self._broker = broker
        self._describe = describe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def __enter__(self) -> StatusSender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def send(self) -> bool:
        """Send one status, if connected. Return False if RabbitMQ did not take it."""
        if not self._broker.connected:
            return True
        status = self._describe()
        message = Message(status.to_json(), None, STATUS_TYPE, "application/json")
        try:
            self._broker.publish(topology.STATUS, status.routing_key, message, mandatory=False, timeout_s=_INTERVAL_S)
        except BrokerError as error:
            _log.warning("status not sent", reason=str(error), pause_s=_PAUSE_AFTER_FAILURE_S)
            return False
        return True

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            pause_s = _INTERVAL_S if self.send() else _PAUSE_AFTER_FAILURE_S
