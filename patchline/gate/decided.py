"""An action that is decided and not yet done."""

from __future__ import annotations

from dataclasses import dataclass

from patchline.protocol.gate_messages import Action, ActionRecord, OpenPart
from patchline.protocol.messages import Announcement, Verdict


@dataclass(frozen=True)
class Decided:
    """An action that is not yet done. A pinned one was intended before: it is repeated and never becomes another."""

    part: Announcement | Verdict | ActionRecord
    action: Action
    because: str
    score: float | None
    due_at: float  # seconds on the monotonic clock
    pinned: bool = False
    stale: bool = False
    failures: int = 0  # attempts that the arm has not acknowledged
    retry_at: float = float("-inf")

    def to_open_part(self, now: float) -> OpenPart:
        """Return it for the other gates of the line."""
        return OpenPart(
            part=_announcement(self.part),
            due_in_s=self.due_at - now,
            action=self.action,
            because=self.because,
            score=self.score,
            intended=self.pinned,
        )


def _announcement(part: Announcement | Verdict | ActionRecord) -> Announcement:
    """Return what is known of the announcement of a part."""
    if isinstance(part, Announcement):
        return part
    if isinstance(part, Verdict):
        captured_at, deadline = part.captured_at or part.received_at, part.deadline
    else:
        captured_at, deadline = part.acted_at, None
    ids = {"job_id": part.job_id, "line": part.line, "category": part.category, "part_id": part.part_id}
    return Announcement(captured_at=captured_at, deadline=deadline, **ids)
