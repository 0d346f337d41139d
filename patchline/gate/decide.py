"""The rules of a gate: when to accept or reject a part. Uses no broker and no clock.

The gate acts once per job id. The patience with a part counts from the arrival of its announcement, on the monotonic
clock of the gate: other hosts' clocks have no effect on it. A part without a verdict in time is rejected: if in doubt,
the part must not leave the line. A standby keeps the same state, and forgets what the acts of the active gate report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from patchline import config
from patchline.gate.decided import Decided
from patchline.gate.images import Image, Images
from patchline.gate.in_hand import InHand
from patchline.gate.patience import Patience
from patchline.gate.tracker import MISSED, OTHER_IMAGE, UNANNOUNCED, NoBelt, Part, Place, Tracker
from patchline.protocol.gate_messages import Act, Action, ActionRecord, ActState, OpenPart
from patchline.protocol.messages import Announcement, Decision, Verdict

NO_VERDICT = "no verdict in time"
_BEHIND = (Place.PAST, Place.GONE)


class Heard(Enum):
    """What a verdict means for the gate."""

    DECIDED = "decided"
    KNOWN = "known"
    LATE = "late"


@dataclass(frozen=True)
class Permit:
    """What the lease allows now (see `lease.py`)."""

    accept: bool
    reject: bool


class Gate:
    """The rules of one line's gate, and the parts that it has in hand.

    All times named `now` are seconds on the monotonic clock.

    Args:
        rules: returns the rules of a category.
        stale_after_s: an action that comes this long after the end of the patience is marked as stale.
        remember: number of jobs to remember, so that the gate does not act on them again.
        belt: where the parts are. None: nobody knows.
    """

    def __init__(
        self,
        rules: Callable[[str], config.GateRules],
        stale_after_s: float,
        remember: int,
        belt: Tracker | None = None,
    ) -> None:
        self._rules = rules
        self.patience = Patience(rules)
        self._belt = belt or NoBelt()
        self._stale_after_s = stale_after_s
        self.parts = InHand(remember)
        self._images = Images(self._belt.remembers, self._is_over)  # only a PLC has one result for a part
        self._unannounced: dict[int, str] = {}  # job ids of rejections that may be superseded, by part number
        self.late_verdicts = 0  # counted while the gate hears its line, not while it reads what it has missed

    def restore(self, acted: Iterable[tuple[str, str]], intended: Iterable[ActionRecord], now: float) -> None:
        """Restore what an earlier process has done (job id and reason, oldest first) and what it was about to do."""
        self.parts.restore(acted)
        for record in intended:
            if record.because != UNANNOUNCED:
                self._belt.on_part(record, now)
            self._pin(record, now)

    def restore_image(self, record: ActionRecord, acted_at: float) -> None:
        """Restore what an earlier process has done to a part: it may have other images."""
        if record.because != UNANNOUNCED:
            self._belt.on_part(record, acted_at)
        self._images.add(record, acted_at, record.action is Action.REJECT)

    def may_act(self, now: float) -> bool:
        """Return True if a decided action is not postponed."""
        return any(not self._waits(decided, now) for decided in self.parts.decided.values())

    def on_part(self, part: Announcement, now: float, age_s: float = 0.0) -> bool:
        """Expect a part; return False if its job is already known.

        Args:
            part: the announcement.
            now: the time.
            age_s: how long ago the announcement arrived, if it was not received just now.
        """
        if self.parts.is_known(part.job_id):
            return False
        due_at = now - age_s + self.patience.seconds(part)
        self._hear_of(part, now - age_s)
        self._expect(part, due_at)
        return True

    def on_verdict(self, verdict: Verdict, now: float, age_s: float = 0.0, waited_s: float = 0.0) -> Heard:
        """Decide on a part. A `pass` after the end of the patience is no pass.

        Args:
            verdict: the verdict.
            now: the time.
            age_s: how long ago the verdict arrived, if it was not received just now.
            waited_s: see `Patience`. It only marks an unannounced part as stale.
        """
        if verdict.job_id in self.parts.acted:
            return Heard.LATE if self.parts.acted[verdict.job_id] == NO_VERDICT else Heard.KNOWN
        if self.parts.is_undone(verdict.job_id):
            return Heard.KNOWN
        self._hear_of(verdict, now - age_s)
        patience_s = self.patience.seconds(verdict)
        announced, due_at = self.parts.take_expected(verdict.job_id) or (None, now - age_s + patience_s)
        stale = announced is None and waited_s > patience_s + self._stale_after_s
        action, because, score = self._action_for(verdict), str(verdict.decision), verdict.score
        self._images.add(announced or verdict, due_at)
        late = action is Action.ACCEPT and now >= due_at
        if late:
            action, because, score = Action.REJECT, NO_VERDICT, None
        self.parts.decided[verdict.job_id] = Decided(announced or verdict, action, because, score, due_at, stale=stale)
        return Heard.LATE if late else Heard.DECIDED

    def on_act(self, act: Act, now: float) -> None:
        """Take note of what another gate of the line does."""
        self._belt.on_act_of_other(act, now)
        if act.number is not None and act.because != UNANNOUNCED:
            self.drop_unannounced(act.number)
        if act.state is ActState.DONE:
            self.acted(act, now)
        elif act.job_id not in self.parts.acted:
            self._pin(act, now)

    def next_action(self, now: float, now_ms: int, permit: Permit) -> ActionRecord | None:
        """Return the next action that is due and permitted. It stays due until `done` is called.

        Args:
            now: the time.
            now_ms: the wall clock, for the record.
            permit: what the lease allows.
        """
        if not permit.reject:
            return None
        self._decide_overdue(now)
        self.parts.decided.set_stale(now - self._stale_after_s)
        for job_id, decided in self.parts.decided.items():
            if self._waits(decided, now):
                continue
            if decided.action is Action.ACCEPT and (reason := self._objection(decided, now)):
                decided = replace(decided, action=Action.REJECT, because=reason, score=None)
            if permit.accept or decided.action is Action.REJECT:
                return self._record(job_id, decided, now, now_ms)
        return None

    def stands(self, record: ActionRecord, now: float, permit: Permit) -> bool:
        """Return True if an action of `next_action` is still the right one: time has passed since."""
        decided = self.parts.decided.get(record.job_id)
        if decided is None or not permit.reject:
            return False
        return record.action is Action.REJECT or (permit.accept and self._objection(decided, now) is None)

    def reject_unannounced(self, record: ActionRecord, now: float, final: bool) -> None:
        """Reject a part that nobody announced. Unless it is final, a late announcement or another gate prevails."""
        if self.parts.is_known(record.job_id):
            return
        self.parts.decided[record.job_id] = Decided(record, record.action, record.because, None, now)
        if record.number is not None and not final:
            self._unannounced[record.number] = record.job_id

    def drop_unannounced(self, number: int) -> bool:
        """Forget the rejection of an unannounced part, unless it may be done. Return True if there was one."""
        job_id = self._unannounced.pop(number, None)
        if job_id is None or job_id not in self.parts.decided or self.parts.decided[job_id].pinned:
            return False
        del self.parts.decided[job_id]
        return True

    def stands_by_accept(self, part: Part, now: float) -> bool:
        """Return True if nothing speaks against an accept that another gate has told the arm."""
        if any(self._images.others(part, now)):
            return False
        decided = self.parts.decided.get(part.job_id)
        rejects = decided is not None and decided.action is Action.REJECT
        return not rejects or self._belt.place(part, now) in _BEHIND

    def acted(self, record: ActionRecord, now: float) -> None:
        """Remember an action that the arm of this gate or of another one has acknowledged."""
        if record.job_id not in self.parts.acted:
            self._belt.on_done(record, now)
            self._images.add(record, now, record.action is Action.REJECT)
        self.done(record.job_id, record.because)

    def done(self, job_id: str, because: str) -> bool:
        """Remember an action that the arm has acknowledged. Return False if it is known."""
        decided = self.parts.decided.get(job_id)
        if decided is not None and decided.because == UNANNOUNCED:
            self._unannounced.pop(decided.part.number or 0, None)
        return self.parts.done(job_id, because)

    def on_open_part(self, open_part: OpenPart, now: float) -> float | None:
        """Learn from another gate what this one has missed of a part.

        Returns:
            For a part that was not known: how long ago its announcement arrived, in seconds. Otherwise None.
        """
        part = open_part.part
        known = self.parts.decided.get(part.job_id)
        if part.job_id in self.parts.acted or (known is not None and (known.pinned or not open_part.intended)):
            return None
        self._hear_of(part, now)
        due_at = now + open_part.due_in_s
        if open_part.action is None:
            if self.parts.is_expected(part.job_id):
                return None
            self._expect(part, due_at)
            return self.patience.seconds(part) - open_part.due_in_s
        is_new = not self.parts.is_open(part.job_id)
        _, due_at = self.parts.take_expected(part.job_id) or (None, due_at)
        self._images.add(part, due_at)
        self.parts.decided[part.job_id] = Decided(
            part, open_part.action, open_part.because, open_part.score, due_at, pinned=open_part.intended
        )
        return self.patience.seconds(part) - open_part.due_in_s if is_new else None

    def _expect(self, part: Announcement, due_at: float) -> None:
        self._images.add(part, due_at)
        self.parts.expect(part, due_at)

    def _action_for(self, verdict: Verdict) -> Action:
        if verdict.decision is Decision.REVIEW:
            return Action(self._rules(verdict.category).review_action)
        return Action.ACCEPT if verdict.decision is Decision.PASS else Action.REJECT

    def _pin(self, record: ActionRecord, now: float) -> None:
        _, due_at = self.parts.take_expected(record.job_id) or (None, now)
        if record.job_id in self.parts.decided:
            due_at = self.parts.decided[record.job_id].due_at
        self._images.add(record, due_at)
        self.parts.decided[record.job_id] = Decided(record, record.action, record.because, record.score, due_at, True)

    def _hear_of(self, part: Announcement | Verdict, now: float) -> None:
        """Take note that a part was announced. An announcement that comes before the rejection is in time."""
        self._belt.on_part(part, now)
        if part.number is not None and self.drop_unannounced(part.number):
            self._belt.pardon(part.number)

    def _is_stale(self, decided: Decided, now: float) -> bool:
        """Return True if a part has probably left the line."""
        place = self._belt.place(decided.part, now)
        if place is Place.UNKNOWN:
            return decided.stale or now - decided.due_at > self._stale_after_s
        return place is Place.GONE

    def _waits(self, decided: Decided, now: float) -> bool:
        """Return True if an action is postponed, its part is not there yet, or another image of it has no verdict."""
        if decided.retry_at > now or self._belt.holds(decided.part, now):
            return True
        waits = decided.action is Action.ACCEPT and not decided.pinned
        return waits and any(self.parts.is_expected(job_id) for job_id, _ in self._images.others(decided.part, now))

    def _objection(self, decided: Decided, now: float) -> str | None:
        """Return why a part must not be accepted now. An accept that may be done is repeated, or becomes a reject."""
        if any(self._rejects(job_id, image) for job_id, image in self._images.others(decided.part, now)):
            return OTHER_IMAGE
        if decided.pinned:
            return None
        place = self._belt.place(decided.part, now)
        if place in _BEHIND:
            return MISSED
        # A part whose verdict came in time may stand on a belt that has stopped.
        late = place is Place.UNKNOWN and now >= decided.due_at
        return NO_VERDICT if late else self._belt.objection(decided.part)

    def _rejects(self, job_id: str, image: Image) -> bool:
        """Return True if the part of an image is, or will be, rejected because of it."""
        decided = self.parts.decided.get(job_id)
        return image.rejected or (decided is not None and decided.action is Action.REJECT)

    def _is_over(self, image: Image, now: float) -> bool:
        """Return True if the part of an image has left the line, so that its number may belong to another part."""
        place = self._belt.place(image.part, now)
        return place is Place.GONE or (place is Place.UNKNOWN and now - image.due_at > self._stale_after_s)

    def _decide_in_window(self, now: float) -> None:
        """Reject the parts that have reached the window of the arm without a verdict."""
        for part, due_at in self.parts.expected_parts():
            if self._belt.place(part, now) in (Place.WINDOW, *_BEHIND):
                self.parts.take_expected(part.job_id)
                self._give_up(part, due_at)

    def _decide_overdue(self, now: float) -> None:
        if self._belt.knows_places:
            self._decide_in_window(now)
        for part, due_at in self.parts.take_overdue(now):
            self._give_up(part, due_at)

    def _give_up(self, part: Announcement, due_at: float) -> None:
        self.parts.decided[part.job_id] = Decided(part, Action.REJECT, NO_VERDICT, None, due_at)

    def _record(self, job_id: str, decided: Decided, now: float, now_ms: int) -> ActionRecord:
        return ActionRecord(
            job_id=job_id,
            line=decided.part.line,
            category=decided.part.category,
            part_id=decided.part.part_id,
            action=decided.action,
            because=decided.because,
            score=decided.score,
            stale=self._is_stale(decided, now) or None,
            acted_at=now_ms,
            number=decided.part.number,
            encoder_count=decided.part.encoder_count,
        )
