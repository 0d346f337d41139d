"""The rules of a gate: when to accept or reject a part. Uses no broker and no clock.

The gate acts once per job id. A part that was announced and has no verdict when its deadline and a grace period are
over is rejected: if in doubt, the part must not leave the line.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from enum import StrEnum

from patchline.protocol.messages import Announcement, Decision, Frozen, Verdict

NO_VERDICT = "no verdict in time"


class Action(StrEnum):
    """What the gate does with a part."""

    ACCEPT = "accept"
    REJECT = "reject"


class ActionRecord(Frozen):
    """One action of the gate; printed as one line of JSON."""

    job_id: str
    line: str
    category: str
    part_id: str
    action: Action
    because: str
    score: float | None = None
    acted_at: int


class Gate:
    """The state of one line's gate: the parts it expects and the jobs it has acted on.

    Args:
        review_action: action for the verdict `review`.
        grace_ms: time added to the deadline of a part before it is rejected without a verdict.
        remember: number of jobs to remember, so that the gate does not act on them again.
    """

    def __init__(self, review_action: Action, grace_ms: int, remember: int) -> None:
        self._review_action = review_action
        self._grace_ms = grace_ms
        self._remember = remember
        self._acted: OrderedDict[str, str] = OrderedDict()
        self._expected: dict[str, Announcement] = {}
        self._due: list[tuple[int, str]] = []
        self.late_verdicts = 0

    def restore(self, expected: list[Announcement], acted: list[tuple[str, str]]) -> None:
        """Restore the state of an earlier process.

        Args:
            expected: the parts that were announced and not acted on.
            acted: job id and reason of each action, oldest first.
        """
        self._acted.update(acted)
        for part in expected:
            self.on_part(part)

    @property
    def pending(self) -> int:
        """Number of announced parts that have no verdict yet."""
        return len(self._expected)

    def on_part(self, part: Announcement) -> bool:
        """Expect a part; return False if its job is already known. A part without a deadline never becomes overdue."""
        if part.job_id in self._acted or part.job_id in self._expected:
            return False
        self._expected[part.job_id] = part
        if part.deadline is not None:
            heapq.heappush(self._due, (part.deadline + self._grace_ms, part.job_id))
        return True

    def on_verdict(self, verdict: Verdict, now_ms: int) -> ActionRecord | None:
        """Act on a verdict; return None if the gate has already acted on its job."""
        if verdict.job_id in self._acted:
            self.late_verdicts += self._acted[verdict.job_id] == NO_VERDICT
            return None
        self._expected.pop(verdict.job_id, None)
        return self._act(verdict, self._action_for(verdict.decision), str(verdict.decision), verdict.score, now_ms)

    def reject_overdue(self, now_ms: int) -> list[ActionRecord]:
        """Reject every expected part whose deadline and grace period are over."""
        records = []
        while self._due and self._due[0][0] <= now_ms:
            _, job_id = heapq.heappop(self._due)
            part = self._expected.pop(job_id, None)
            if part is not None:
                records.append(self._act(part, Action.REJECT, NO_VERDICT, None, now_ms))
        return records

    def _action_for(self, decision: Decision) -> Action:
        if decision is Decision.REVIEW:
            return self._review_action
        return Action.ACCEPT if decision is Decision.PASS else Action.REJECT

    def _act(
        self, message: Announcement | Verdict, action: Action, because: str, score: float | None, now_ms: int
    ) -> ActionRecord:
        self._acted[message.job_id] = because
        if len(self._acted) > self._remember:
            self._acted.popitem(last=False)
        return ActionRecord(
            job_id=message.job_id,
            line=message.line,
            category=message.category,
            part_id=message.part_id,
            action=action,
            because=because,
            score=score,
            acted_at=now_ms,
        )
