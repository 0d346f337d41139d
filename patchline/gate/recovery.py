"""What a gate does when it may have missed messages, and when another one has.

A gate whose queue was lost asks the others for what they know. The acting gate keeps its lease and its parts, and adds
those that it has missed: it knows of all acts, since nobody else acted. A standby may have missed acts, so it forgets
its parts first, except those on which an act was intended. If the acting gate stays blind, it hands its parts and the
lease over to a gate that hears the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from patchline.gate.decide import Gate
from patchline.gate.inbox import Inbox
from patchline.gate.lease import Lease
from patchline.gate.outbox import Kept
from patchline.protocol.gate_messages import Snapshot

_log = structlog.get_logger(__name__)
_MAX_ACTED = 1000  # recent actions in a snapshot: later verdicts of their jobs are ignored
_CHUNK = 500  # parts in one message
_MAX_REQUESTS, _REQUEST_INTERVAL_S = 5, 1.0  # the other gate may not run, or be of an earlier build


class GateLink(Protocol):
    """What the recovery needs of `link.Link`."""

    @property
    def unsent(self) -> int: ...
    def announce(self, message: Kept) -> None: ...
    def ask(self) -> None: ...
    def hold_lease(self, wanted: bool) -> None: ...


class Recovery:
    """The recovery of one gate.

    Args:
        instance: the name of the gate.
        gate: the rules and their state.
        lease: which gate may act.
        link: the messages to the other gates.
        inbox: what the gate hears.
        now_ms: the wall clock.
    """

    def __init__(
        self, instance: str, gate: Gate, lease: Lease, link: GateLink, inbox: Inbox, now_ms: Callable[[], int]
    ) -> None:
        self._instance = instance
        self._gate, self._lease, self._link, self._inbox = gate, lease, link, inbox
        self._now_ms = now_ms
        self._missed_as_holder = False  # messages, while this gate was the last holder
        self._asked = False  # another gate waits for a snapshot
        self._requests_left, self._request_at = 0, 0.0
        self._handing_over = False  # released the lease; the others may not know all yet
        self._handed_over = False

    def on_queue_loss(self, now: float) -> None:
        """Handle that messages may have been lost. Call it before anything later is handled."""
        self._lease.on_gap(now)
        self._ask()
        if self._lease.held_last or self._handing_over:
            self._missed_as_holder = True
        else:
            self._forget("the gate's queue was missing, asking the other gates")

    def step(self, now: float) -> None:
        """Do what has become possible or necessary."""
        self._asked = self._inbox.take_request() or self._asked
        self._check_holder(now)
        self._hand_over(now)
        if self._inbox.take_answer():
            self._requests_left = 0
        if self._requests_left and now >= self._request_at:
            self._requests_left, self._request_at = self._requests_left - 1, now + _REQUEST_INTERVAL_S
            self._link.ask()
        if self._asked and self._lease.is_current(now) and not self._missed_as_holder:
            self._asked = False
            self._send_snapshot(now)

    def _check_holder(self, now: float) -> None:
        """Decide what the parts of a former holder are worth that has missed messages."""
        if not self._missed_as_holder or self._handing_over:
            return
        if not self._lease.held_last:
            self._missed_as_holder = False
            self._forget("another gate has acted unheard, asking it")
            self._ask()
        elif self._lease.is_valid(now) and self._lease.is_current(now):
            self._missed_as_holder = False

    def _hand_over(self, now: float) -> None:
        """Leave the lease to another gate while this one is blind. The other one is told everything first."""
        if self._lease.should_release(now):
            _log.warning("the gate hears nothing, another one takes over", gate=self._instance)
            self._send_snapshot(now)
            self._lease.release()
            self._handing_over = True
        elif self._handing_over and self._link.unsent == 0:
            self._handing_over, self._handed_over, self._missed_as_holder = False, True, False
            self._link.hold_lease(False)
            self._forget("parts are left to another gate")
        elif self._handed_over and self._lease.is_current(now):
            self._handed_over = False
            self._lease.resume()
            self._ask()
            self._link.hold_lease(True)

    def _ask(self) -> None:
        """Ask the other gates, until one answers."""
        self._requests_left, self._request_at = _MAX_REQUESTS, 0.0

    def _forget(self, event: str) -> None:
        """Forget the parts on which another gate may have acted unheard."""
        forgotten = self._gate.parts.forget_unpinned()
        if forgotten:
            _log.warning(event, gate=self._instance, parts=len(forgotten))
        self._inbox.forget(forgotten)

    def _send_snapshot(self, now: float) -> None:
        parts = self._gate.parts.open_parts(now)
        acted = tuple(self._gate.parts.recently_acted(_MAX_ACTED))
        for start in range(0, max(1, len(parts)), _CHUNK):
            chunk = tuple(parts[start : start + _CHUNK])
            self._link.announce(Snapshot(gate=self._instance, sent_at=self._now_ms(), open=chunk, acted=acted))
            acted = ()
