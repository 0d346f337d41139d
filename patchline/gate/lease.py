"""Which gate of a line may act. Uses no broker and no clock.

Each gate sends pings to the lease queue and to the queues of all gates of its line. Only the single active consumer
receives from the lease queue. A ping of its own that comes back from there extends its lease to the time of sending
plus `duration_s`. A process that was frozen therefore sees that its lease is over before it acts.

Two gates never hold the lease at once: whatever the former holder has received was sent before RabbitMQ chose the new
one, so its lease ends `duration_s` later at the latest, and the new holder waits for that long. It need not wait if it
was the last holder itself and has heard of no other one.

A gate's own pings in its own queue prove that it hears its line, and that it has heard everything up to the time of
sending. Without them it is blind.

A gate that stays blind although it is the active consumer releases the lease if another gate hears the line.
"""

from __future__ import annotations

from enum import StrEnum

from patchline.gate.decide import Permit
from patchline.protocol.gate_messages import Ping

_MAX_READING = 5  # durations of the lease
_QUIET_S = 0.25  # without a delivery: a blind gate reads nothing that lay in its queue
_PARTNER_S = 60.0  # a gate that is not heard for this long is no partner any more


class Role(StrEnum):
    """What a gate is doing."""

    STARTING = "starting"  # it has heard nothing of its line yet
    SERVING = "serving"
    STANDBY = "standby"
    BLIND = "blind"


class Lease:
    """The lease as one process sees it. All times are seconds of one clock that also counts suspended time.

    Args:
        gate: the name of this gate instance.
        process: the random id of this process.
        duration_s: how long a ping extends the lease.
        held_last: this instance was the last one to hold the lease, as far as it knows.
        now: the time.
        has_partner: the line had another gate, which may have taken over while this instance did not run.
    """

    def __init__(
        self, gate: str, process: str, duration_s: float, held_last: bool, now: float, has_partner: bool = False
    ) -> None:
        self._gate = gate
        self.process = process
        self._duration_s = duration_s
        self.held_last = held_last
        self.has_partner = has_partner
        self._partner_heard_at = now
        self.has_namesake = False  # another process uses the name of this gate
        self._active_since: float | None = None
        self._last_active_ping = (float("-inf"), float("-inf"))  # sent at, received at
        self._heard_until: float | None = None  # everything that was sent before has been heard
        self._deaf_since = now
        self._delivered_at = float("-inf")
        self._stepped_at, self._woke_at = float("inf"), now if has_partner else float("-inf")
        self._current_others: dict[str, float] = {}  # when another gate said that it hears the line
        self._released = False

    def on_step(self, now: float) -> None:
        """Handle that this gate's process runs. After a freeze it first reads what it has missed."""
        if self._stepped_at + self._duration_s < now:
            self._woke_at = self._deaf_since = now
        self._stepped_at = now

    def on_lease_ping(self, ping: Ping, now: float) -> None:
        """Handle a ping from the lease queue: this gate is the single active consumer."""
        if ping.process != self.process:
            self._on_lease_ping_of_other(ping, now)
            return
        if self._released:
            return
        sent_at, received_at = self._last_active_ping
        if self._active_since is None or max(ping.sent_at - sent_at, now - received_at) > self._duration_s / 2:
            self._active_since = now  # another gate may have held the lease in between
        self._last_active_ping = (ping.sent_at, now)

    def _on_lease_ping_of_other(self, ping: Ping, now: float) -> None:
        self._hear_partner(ping, now)
        if ping.current and ping.gate != self._gate:
            self._current_others[ping.gate] = now
        else:
            self._current_others.pop(ping.gate, None)

    def on_delivery(self, now: float) -> None:
        """Handle that a message has come through this gate's own queue."""
        self._delivered_at = now

    def on_queue_ping(self, ping: Ping, now: float) -> None:
        """Handle a ping from this gate's own queue."""
        if ping.process == self.process:
            self._heard_until, self._deaf_since = ping.sent_at, now
        elif ping.gate == self._gate:
            self.has_namesake = self.has_namesake or self.is_current(now)  # until then, it was the process before this
        else:
            self._hear_partner(ping, now)
            if ping.active and not self.is_valid(now):
                self.held_last = False

    def _hear_partner(self, ping: Ping, now: float) -> None:
        if ping.gate != self._gate:
            self.has_partner, self._partner_heard_at = True, now

    def on_gap(self, now: float) -> None:
        """Handle the loss of this gate's queue: it is blind until its next ping comes back."""
        if self._heard_until is not None:
            self._heard_until, self._deaf_since = None, now - self._duration_s

    def should_release(self, now: float) -> bool:
        """Return True if this gate has been blind for a while, and another one hears the line that could act."""
        blind_for_long = not self.is_current(now) and now >= self._deaf_since + 2 * self._duration_s
        heard_at = max(self._current_others.values(), default=float("-inf"))
        return self.is_active(now) and blind_for_long and now < heard_at + self._duration_s

    def release(self) -> None:
        """Give up the right to act, until `resume`."""
        self._released, self._active_since, self.held_last = True, None, False

    def resume(self) -> None:
        """Take part in the lease again."""
        self._released = False

    def is_active(self, now: float) -> bool:
        """Return True if this gate is the active consumer, as far as it knows. It may still have to wait."""
        return self._active_since is not None and now < self._last_active_ping[0] + self._duration_s

    def is_valid(self, now: float) -> bool:
        """Return True if this gate holds the lease."""
        if self._active_since is None or not self.is_active(now):
            return False
        return now >= self._active_since + self._duration_s or (self.held_last and self.is_current(now))

    def is_current(self, now: float) -> bool:
        """Return True if this gate has heard everything on its line until a moment ago."""
        return self._heard_until is not None and now < self._heard_until + self._duration_s

    def is_blind(self, now: float) -> bool:
        """Return True if this gate hears nothing of its line."""
        return not self.is_current(now) and now >= self._deaf_since + self._duration_s

    def permit(self, now: float) -> Permit:
        """Return what this gate may do now. Remember that it holds the lease, if it does.

        An accept needs the lease. A blind gate may still reject if it was the last holder: a reject is the safe state.
        While it reads what lay in its queue it waits, because the acts of another gate may come next.
        """
        valid = self.is_valid(now)
        if valid:
            self.held_last = True
        accept = valid and self.is_current(now)
        if accept and now > self._partner_heard_at + _PARTNER_S:
            self.has_partner = False
        return Permit(accept=accept, reject=accept or (self.is_blind(now) and self.held_last and self._is_quiet(now)))

    def _is_quiet(self, now: float) -> bool:
        """Return True if nothing comes through this gate's queue. Its pings may be missing from what comes.

        A gate that was frozen or dead has to connect again before anything comes, and another gate may have acted
        meanwhile.
        """
        reading_s = _MAX_READING * self._duration_s
        quiet = now >= self._delivered_at + _QUIET_S and now >= self._woke_at + reading_s
        return quiet or now >= self._deaf_since + reading_s

    def role(self, now: float) -> Role:
        """Return what this gate is doing now."""
        if self.is_blind(now):
            return Role.BLIND
        if self._heard_until is None:
            return Role.STARTING
        return Role.SERVING if self.is_valid(now) and self.is_current(now) else Role.STANDBY
