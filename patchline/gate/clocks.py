"""How far the clocks of publishers and workers are from the gate's, from the times in their messages."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import structlog

_log = structlog.get_logger(__name__)
_WINDOW_S = 30.0
_MAX_HOSTS = 64
_FORGOTTEN_S = 600.0  # a host that is not heard for this long says nothing of its clock any more
_ALLOWED_S = {"worker": (-2.0, 2.0), "publisher": (-2.0, 60.0)}  # an earlier build sends the time of capture only


@dataclass
class _Window:
    """The smallest offset of the current and of the previous window: delays of messages only add to an offset."""

    started: float
    smallest: float
    heard_at: float
    previous: float | None = None
    differs: bool = False

    def observe(self, offset_s: float, now: float) -> float:
        self.heard_at = now
        if now - self.started > _WINDOW_S:
            self.started, self.previous, self.smallest = now, self.smallest, offset_s
        self.smallest = min(self.smallest, offset_s)
        return min(self.smallest, self.smallest if self.previous is None else self.previous)


class ClockOffsets:
    """The offset of each sender's clock: positive if it is behind the gate's.

    The offset of a publisher of an earlier build also contains the time from capture to announcement.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def observe(self, source: str, host: str, offset_s: float, now: float) -> float:
        """Return the offset in seconds, after one more message. Log when it becomes too large."""
        window = self._windows.setdefault((source, host), _Window(now, offset_s, now))
        self._windows.move_to_end((source, host))
        offset = window.observe(offset_s, now)
        smallest, largest = _ALLOWED_S[source]
        if window.differs == (smallest <= offset <= largest):
            window.differs = not window.differs
            event = "clocks differ, or images are announced late" if window.differs else "clocks agree again"
            _log.warning(event, source=source, host=host, offset_s=round(offset, 3))
        return offset

    def forget(self, now: float) -> list[tuple[str, str]]:
        """Forget the senders that were not heard for long, or that are too many. Return source and host of each."""
        forgotten: list[tuple[str, str]] = []
        for key, window in self._windows.items():  # the one that was heard last comes last
            if len(self._windows) - len(forgotten) <= _MAX_HOSTS and now - window.heard_at <= _FORGOTTEN_S:
                break
            forgotten.append(key)
        for key in forgotten:
            del self._windows[key]
        return forgotten
