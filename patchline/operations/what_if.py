"""What other thresholds would have done to the parts of a span: counts, over-kill and miss rate, with exact bounds.

The scores are those of the archive, so nothing is judged again. A part that was rejected for its hottest patch stays
rejected: that rule has a threshold of its own. Of a part whose score was above the threshold, nobody knows here whether
its hottest patch would have been enough.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from patchline.archive.ledger import Count
from patchline.archive.scores import ScoreCount, ScoreSearch
from patchline.evaluation import intervals
from patchline.evaluation.intervals import Figure
from patchline.operations import label_rates
from patchline.operations.label_rates import Looked, Sample
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision

LABELS = (Label.GOOD, Label.DEFECT, Label.UNSURE, None)  # the last: nobody has judged it, or has taken that back
_GOOD, _DEFECT = 0, 1
_STEPS = 256  # at most; at least half of it
_RANGE = 2.5  # fail thresholds that the steps reach
_KINDS = _PASSED, _REJECTED, _HOT_REVIEW, _HOT_FAIL = range(4)  # what parts were; the last two for their hottest patch

Parts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What two thresholds would have done. Counts are by label: see `LABELS`.

    Attributes:
        passed: parts that would have passed.
        rejected: the others, reviewed or failed.
        failed: those of the rejected that would have failed.
        released: parts that were rejected and would have passed.
        caught: parts that passed and would have been rejected.
        over_kill: the share of the labelled good parts that would have been rejected; None if it has no meaning.
        miss: the share of the labelled defects that would have passed; likewise.
    """

    passed: tuple[int, ...]
    rejected: tuple[int, ...]
    failed: tuple[int, ...]
    released: tuple[int, ...]
    caught: tuple[int, ...]
    over_kill: Figure | None
    miss: Figure | None


@dataclass(frozen=True)
class Spread:
    """Parts between edges of the score.

    Attributes:
        edges: ascending from 0. Parts are counted from an edge to the next one, and from the last one on.
        parts: int64 [kinds, edges, labels].
    """

    edges: list[float]
    parts: Parts

    @classmethod
    def of(cls, search: ScoreSearch, counts: Iterable[ScoreCount]) -> Spread:
        """Return the counts of a search."""
        steps = (number * search.step for number in range(search.steps))
        edges = sorted({*steps, *search.cuts})
        parts = np.zeros((len(_KINDS), len(edges), len(LABELS)), np.int64)
        for one in counts:
            lower = max(one.step * search.step, search.cuts[one.cut - 1] if one.cut else 0.0)
            label = LABELS.index(one.judgement) if one.judgement in LABELS else LABELS.index(None)
            parts[_kind(one), edges.index(lower), label] += one.parts
        return cls(edges, parts)

    def histogram(self) -> Parts:
        """Return the parts by edge and label, int64 [edges, labels]."""
        summed: Parts = self.parts.sum(axis=0)
        return summed

    def looked(self) -> tuple[Looked, Looked]:
        """Return the parts that passed and those that did not, as they were judged then, and how many are labelled."""
        totals = self.parts.sum(axis=1)
        counts = [
            Count("", "", "", Decision.PASS if kind == _PASSED else Decision.FAIL, label, int(totals[kind, number]))
            for kind in _KINDS
            for number, label in enumerate(LABELS)
        ]
        return label_rates.looked(counts, True), label_rates.looked(counts, False)

    def judge(self, review: float, fail: float, trial: bool = False) -> WhatIf:
        """Return what two thresholds would have done.

        Over-kill and miss rate are those of the labelled parts. They have no meaning unless parts that passed and parts
        that were rejected then are labelled: see `label_rates.sample`.

        Args:
            review: the score from which a part is reviewed; must be an edge.
            fail: the score from which it fails; must be an edge.
            trial: thresholds of a trial fail no part.
        """
        from_review, from_fail = (bisect.bisect_left(self.edges, limit) for limit in (review, fail))
        below, beyond = self.parts[:, :from_review].sum(axis=1), self.parts[:, from_review:].sum(axis=1)
        rejected = beyond.sum(axis=0) + below[_HOT_REVIEW] + below[_HOT_FAIL]
        passed = below[_PASSED] + below[_REJECTED]
        failed = self.parts[:, from_fail:].sum(axis=(0, 1)) + self.parts[_HOT_FAIL, :from_fail].sum(axis=0)
        has_meaning = label_rates.sample(*self.looked()) in (Sample.ALL, Sample.SOME)
        return WhatIf(
            passed=_counts(passed),
            rejected=_counts(rejected),
            failed=_counts(failed * (not trial)),
            released=_counts(below[_REJECTED]),
            caught=_counts(beyond[_PASSED]),
            over_kill=_share(int(rejected[_GOOD]), int(passed[_GOOD])) if has_meaning else None,
            miss=_share(int(passed[_DEFECT]), int(rejected[_DEFECT])) if has_meaning else None,
        )


def search(category: str, memory_bank: str, since: int, until: int, fail: float, cuts: Iterable[float]) -> ScoreSearch:
    """Return the search whose steps are fine enough to choose thresholds.

    The width is a power of two, so that edges and scores are compared without rounding.

    Args:
        category: of the parts.
        memory_bank: by its name in verdicts.
        since: in epoch milliseconds.
        until: in epoch milliseconds.
        fail: the fail threshold of now, in the middle of the range.
        cuts: thresholds that the figures must be exact for.
    """
    step = 2.0 ** math.ceil(math.log2(_RANGE * fail / _STEPS))
    steps = math.ceil(_RANGE * fail / step)
    return ScoreSearch(category, memory_bank, since, until, step, steps, tuple(sorted(set(cuts))))


def _kind(count: ScoreCount) -> int:
    if count.decision == Decision.PASS:
        return _PASSED
    if not count.below:
        return _REJECTED
    return _HOT_FAIL if count.decision == Decision.FAIL else _HOT_REVIEW


def _counts(parts: Parts) -> tuple[int, ...]:
    return tuple(int(one) for one in parts)


def _share(number: int, others: int) -> Figure | None:
    return _cached(number, number + others) if number + others else None


@lru_cache(4096)
def _cached(number: int, total: int) -> Figure:
    return intervals.share(number, total)
