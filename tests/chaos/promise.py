"""Compares what the arms did with what the gates heard and with the decision that each image must get."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from patchline.protocol.messages import Decision

ALLOWED_S = 1.0  # after the patience and the grace
_MAX_STEP_S = 0.5  # a gate that makes no step for longer is dead, frozen, waits for its arm, or the machine is busy


@dataclass
class Promise:
    """Numbers of parts. `holds` is the promise at the ends of a line.

    `unnoticed`: a gate heard of it, and no arm acted within a second after its patience. Only time counts in which a
    gate was able to act and had nothing else to do. So neither the time of a takeover, nor a machine that is too slow,
    nor the acts on what waited during a freeze are faults of the gates: stale parts come last (see `gate/decided.py`).
    `late` is the same with all time counted. `unannounced`: no gate heard of it, and no arm was told to accept it.
    """

    written: int
    oversized: int
    heard: int
    arm_accepts: int
    arm_rejects: int
    unannounced: int
    unnoticed: int
    opposite_acts: int
    accepts_without_pass: int
    repeated_acts: int
    late: int
    seconds: float
    faults: dict
    recovery_s: dict = field(default_factory=dict)
    examples: dict = field(default_factory=dict)

    @property
    def holds(self):
        return not (self.unnoticed or self.opposite_acts or self.accepts_without_pass)


def check(ends, storm, decide, seconds):
    """Return the promise of a storm that is over.

    Args:
        ends: the line.
        storm: what disturbed it.
        decide: returns the decision that an image must get.
        seconds: the duration.
    """
    acts, heard, sources = ends.acts(), ends.heard(), ends.sources
    actions = {part: {act["action"] for act in repeated} for part, repeated in acts.items()}
    accepted = {part for part, kinds in actions.items() if "accept" in kinds}
    decisions = {path: decide(path.read_bytes()) for path in set(sources.values()) if path is not None}
    passed = {part for part, path in sources.items() if path is not None and decisions[path] is Decision.PASS}
    late, unnoticed = _overdue(heard, acts, _able_intervals(ends.beats()))
    opposite = {part for part, kinds in actions.items() if len(kinds) > 1}
    wrong = accepted - passed
    return Promise(
        written=len(sources),
        oversized=sum(path is None for path in sources.values()),
        heard=len(heard),
        arm_accepts=len(accepted),
        arm_rejects=len(actions.keys() - accepted),
        unannounced=len(sources.keys() - heard.keys() - actions.keys()),
        unnoticed=len(unnoticed),
        opposite_acts=len(opposite),
        accepts_without_pass=len(wrong),
        repeated_acts=sum(len(repeated) - 1 for repeated in acts.values()),
        late=len(late),
        seconds=round(seconds, 1),
        faults=dict(storm.done),
        recovery_s=storm.recovery_s,
        examples={"unnoticed": sorted(unnoticed)[:5], "opposite": sorted(opposite)[:5], "wrong": sorted(wrong)[:5]},
    )


def _overdue(heard, acts, able):
    """Return the parts that were acted on too late or never, and those of them that the gates could have acted on."""
    late, unnoticed = set(), set()
    for part, (heard_at, patience_s) in heard.items():
        due_at = heard_at + patience_s
        acted_at = min((act["at"] for act in acts.get(part, ())), default=None)
        if acted_at is None:
            unnoticed.add(part)
        elif acted_at > due_at + ALLOWED_S:
            late.add(part)
            if _overlap_s(able, due_at, acted_at) > ALLOWED_S:
                unnoticed.add(part)
    return late, unnoticed


def _able_intervals(beats):
    """Return the intervals, as start and end, in which a gate made steps, was allowed to act and had nothing to do."""
    intervals = []
    by_process = Counter(beat["pid"] for beat in beats)
    for pid in by_process:
        for before, after in pairwise(beat for beat in beats if beat["pid"] == pid):
            if before["able"] and after["able"] and after["at"] - before["at"] <= _MAX_STEP_S:
                intervals.append((before["at"], after["at"]))
    return _merged(intervals)


def _merged(intervals):
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _overlap_s(intervals, start, end):
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in intervals)
