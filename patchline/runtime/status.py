"""Sends the status of this process every second. Whoever is interested binds a queue to the exchange."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from patchline.broker.base import Broker, BrokerError, Message
from patchline.protocol import topology
from patchline.protocol.status_message import STATUS_TYPE, Status

_log = structlog.get_logger(__name__)
SERVING = "serving"
BLIND = "blind"
_INTERVAL_S = 1.0
_PAUSE_AFTER_FAILURE_S = 10.0
_END_TIMEOUT_S = 2.0
_EXCHANGE = topology.Topology((topology.STATUS,), ())


@dataclass(frozen=True)
class Identity:
    """Who sends a status: see `Status`."""

    role: Literal["publisher", "worker", "gate", "archive"]
    name: str
    line: str | None = None
    hand_in: bool = False


class StatusSender:
    """Sends what the process does on a background thread. A status that cannot be sent is dropped.

    Args:
        broker: a connection of its own, which the sender closes. In an alarm, RabbitMQ reads nothing more from a
            connection that publishes: a status on the connection of a worker would keep it from taking jobs.
        identity: who sends.
        report: returns the state, and what the process holds. It is called every second, also without a connection.
        now_ms: the wall clock.
        make_exchange: declare the exchange before the first status. The process declares it too, on another connection
            and perhaps later (see `broker.make_queues`).
        banks: returns the version of each category's memory bank.
        arm: returns the state of a gate's arm.
    """

    def __init__(
        self,
        broker: Broker,
        identity: Identity,
        report: Callable[[], tuple[str, Mapping[str, int]]],
        now_ms: Callable[[], int],
        make_exchange: bool = False,
        banks: Callable[[], Mapping[str, str]] = dict,
        arm: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._identity = identity
        self._report = report
        self._now_ms = now_ms
        self._must_declare = make_exchange
        self._banks, self._arm = banks, arm
        self._state, self._since = "", now_ms()
        self._failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def __enter__(self) -> StatusSender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_END_TIMEOUT_S)

    def send(self) -> bool:
        """Send one status, if connected. Return False if it cannot be made, or RabbitMQ did not take it."""
        try:
            status = self._describe()
            if self._broker.connected:
                if self._must_declare:
                    self._broker.declare(_EXCHANGE)
                    self._must_declare = False
                message = Message(status.to_json(), None, STATUS_TYPE, "application/json")
                key = status.routing_key
                self._broker.publish(topology.STATUS, key, message, mandatory=False, timeout_s=_INTERVAL_S)
        except BrokerError as error:  # such as a missing exchange
            return self._fail("status not sent, retrying", error)
        except Exception as error:  # noqa: BLE001 - such as a spool that cannot be read; the process goes on
            return self._fail("status unknown, retrying", error)
        if self._failure is not None:
            _log.info("status sent again")
        self._failure = None
        return True

    def _fail(self, event: str, error: Exception) -> bool:
        """Log a failure, unless the last one was of the same kind."""
        if event != self._failure:
            _log.warning(event, reason=str(error), retry_every_s=_PAUSE_AFTER_FAILURE_S)
        self._failure = event
        return False

    def _describe(self) -> Status:
        state, holds = self._report()
        now_ms = self._now_ms()
        if state != self._state:
            self._state, self._since = state, now_ms
        return Status(
            role=self._identity.role,
            name=self._identity.name,
            host=socket.gethostname(),
            line=self._identity.line,
            state=state,
            since=self._since,
            sent_at=now_ms,
            holds=dict(holds),
            banks=dict(self._banks()) or None,
            arm=self._arm(),
            hand_in=self._identity.hand_in or None,
        )

    def _run(self) -> None:
        pause_s = 0.0
        try:
            while not self._stop.wait(pause_s):
                pause_s = _INTERVAL_S if self.send() else _PAUSE_AFTER_FAILURE_S
        finally:
            self._broker.close()
