"""A report as a document: titles, tables and pictures in the language of its reader, before it is a page or a PDF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GAP = 0.08  # at each side of a bar, of its step
_TICKS = 8


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: their titles.
        rows: the cells.
        numbers: the places of columns that are numbers, aligned to the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Rectangle:
    """A part of a bar. `kind` is its colour, and `text` what it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


@dataclass(frozen=True)
class Bars:
    """Stacked bars.

    Attributes:
        title: what they show.
        labels: one for each bar.
        series: the names of the parts of a bar, from below.
        kinds: the colour of each: a decision.
        values: for each bar, one for each series.
    """

    title: str
    labels: tuple[str, ...]
    series: tuple[str, ...]
    kinds: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]

    def rectangles(self, width: float, height: float) -> Iterator[Rectangle]:
        """Yield what to draw within a width and a height; y is counted from above."""
        highest = max((sum(bar) for bar in self.values), default=0) or 1
        step = width / max(1, len(self.values))
        for number, bar in enumerate(self.values):
            top = height
            for name, kind, value in zip(self.series, self.kinds, bar, strict=True):
                size = height * value / highest
                top -= size
                if value:
                    text = f"{self.labels[number]}: {name} {value}"
                    yield Rectangle(number * step + step * _GAP, top, step * (1 - 2 * _GAP), size, kind, text)

    def ticks(self, width: float) -> list[tuple[float, str]]:
        """Return where labels stand below the bars, and which: a few of them."""
        step, every = width / max(1, len(self.labels)), -(-len(self.labels) // _TICKS) or 1
        return [(number * step, label) for number, label in enumerate(self.labels) if number % every == 0]


@dataclass(frozen=True)
class Image:
    """A picture of the archive, and what it shows in words."""

    job_id: str
    kind: str
    text: str


@dataclass(frozen=True)
class Part:
    """A part with its pictures.

    Attributes:
        lines: what is known of it.
        decision: of its verdict.
    """

    part_id: str
    job_id: str
    decision: str
    lines: tuple[str, ...]
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Section:
    """A section. Notes stand before its tables, remarks after them."""

    title: str
    notes: tuple[str, ...] = ()
    bars: Bars | None = None
    tables: tuple[Table, ...] = ()
    parts: tuple[Part, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        facts: of the whole report: names and values.
        page: the word for it, for the foot of each page, with places for `number` and `all`.
    """

    language: str
    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    page: str
