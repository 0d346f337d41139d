"""From what people call parts after their verdicts: how many good parts are rejected, and how many defects pass.

The shares are those of the parts that were labelled, with exact bounds. Nobody knows how people chose the parts that
they looked at, so nothing is weighted; words say what the shares mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum

from patchline.archive.ledger import Count
from patchline.evaluation import intervals
from patchline.evaluation.intervals import Figure
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision, Frozen

_ALIKE = 1.25  # shares of two kinds of parts that were looked at count as alike up to this ratio


class Looked(Frozen):
    """Parts with one kind of decision, and how many of them people have labelled.

    Attributes:
        parts: all of them.
        good: those that people call good.
        defects: those that people call a defect.
    """

    parts: int
    good: int
    defects: int

    @property
    def labelled(self) -> int:
        """Good parts and defects."""
        return self.good + self.defects

    @property
    def share(self) -> float:
        """The share of them that was labelled; 1 without any."""
        return self.labelled / self.parts if self.parts else 1.0


class Sample(StrEnum):
    """What the labelled parts are of all parts: no passes, no rejects, all of them, or a sample of unknown kind."""

    NO_PASSES = "no-passes"
    NO_REJECTS = "no-rejects"
    ALL = "all"
    SOME = "some"


class LabelRates(Frozen):
    """What the labels of one line, category and bank say.

    Attributes:
        passed: the parts that passed.
        rejected: the parts that failed or were reviewed. The gate rejects both, unless it was told to accept reviews.
        unsure: parts about which people are unsure. They count nowhere else.
        over_kill: the share of the labelled good parts that was rejected; None if it would have no meaning.
        miss: the share of the labelled defects that passed; None likewise.
        good_rejects: the share of the labelled rejects that is good; None without any.
        missed_passes: the share of the labelled passes that is a defect; None without any.
        meaning: what these shares mean, in sentences.
    """

    line: str
    category: str
    bank: str
    passed: Looked
    rejected: Looked
    unsure: int
    over_kill: Figure | None
    miss: Figure | None
    good_rejects: Figure | None
    missed_passes: Figure | None
    meaning: tuple[str, ...]


def rates(counts: list[Count]) -> list[LabelRates]:
    """Return the rates of each line, category and bank of which somebody has labelled a part."""
    groups: dict[tuple[str, str, str], list[Count]] = defaultdict(list)
    for count in counts:
        groups[count.line, count.category, count.bank].append(count)
    found = [_rates(*key, group) for key, group in sorted(groups.items())]
    return [one for one in found if one.passed.labelled + one.rejected.labelled + one.unsure]


def looked(counts: list[Count], passed: bool) -> Looked:
    """Return the parts that passed, or the others, and how many were labelled."""
    chosen = [count for count in counts if (count.decision == Decision.PASS) is passed]
    return Looked(
        parts=sum(count.parts for count in chosen),
        good=sum(count.parts for count in chosen if count.judgement == Label.GOOD),
        defects=sum(count.parts for count in chosen if count.judgement == Label.DEFECT),
    )


def coverage(passed: Looked, rejected: Looked) -> str:
    """Return how many parts were labelled, as a sentence."""
    return (
        f"{passed.labelled} of {passed.parts} parts that passed and {rejected.labelled} of {rejected.parts} parts that "
        "were rejected are labelled."
    )


def sample(passed: Looked, rejected: Looked) -> Sample:
    """Return what the labelled parts are. Only `ALL` and `SOME` allow an over-kill and a miss rate."""
    if passed.parts and not passed.labelled:
        return Sample.NO_PASSES
    if rejected.parts and not rejected.labelled:
        return Sample.NO_REJECTS
    return Sample.ALL if passed.share == rejected.share == 1.0 else Sample.SOME


def leaning(passed: Looked, rejected: Looked) -> float:
    """Return how many times as often rejects were looked at as passes; 1.0 if about as often."""
    if not passed.labelled:
        return 1.0 if not passed.parts else float("inf")
    ratio = rejected.share / passed.share
    return 1.0 if 1 / _ALIKE <= ratio <= _ALIKE else ratio


def _rates(line: str, category: str, bank: str, counts: list[Count]) -> LabelRates:
    passed, rejected = looked(counts, True), looked(counts, False)
    both = sample(passed, rejected) in (Sample.ALL, Sample.SOME)
    return LabelRates(
        line=line,
        category=category,
        bank=bank,
        passed=passed,
        rejected=rejected,
        unsure=sum(count.parts for count in counts if count.judgement == Label.UNSURE),
        over_kill=_share(rejected.good, passed.good + rejected.good) if both else None,
        miss=_share(passed.defects, passed.defects + rejected.defects) if both else None,
        good_rejects=_share(rejected.good, rejected.labelled),
        missed_passes=_share(passed.defects, passed.labelled),
        meaning=tuple(_meaning(passed, rejected)),
    )


def _share(count: int, total: int) -> Figure | None:
    return intervals.share(count, total) if total else None


def _meaning(passed: Looked, rejected: Looked) -> Iterator[str]:
    yield coverage(passed, rejected)
    known = sample(passed, rejected)
    if known is Sample.NO_PASSES:
        yield (
            "No part that passed is labelled, so nothing is known of misses, and how many good parts passed: there is "
            "no over-kill and no miss rate. Label some parts that passed, picked blindly."
        )
        return
    if known is Sample.NO_REJECTS:
        yield "No part that was rejected is labelled, so there is no over-kill and no miss rate."
        return
    if known is Sample.ALL:
        yield "All parts are labelled: the rates are theirs, and the bounds are for further parts like them."
        return
    yield (
        "The labelled parts are a sample, and the archive does not know how it was chosen. The rates are those of the "
        "labelled parts. They hold for all parts only if people picked them blindly, without their decision or score."
    )
    lean = leaning(passed, rejected)
    if lean > 1:
        yield (
            "Rejected parts were looked at more often than parts that passed. So over-kill is overstated, and the miss "
            "rate is understated: of all defects, more pass than it says."
        )
    elif lean < 1:
        yield (
            "Parts that passed were looked at more often than rejected ones. So over-kill is understated, and the miss "
            "rate is overstated."
        )
