"""How the scores of a category's parts are spread, and what people say of these parts, in steps of the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from patchline.archive.base import Record

ScoreKey = tuple[int, int, str, bool]  # step, cut, decision, below


@dataclass(frozen=True, slots=True)
class ScoreSearch:
    """Which scores to count, and in which steps. Times are epoch milliseconds.

    Attributes:
        memory_bank: the name of the bank in verdicts: the scores of one index can be compared, whatever its thresholds.
        since: the earliest time of the decision.
        until: the time before which it was made.
        step: the width of a step; the first one begins at 0.
        steps: their number; the last one has all scores above it, too.
        cuts: scores at which steps are cut in two, ascending.
        most: how many verdicts are read, the latest first.
    """

    category: str
    memory_bank: str
    since: int
    until: int
    step: float
    steps: int
    cuts: tuple[float, ...] = ()
    most: int = 200_000


@dataclass(frozen=True, slots=True)
class ScoreCount:
    """How many parts are in a step, had a decision, and are called something by people.

    Attributes:
        step: its number, from 0.
        cut: the number of cuts that the scores reach.
        below: the scores are below the review threshold that the verdict had. Such a part was rejected for its hottest
            patch.
        judgement: the newest one; None of the parts that nobody has judged.
    """

    step: int
    cut: int
    decision: str
    below: bool
    judgement: str | None
    parts: int


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """Counts, and since when: later than was asked for if there are more verdicts than were asked for."""

    since: int
    counts: list[ScoreCount]


@dataclass(frozen=True, slots=True)
class BankUse:
    """A memory bank that has judged parts of a category.

    Attributes:
        memory_bank: its name in verdicts.
        bank_version: of its latest verdict; None of earlier builds.
        review_threshold: of that verdict.
        fail_threshold: of that verdict.
        last_at: the time of that decision, in epoch milliseconds.
        trial: of that verdict: see `Record.is_trial`.
    """

    memory_bank: str
    bank_version: str | None
    review_threshold: float
    fail_threshold: float
    last_at: int
    trial: bool

    @classmethod
    def of(cls, record: Record) -> BankUse | None:
        """Return what a verdict says of its bank; None if no bank has judged it."""
        if record.memory_bank is None or record.score is None:
            return None
        if record.review_threshold is None or record.fail_threshold is None:
            return None
        limits = record.review_threshold, record.fail_threshold
        return cls(record.memory_bank, record.bank_version, *limits, record.decided_at, record.is_trial)


def key_of(search: ScoreSearch, score: float, decision: str, review_threshold: float | None) -> ScoreKey:
    """Return where a part is counted."""
    step = search.steps - 1 if score >= search.step * search.steps else max(0, int(score / search.step))
    below = review_threshold is not None and score < review_threshold
    return step, sum(score >= cut for cut in search.cuts), decision, below


def merged(totals: Iterable[tuple[ScoreKey, int]], labelled: Iterable[tuple[ScoreKey, str, int]]) -> list[ScoreCount]:
    """Return the counts of all parts, some of which people have judged. What is left has no judgement."""
    left = Counter(dict(totals))
    counts = []
    for key, judgement, parts in labelled:
        counts.append(ScoreCount(*key, judgement, parts))
        left[key] -= parts
    counts += [ScoreCount(*key, None, parts) for key, parts in left.items() if parts > 0]
    return sorted(counts, key=lambda one: (one.step, one.cut, one.decision, one.below, one.judgement or ""))
