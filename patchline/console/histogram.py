"""The histogram of scores as shapes: a row for each label, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from patchline.operations.what_if import LABELS, Parts

WIDTH, ROW_HEIGHT, GAP = 1000, 64, 26
_TICKS = 8


@dataclass(frozen=True)
class Row:
    """The parts of one label.

    Attributes:
        label: as in `what_if.LABELS`.
        path: the bars, in the syntax of SVG (SVG 2, section 9.3).
        bottom: the y of their foot.
        parts: all of them.
        most: in the highest bar.
    """

    label: str | None
    path: str
    bottom: int
    parts: int
    most: int


@dataclass(frozen=True)
class Histogram:
    """Shapes in a field of `WIDTH` times `height`.

    Attributes:
        end: the score at the right end; what is above is in the last bar.
        ticks: x and score of the marks of the axis.
    """

    rows: tuple[Row, ...]
    height: int
    end: float
    ticks: tuple[tuple[float, str], ...]

    def x(self, score: float) -> float:
        """Return where a score is."""
        return round(WIDTH * min(score, self.end) / self.end, 1)


def draw(edges: Sequence[float], parts: Parts, end: float) -> Histogram:
    """Return the histogram of parts, int64 [edges, labels], between edges."""
    rows = []
    for number, label in enumerate(LABELS):
        bottom = (number + 1) * (ROW_HEIGHT + GAP)
        counted = [int(one) for one in parts[:, number]]
        rows.append(Row(label, _path(edges, counted, end, bottom), bottom, sum(counted), max(counted)))
    height = len(LABELS) * (ROW_HEIGHT + GAP)
    return Histogram(tuple(rows), height, end, _ticks(end))


def _path(edges: Sequence[float], parts: Sequence[int], end: float, bottom: int) -> str:
    """Each bar has the width of its step, and an area as its parts: steps that thresholds cut are narrower."""
    widths = [after - before for before, after in zip(edges, (*edges[1:], end), strict=True)]
    density = [count / width if width > 0 else 0.0 for count, width in zip(parts, widths, strict=True)]
    highest = max(density)
    bars = []
    for edge, width, dense in zip(edges, widths, density, strict=True):
        if dense > 0:
            height = max(1.0, ROW_HEIGHT * dense / highest)
            bars.append(f"M{WIDTH * edge / end:.1f} {bottom}v{-height:.1f}h{WIDTH * width / end:.1f}v{height:.1f}z")
    return "".join(bars)


def _ticks(end: float) -> tuple[tuple[float, str], ...]:
    """Return marks at round numbers: 1, 2 or 5 times a power of ten apart."""
    rough = end / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return tuple((round(WIDTH * number * step / end, 1), f"{number * step:g}") for number in range(int(end / step) + 1))
