"""A threshold for a target, from the scores of parts that people have labelled. Only a proposal: nothing is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from patchline.archive.ledger import Count, LabelledScore, shown_bank
from patchline.banks import calibration
from patchline.banks.shares import share_beyond, share_from_count
from patchline.inspection.memory_bank import FlaggedShare
from patchline.operations import label_rates
from patchline.protocol.errors import SetupError
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Frozen

_ROUNDING = 1e-9
_Scores = NDArray[np.float64]  # [parts], ascending
_Choice = tuple[float, FlaggedShare | None, FlaggedShare | None]  # the threshold, over-kill, misses


class Proposal(Frozen):
    """A threshold: parts whose score reaches it are not passed.

    Attributes:
        good: number of labelled good parts.
        defects: number of labelled defects.
        over_kill: the share of the next 1,000 good parts that will reach it; None without labelled good parts.
        miss: the share of the next 1,000 defects that will not; None without labelled defects.
        meaning: what these shares rest on, in sentences.
    """

    category: str
    bank: str
    threshold: float
    good: int
    defects: int
    over_kill: FlaggedShare | None
    miss: FlaggedShare | None
    meaning: tuple[str, ...]


def propose(
    category: str,
    scores: list[LabelledScore],
    counts: list[Count],
    over_kill: float | None = None,
    miss: float | None = None,
) -> Proposal:
    """Return the threshold for one of two targets.

    For over-kill it is the split-conformal quantile of the labelled good parts (see `calibration.threshold`), for
    misses the same of the labelled defects from below: the k-th smallest of m scores, of which a new defect is below
    with the probability k / (m + 1), whatever the distribution.

    Args:
        category: the category of all parts.
        scores: of the labelled parts.
        counts: all parts that the labelled ones are of.
        over_kill: the share of good parts that may be rejected, on average.
        miss: the share of defects that may pass, on average.

    Raises:
        SetupError: there are too few labels, of several banks, or none of parts that passed; or not exactly one target.
    """
    target = _target(over_kill, miss)
    bank = _one_bank(category, scores)
    passed, rejected = label_rates.looked(counts, True), label_rates.looked(counts, False)
    if passed.parts and not passed.labelled:
        raise SetupError(
            f"{label_rates.coverage(passed, rejected)} A threshold from rejects alone would say nothing of the parts "
            "that pass; label some of these, picked blindly"
        )
    good, defects = (_of(scores, label) for label in (Label.GOOD, Label.DEFECT))
    if miss is None:
        limit, rejects, passes = _for_over_kill(good, defects, target)
    else:
        limit, rejects, passes = _for_misses(good, defects, target)
    return Proposal(
        category=category,
        bank=bank,
        threshold=limit,
        good=good.size,
        defects=defects.size,
        over_kill=rejects,
        miss=passes,
        meaning=tuple(_meaning(passed, rejected)),
    )


def _for_over_kill(good: _Scores, defects: _Scores, target: float) -> _Choice:
    _require("good parts", good.size, "an over-kill", target)
    limit = calibration.threshold(good.astype(np.float32), target)
    return limit, calibration.flagged_share(good.size, target), _counted(defects.size, int((defects < limit).sum()))


def _for_misses(good: _Scores, defects: _Scores, target: float) -> _Choice:
    _require("defects", defects.size, "a miss rate", target)
    rank = math.floor(target * (defects.size + 1) + _ROUNDING)
    limit = float(defects[rank - 1])
    return limit, _counted(good.size, int((good >= limit).sum())), share_beyond(defects.size, rank)


def _target(over_kill: float | None, miss: float | None) -> float:
    target = over_kill if miss is None else miss
    if target is None or (over_kill is not None and miss is not None):
        raise SetupError("name one target: --target-over-kill or --target-miss")
    if not 0 < target < 1:
        raise SetupError(f"a target of {target:g} is no share; write one between 0 and 1, such as 0.01")
    return target


def _one_bank(category: str, scores: list[LabelledScore]) -> str:
    banks = sorted({score.memory_bank for score in scores})
    if not banks:
        raise SetupError(f"nobody has labelled a part of category {category}; see `patchline archive judge`")
    if len(banks) > 1:
        names = ", ".join(map(shown_bank, banks))
        raise SetupError(f"the labelled parts have scores of {len(banks)} banks ({names}); name one with --bank")
    return banks[0]


def _require(what: str, labelled: int, rate: str, target: float) -> None:
    needed = math.ceil(1 / target - 1 - _ROUNDING)
    if labelled < needed:
        raise SetupError(
            f"{labelled} labelled {what} are too few for {rate} of {target:.2%}: it takes {needed}; label more parts, "
            f"or ask for {math.ceil(1000 / (labelled + 1)) / 1000:g} or more"
        )


def _of(scores: list[LabelledScore], label: Label) -> _Scores:
    return np.sort(np.array([score.score for score in scores if score.judgement == label], np.float64))


def _counted(parts: int, number: int) -> FlaggedShare | None:
    return share_from_count(parts, number) if parts else None


def _meaning(passed: label_rates.Looked, rejected: label_rates.Looked) -> Iterator[str]:
    yield label_rates.coverage(passed, rejected)
    yield (
        "The shares are averages over such samples, with 95 % bounds for the next 1,000 parts. They hold if the "
        "labelled parts were picked blindly, and parts stay as they are."
    )
    if label_rates.leaning(passed, rejected) > 1:
        yield (
            "Rejected parts were looked at more often than parts that passed. So the threshold is too high: more "
            "defects will pass than it says, and fewer good parts be rejected."
        )
    elif label_rates.leaning(passed, rejected) < 1:
        yield (
            "Parts that passed were looked at more often than rejected ones. So the threshold is too low: more good "
            "parts will be rejected than it says, and fewer defects pass."
        )
    yield "It is about the score alone: a rule for the hottest patch flags further parts."
    yield "Nothing was changed. `patchline calibrate` sets thresholds."
