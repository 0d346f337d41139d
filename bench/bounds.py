"""What a benchmark has to show: bounds of its ratios, by the names of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.table import Row


@dataclass(frozen=True)
class Bound:
    """The bounds of a ratio.

    Attributes:
        row: how the name of the row begins.
        least: None if there is no such bound.
        most: likewise.
        only_if: how the name of another row begins, whose bound must hold, or this one does not count.
    """

    row: str
    least: float | None = None
    most: float | None = None
    only_if: str | None = None

    @property
    def text(self) -> str:
        """Such as "at least 2"."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    def holds(self, ratio: float) -> bool:
        """Return True if a ratio is within the bounds."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)


def judged(rows: Sequence[Row], bounds: Iterable[Bound]) -> Iterator[Row]:
    """Return the rows again, each with what its bound says: `at least 2: held`. Other rows have no bound."""
    ratios = {row.name: row.ratio for row in rows}
    known = list(bounds)
    for row in rows:
        for bound in known:
            if row.name.startswith(bound.row):
                row = row.model_copy(update={"bound": f"{bound.text}: {_verdict(bound, row.ratio, ratios, known)}"})
        yield row


def _verdict(bound: Bound, ratio: float, ratios: dict[str, float], bounds: list[Bound]) -> str:
    if bound.holds(ratio):
        return "held"
    for other in bounds:
        if bound.only_if == other.row and not all(other.holds(ratios[name]) for name in _named(ratios, other.row)):
            return "not asked"
    return "missed"


def _named(ratios: dict[str, float], beginning: str) -> Iterator[str]:
    return (name for name in ratios if name.startswith(beginning))
