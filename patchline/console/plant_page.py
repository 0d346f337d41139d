"""All lines of the plant at a glance. The page renews itself every two seconds."""

from __future__ import annotations

from patchline.console.context import Console
from patchline.console.visit import Reply, Visit


def show(console: Console, visit: Visit) -> Reply:
    """Show the lines and the processes that all of them share; for htmx without the frame of the page."""
    console.live.watch()
    rates = {} if console.live.failure else console.live.rates()
    lines = console.plant.lines(rates)
    return console.templates.render(
        "plant_now.html" if visit.partial else "plant.html",
        visit,
        lines=lines,
        shared=console.plant.shared(),
        rates=rates,
        failure=console.plant.failure,
        now=console.now_ms(),
    )
