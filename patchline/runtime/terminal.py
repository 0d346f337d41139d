"""Progress bars and tables in a terminal. The only rich user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import rich.console
import rich.progress
import rich.table

Progress = rich.progress.Progress


def progress() -> Progress:
    """Return progress bars on standard error. If it is not a terminal, they only show their final state."""
    return Progress(
        rich.progress.TextColumn("{task.description:<28}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    )


def note(text: str) -> None:
    """Print a line on standard error."""
    rich.console.Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], text: bool = False) -> None:
    """Print a table. The first column is left-aligned, the others right-aligned; if `text`, all are left-aligned."""
    output = rich.table.Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        output.add_column(column, justify="left" if text or not number else "right")
    for row in rows:
        output.add_row(*(format(cell, ".4g") if isinstance(cell, float) else str(cell) for cell in row))
    rich.console.Console(width=120).print(output)
