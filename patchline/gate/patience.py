"""How long a gate waits for the verdict on a part. Uses no clock."""

from __future__ import annotations

from collections.abc import Callable

from patchline import config
from patchline.protocol.messages import Announcement, Verdict


class Patience:
    """The patience with parts, by the rules of their categories.

    Args:
        rules: returns the rules of a category.
    """

    def __init__(self, rules: Callable[[str], config.GateRules]) -> None:
        self._rules = rules

    def seconds(self, part: Announcement | Verdict) -> float:
        """Return the time from the arrival of an announcement in which the verdict must come."""
        return (self._wait_ms(part) + self._rules(part.category).grace_ms) / 1000

    def waited_s(self, part: Announcement | Verdict, now_ms: int) -> float:
        """Return how much of the patience with a part is over, by the wall clocks.

        What counts is the deadline, because an image may be captured long before it is announced.
        """
        if part.deadline is not None and part.captured_at is not None:
            return max(0, self._wait_ms(part) - (part.deadline - now_ms)) / 1000
        since_ms = part.received_at if isinstance(part, Verdict) and part.captured_at is None else part.captured_at
        return max(0, now_ms - (since_ms or now_ms)) / 1000

    def _wait_ms(self, part: Announcement | Verdict) -> int:
        wait_ms = self._rules(part.category).max_wait_ms
        if part.deadline is not None and part.captured_at is not None:
            # Times of one clock. An image may be announced long after its capture; a camera's clock may be ahead.
            announced_at = part.announced_at if isinstance(part, Announcement) else None
            wait_ms = min(wait_ms, max(0, part.deadline - max(part.captured_at, announced_at or 0)))
        return wait_ms
