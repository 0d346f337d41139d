"""The scores of a new version as points on a line."""

from __future__ import annotations

from dataclasses import dataclass

from patchline.console.lesson_files import Result

_LEFT, _WIDTH = 2.0, 96.0  # per cent of the picture
_MOST = 400  # points of a kind


@dataclass(frozen=True)
class Plot:
    """Places from 0 to 100: good pictures, defects, and the two thresholds. `fail`: None in a trial, which has none."""

    good: list[float]
    defects: list[float]
    review: float
    fail: float | None = None


def plot(result: Result) -> Plot:
    """Return where the points are. Of many, the highest of the good ones and the lowest of the defects are kept."""
    good = sorted(result.good_scores, reverse=True)[:_MOST]
    defects = sorted(one.score for one in result.defects)[:_MOST]
    limits = result.thresholds
    ends = (limits.review,) if limits.trial else (limits.review, limits.fail)
    largest = max([*good, *defects, *ends]) or 1.0

    def place(score: float) -> float:
        return round(_LEFT + _WIDTH * max(0.0, score) / largest, 2)

    return Plot(list(map(place, good)), list(map(place, defects)), *map(place, ends))
