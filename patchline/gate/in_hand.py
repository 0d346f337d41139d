"""The parts of a line that a gate has in hand: expected, decided, or done. Knows no rule, no broker and no clock."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from patchline.gate.decided import Undone
from patchline.protocol.gate_messages import ActionRecord, OpenPart
from patchline.protocol.messages import Announcement, Verdict

_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 5.0


def retry_pause_s(failures: int) -> float:
    """Return the pause after a failed attempt that `failures` others came before."""
    return min(_MAX_RETRY_S, _MIN_RETRY_S * 2.0 ** min(failures, 16))


class InHand:
    """What is known of each job: announced, decided, or acted on. A job is in one of these states.

    All times named `now` are seconds on the monotonic clock.

    Args:
        remember: number of jobs to remember, so that the gate does not act on them again.
    """

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self.acted: OrderedDict[str, str] = OrderedDict()  # reasons by job id, oldest first
        self._expected: dict[str, tuple[Announcement, float]] = {}
        self._due: list[tuple[float, str]] = []
        self.decided = Undone()

    @property
    def expected(self) -> int:
        """Number of announced parts that have no verdict yet."""
        return len(self._expected)

    @property
    def undone(self) -> int:
        """Number of decided actions that are not done yet."""
        return len(self.decided)

    def is_known(self, job_id: str) -> bool:
        """Return True if a job is expected, decided or done."""
        return job_id in self.acted or self.is_open(job_id)

    def is_open(self, job_id: str) -> bool:
        """Return True if a job is expected or decided, and not done."""
        return job_id in self._expected or job_id in self.decided

    def is_expected(self, job_id: str) -> bool:
        """Return True if a part is announced and has no verdict yet."""
        return job_id in self._expected

    def is_undone(self, job_id: str) -> bool:
        """Return True if the action on a job is decided and not done."""
        return job_id in self.decided

    # What happens to a part

    def expect(self, part: Announcement, due_at: float) -> None:
        """Expect the verdict on a part until `due_at`."""
        self._expected[part.job_id] = (part, due_at)
        heapq.heappush(self._due, (due_at, part.job_id))

    def expected_parts(self) -> list[tuple[Announcement, float]]:
        """Return the announced parts without a verdict, and the end of the patience with each."""
        return list(self._expected.values())

    def take_expected(self, job_id: str) -> tuple[Announcement, float] | None:
        """Expect a part no longer. Return it with the end of the patience; None if it was not expected."""
        return self._expected.pop(job_id, None)

    def take_overdue(self, limit: float) -> Iterator[tuple[Announcement, float]]:
        """Expect the parts no longer whose patience ended at `limit` or before, and yield them."""
        while self._due and self._due[0][0] <= limit:
            _, job_id = heapq.heappop(self._due)
            if (expected := self._expected.pop(job_id, None)) is not None:
                yield expected

    def intend(self, record: ActionRecord) -> None:
        """Pin an action that is about to be done: from now on it is repeated, or its part is rejected."""
        if record.job_id in self.decided:
            decided = self.decided[record.job_id]
            self.decided[record.job_id] = replace(
                decided, action=record.action, because=record.because, score=record.score, pinned=True
            )

    def postpone(self, job_id: str, now: float) -> float:
        """Do the actions on other parts first: an arm may fail to act on one part only. Return the pause in seconds."""
        decided = self.decided.pop(job_id)
        pause_s = retry_pause_s(decided.failures)
        self.decided[job_id] = replace(decided, failures=decided.failures + 1, retry_at=now + pause_s)
        return pause_s

    def retry_now(self) -> None:
        """Postpone no action any longer: the arm works again."""
        for job_id, decided in self.decided.items():
            self.decided[job_id] = replace(decided, retry_at=float("-inf"))

    def done(self, job_id: str, because: str) -> bool:
        """Remember an action that the arm has acknowledged. Return False if it is known."""
        self.decided.pop(job_id, None)
        self._expected.pop(job_id, None)
        if job_id in self.acted:
            return False
        self.acted[job_id] = because
        if len(self.acted) > self._remember:
            self.acted.popitem(last=False)
        return True

    def open_jobs(self) -> list[Announcement | Verdict | ActionRecord]:
        """Return what is known of each job that is expected or decided, and not done."""
        return [*(part for part, _ in self._expected.values()), *(decided.part for decided in self.decided.values())]

    # What other gates and earlier processes have done

    def restore(self, acted: Iterable[tuple[str, str]]) -> None:
        """Restore what an earlier process has done: job id and reason, oldest first."""
        self.acted.update(acted)

    def open_parts(self, now: float) -> list[OpenPart]:
        """Return the parts on which no gate has acted, as far as this one knows."""
        expected = [OpenPart(part=part, due_in_s=due_at - now) for part, due_at in self._expected.values()]
        return expected + [decided.to_open_part(now) for decided in self.decided.values()]

    def recently_acted(self, count: int) -> list[tuple[str, str]]:
        """Return job id and reason of the last actions, oldest first."""
        return list(islice(reversed(self.acted.items()), count))[::-1]

    def forget_overdue(self, now: float, overdue_s: float, keep: int = 0) -> list[str]:
        """Forget the parts whose patience ended at least `overdue_s` ago; return their job ids. For a standby.

        Up to `keep` parts stay in hand: the gate that acts may be slow, and be killed before it has acted on them.
        """
        most = self.expected + self.undone - keep
        if most <= 0:
            return []
        limit = now - overdue_s
        job_ids = [job_id for job_id, decided in self.decided.items() if decided.due_at <= limit][:most]
        job_ids += [part.job_id for part, _ in islice(self.take_overdue(limit), most - len(job_ids))]
        for job_id in job_ids:
            self.decided.pop(job_id, None)
        return job_ids

    def forget_unpinned(self) -> list[str]:
        """Forget the parts on which another gate may have acted unheard; return their job ids."""
        job_ids = [*self._expected, *(job_id for job_id, decided in self.decided.items() if not decided.pinned)]
        for job_id in job_ids:
            self._expected.pop(job_id, None)
            self.decided.pop(job_id, None)
        return job_ids
