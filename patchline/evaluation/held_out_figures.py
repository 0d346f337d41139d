"""How well a new memory bank tells defects from its own good images, each of which was held out in turn."""

from __future__ import annotations

from patchline.evaluation import intervals, metrics
from patchline.evaluation.intervals import Figure, Values
from patchline.protocol.messages import Frozen


class DefectFigures(Frozen):
    """Shares of defects, with their intervals.

    Attributes:
        auroc: of held-out good images and defects.
        missed: defects that pass at the thresholds of the bank.
        missed_at_asked_rate: defects that would pass at the threshold that rejects `asked_rate` of these good images.
        asked_rate: the share of good parts that may fail, of the category.
    """

    auroc: Figure
    missed: Figure
    missed_at_asked_rate: Figure
    asked_rate: float


def of_defects(good: Values, defects: Values, passed: int, asked_rate: float) -> DefectFigures:
    """Return the figures.

    Args:
        good: float64 [n], the held-out scores of good images, at least one.
        defects: float64 [m], the scores of defects, at least one.
        passed: the number of defects whose verdict is `pass`.
        asked_rate: see `DefectFigures`.
    """
    return DefectFigures(
        auroc=intervals.auroc(good, defects),
        missed=intervals.share(passed, defects.size),
        missed_at_asked_rate=intervals.bootstrap_share(
            good, defects, lambda points: metrics.missed_at_rate(points, asked_rate), defects.size
        ),
        asked_rate=asked_rate,
    )
