"""What a gate tells the other gates of its line. Nothing waits for RabbitMQ."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass

from patchline.broker.base import Broker, Message, Outgoing
from patchline.protocol import topology
from patchline.protocol.gate_messages import (
    ACT_TYPE,
    CONFIRMATION_TYPE,
    OUTCOME_TYPE,
    PING_TYPE,
    SNAPSHOT_TYPE,
    SYNC_TYPE,
    Act,
    ActState,
    ConfirmationRecord,
    OutcomeRecord,
    Ping,
    Snapshot,
    SyncRequest,
)

_MAX_UNSENT = 10_000
_MAX_CONFIRMATIONS_BEHIND = _MAX_UNSENT // 2  # they must not displace acts, of which other gates have to know
_END_TIMEOUT_S = 1.0
_TYPES = {
    Act: ACT_TYPE,
    OutcomeRecord: OUTCOME_TYPE,
    ConfirmationRecord: CONFIRMATION_TYPE,
    Ping: PING_TYPE,
    Snapshot: SNAPSHOT_TYPE,
    SyncRequest: SYNC_TYPE,
}
_KEYS: dict[type, str] = {OutcomeRecord: ".outcome", ConfirmationRecord: ".confirmed"}
Kept = Act | Snapshot | OutcomeRecord | ConfirmationRecord  # until RabbitMQ has confirmed it


@dataclass(eq=False)
class _Unsent:
    """A message that RabbitMQ has not confirmed."""

    message: Kept
    outgoing: Outgoing
    confirmation: Future[None] | None = None

    @property
    def is_confirmed(self) -> bool:
        return self._is_done and not self.has_failed

    @property
    def has_failed(self) -> bool:
        done = self.confirmation
        return done is not None and done.done() and (done.cancelled() or done.exception() is not None)

    @property
    def _is_done(self) -> bool:
        return self.confirmation is not None and self.confirmation.done()


class Outbox:
    """Acts and snapshots, in order, until RabbitMQ has confirmed them.

    Args:
        broker: the connection.
        line: the line of the gate.
        on_confirmed: called on any thread when `flush` may have something to drop.
    """

    def __init__(self, broker: Broker, line: str, on_confirmed: Callable[[], None]) -> None:
        self._broker = broker
        self._line = line
        self._on_confirmed = on_confirmed
        self._unsent: deque[_Unsent] = deque()
        self._told: deque[Act] = deque()
        self._open = False

    def __len__(self) -> int:
        """Return the number of messages that are not confirmed."""
        return len(self._unsent)

    def open(self) -> None:
        """Send from now on: the exchanges exist."""
        self._open = True

    def add(self, message: Kept) -> None:
        """Send a message at once, without waiting: a gate may be killed in the middle of its act."""
        if isinstance(message, ConfirmationRecord) and len(self._unsent) >= _MAX_CONFIRMATIONS_BEHIND:
            return
        unsent = _Unsent(message, to_gates(topology.ACTS, self._line, message))
        if self._open:
            self._start(unsent)
        self._unsent.append(unsent)
        if len(self._unsent) > _MAX_UNSENT:
            oldest = self._unsent.popleft()
            self._settle(oldest)
            if oldest.confirmation is not None:
                oldest.confirmation.cancel()

    def flush(self, retry: bool) -> None:
        """Drop what is confirmed. If `retry`, send what has failed or was not sent."""
        while self._unsent and self._unsent[0].is_confirmed:
            self._settle(self._unsent.popleft())
        for unsent in list(self._unsent) if retry and self._open and self._broker.connected else ():
            if unsent.confirmation is None or unsent.has_failed:
                self._start(unsent)

    def take_told(self) -> list[Act]:
        """Return the acts that are done, and that RabbitMQ has confirmed since the last call. For another thread."""
        return [self._told.popleft() for _ in range(len(self._told))]

    def close(self) -> None:
        """Wait shortly for what is on its way."""
        futures.wait([unsent.confirmation for unsent in self._unsent if unsent.confirmation], _END_TIMEOUT_S)

    def _settle(self, unsent: _Unsent) -> None:
        """Take note that a message is confirmed, or that there are too many."""
        if isinstance(unsent.message, Act) and unsent.message.state is ActState.DONE:
            self._told.append(unsent.message)

    def _start(self, unsent: _Unsent) -> None:
        unsent.confirmation = self._broker.publish_nowait([unsent.outgoing])
        unsent.confirmation.add_done_callback(lambda _: self._on_confirmed())


def to_gates(exchange: str, line: str, message: Kept | Ping | SyncRequest) -> Outgoing:
    """Return a message to all gates of a line.

    An outcome or a confirmation goes to whoever keeps records: no gate's queue takes it.
    """
    job_id = message.job_id if isinstance(message, Act | OutcomeRecord | ConfirmationRecord) else None
    key = line + _KEYS.get(type(message), "")
    content = Message(message.to_json(), job_id, _TYPES[type(message)], "application/json")
    return Outgoing(exchange, key, content, mandatory=False)
