"""Progress bars and tables in a terminal. The only rich user.

Each function imports what it needs of rich: all commands import this module, and most of them draw nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Progress

_newest: deque[Progress] = deque(maxlen=1)


def progress() -> Progress:
    """Return progress bars on standard error. If it is not a terminal, they only show their final state."""
    import rich.console
    import rich.progress

    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<28}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    )
    _newest.append(bars)
    return bars


@contextmanager
def followed(tell: Callable[[str, int, int], None], every_s: float = 0.5) -> Iterator[None]:
    """Within the block, tell how far the newest progress bar of this process is.

    Args:
        tell: called on a thread of its own, with the title of the bar, the steps that are done, and all steps.
        every_s: seconds between two calls.
    """
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(every_s):
            for task in [task for bars in tuple(_newest) for task in bars.tasks][-1:]:
                tell(task.description, int(task.completed), int(task.total or 0))

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def note(text: str) -> None:
    """Print a line on standard error."""
    import rich.console

    rich.console.Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], text: bool = False) -> None:
    """Print a table. The first column is left-aligned, the others right-aligned; if `text`, all are left-aligned."""
    import rich.console
    import rich.table

    output = rich.table.Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        output.add_column(column, justify="left" if text or not number else "right")
    for row in rows:
        output.add_row(*(format(cell, ".4g") if isinstance(cell, float) else str(cell) for cell in row))
    rich.console.Console(width=120).print(output)


class Screen:
    """Lines at the end of a terminal that are drawn again and again. A context manager.

    A line is pieces of text, each with the name of a style of rich, such as `bold red`, or an empty one.
    """

    def __init__(self) -> None:
        import rich.console
        import rich.live

        self._live = rich.live.Live(console=rich.console.Console(highlight=False), auto_refresh=False)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._live.console.width

    def draw(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Replace all lines."""
        import rich.console
        import rich.text

        texts = [rich.text.Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines]
        self._live.update(rich.console.Group(*texts), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def is_terminal() -> bool:
    """Return True if standard output is a terminal that can draw lines again."""
    import rich.console

    return rich.console.Console().is_terminal


def printable(text: str) -> str:
    """Return a text of other processes without what controls a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
