"""An action that is decided and not yet done."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
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
    place = {"number": part.number, "encoder_count": part.encoder_count}
    return Announcement(captured_at=captured_at, deadline=deadline, **ids, **place)


class Undone(MutableMapping[str, Decided]):
    """What is decided and not done, by job id, in the order in which it is to be done.

    Stale actions come last, because the parts of the others have not left the line yet.
    """

    def __init__(self) -> None:
        self._due: dict[str, Decided] = {}
        self._stale: dict[str, Decided] = {}

    def __getitem__(self, job_id: str) -> Decided:
        return self._due[job_id] if job_id in self._due else self._stale[job_id]

    def __setitem__(self, job_id: str, decided: Decided) -> None:
        (self._stale if job_id in self._stale else self._due)[job_id] = decided

    def __delitem__(self, job_id: str) -> None:
        del (self._due if job_id in self._due else self._stale)[job_id]

    def __iter__(self) -> Iterator[str]:
        yield from self._due
        yield from self._stale

    def __len__(self) -> int:
        return len(self._due) + len(self._stale)

    def set_stale(self, due_before: float) -> None:
        """Put the actions last that are stale, or whose parts were due before a time."""
        late = [job_id for job_id, decided in self._due.items() if decided.stale or decided.due_at < due_before]
        for job_id in late:
            self._stale[job_id] = self._due.pop(job_id)
