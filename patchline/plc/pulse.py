"""Whether a PLC is heard and runs its program, by the heartbeat that it counts. Uses no clock."""

from __future__ import annotations

_SILENT_S = 0.5  # a program whose heartbeat stands for this long looks at no sensor


class Pulse:
    """The heartbeat of one PLC. All times are seconds on a monotonic clock.

    A PLC that has never counted its heartbeat is not silent: it cannot be judged by it.
    """

    def __init__(self) -> None:
        self.is_silent = True  # nothing has been heard yet
        self.heard_until = float("-inf")
        self._heartbeat: int | None = None
        self._counts = False

    def on_report(self, heartbeat: int, now: float) -> None:
        """Take note of a heartbeat that was read, with everything that the PLC said."""
        self._counts = self._counts or (self._heartbeat is not None and heartbeat != self._heartbeat)
        if heartbeat != self._heartbeat or not self._counts:
            self.heard_until, self.is_silent = now, False
        elif now >= self.heard_until + _SILENT_S:
            self.is_silent = True
        self._heartbeat = heartbeat

    def on_failure(self) -> None:
        """Take note that not all was read that the PLC says."""
        self.is_silent = True
