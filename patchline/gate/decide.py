"""What a gate does with parts and verdicts. No broker, no clock of its own.

It acts once per job id. A part that was announced and has no verdict when its deadline and a grace are over is
rejected: when in doubt, the part does not leave the line.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from enum import StrEnum

from patchline.protocol.messages import Announcement, Decision, Frozen, Verdict

SILENCE = "no verdict in time"


class Act(StrEnum):
    """What happens to the part."""

    ACCEPT = "accept"
    REJECT = "reject"


class Action(Frozen):
    """One decision of the gate, on one line of its output."""

    job_id: str
    line: str
    category: str
    part_id: str
    action: Act
    because: str
    score: float | None = None
    acted_at: int


class Gate:
    """The memory of one line's gate: what it waits for, and what it has acted on."""

    def __init__(self, review_action: Act, grace_ms: int, remember: int) -> None:
        self._review_action = review_action
        self._grace_ms = grace_ms
        self._remember = remember
        self._acted: OrderedDict[str, str] = OrderedDict()
        self._expected: dict[str, Announcement] = {}
        self._due: list[tuple[int, str]] = []
        self.repeated_verdicts = 0
        self.late_verdicts = 0

    def restore(self, expected: list[Announcement], acted: list[tuple[str, str]]) -> None:
        """Go on where an earlier process ended: with the parts it expected, and the jobs it acted on (and why)."""
        self._acted.update(acted)
        for part in expected:
            self.on_part(part)

    @property
    def waiting(self) -> int:
        """Parts that were announced and have no verdict yet."""
        return len(self._expected)

    def on_part(self, part: Announcement) -> bool:
        """A part is on its way; False when that is no news. One without a deadline is waited for without end."""
        if part.job_id in self._acted or part.job_id in self._expected:
            return False
        self._expected[part.job_id] = part
        if part.deadline is not None:
            heapq.heappush(self._due, (part.deadline + self._grace_ms, part.job_id))
        return True

    def on_verdict(self, verdict: Verdict, now_ms: int) -> Action | None:
        """Act on a verdict, unless this job has been acted on."""
        if verdict.job_id in self._acted:
            self.repeated_verdicts += 1
            self.late_verdicts += self._acted[verdict.job_id] == SILENCE
            return None
        self._expected.pop(verdict.job_id, None)
        return self._act(verdict, self._act_for(verdict.decision), str(verdict.decision), verdict.score, now_ms)

    def on_time(self, now_ms: int) -> list[Action]:
        """Reject every expected part whose time is over."""
        actions = []
        while self._due and self._due[0][0] <= now_ms:
            _, job_id = heapq.heappop(self._due)
            part = self._expected.pop(job_id, None)
            if part is not None:
                actions.append(self._act(part, Act.REJECT, SILENCE, None, now_ms))
        return actions

    def _act_for(self, decision: Decision) -> Act:
        if decision is Decision.REVIEW:
            return self._review_action
        return Act.ACCEPT if decision is Decision.PASS else Act.REJECT

    def _act(self, what: Announcement | Verdict, act: Act, because: str, score: float | None, now_ms: int) -> Action:
        self._acted[what.job_id] = because
        if len(self._acted) > self._remember:
            self._acted.popitem(last=False)
        return Action(
            job_id=what.job_id,
            line=what.line,
            category=what.category,
            part_id=what.part_id,
            action=act,
            because=because,
            score=score,
            acted_at=now_ms,
        )
