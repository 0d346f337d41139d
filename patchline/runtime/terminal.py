"""What people see in a terminal: progress and tables. The only rich user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import rich.console
import rich.progress
import rich.table

Progress = rich.progress.Progress


def progress() -> Progress:
    """Progress bars on standard error; where that is no terminal, only their last state."""
    return Progress(
        rich.progress.TextColumn("{task.description:<28}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], wide: bool = False) -> None:
    """Print a table; the first column is text, the others are figures, or text too where it is `wide`."""
    shown = rich.table.Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if wide or not number else "right")
    for row in rows:
        shown.add_row(*(format(cell, ".4g") if isinstance(cell, float) else str(cell) for cell in row))
    rich.console.Console(width=120).print(shown)
