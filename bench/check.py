"""`make bench-check`: a few ratios, with room for noise, so that CI sees when the line becomes much slower.

Ratios only: a second on a shared machine means nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench import line as lines
from bench import plant, rows, searches
from bench.plant import WIDE
from bench.rows import JPEG
from bench.searches import LARGE, SMALL
from bench.table import Row
from patchline import config
from patchline.protocol.errors import PatchlineError
from patchline.runtime import terminal

_AT_LEAST = {"end to end": 0.35}  # of the bare network; 0.75 with AVX-512, 0.9 with AVX2, where the network is slow
_AT_MOST = {  # of IndexFlatL2, with AVX2
    "search 784 x 512 in 1638": 0.6,  # 0.35
    "search 784 x 512 in 1638, for a score": 0.5,  # 0.18, and 0.30 beside others
    "search 784 x 512 in 16384": 0.5,  # 0.33
    "search 784 x 512 in 16384, for a score": 0.3,  # 0.12
}


class SlowerError(PatchlineError):
    """A ratio has left its bounds."""


def run(settings: config.Config) -> None:
    """Measure, print, and raise SlowerError where a ratio is out of bounds."""
    with tempfile.TemporaryDirectory() as name:
        own = plant.build(Path(name), settings.paths.models, (WIDE,))
        _, limit = rows.bare(own, WIDE, len(os.sched_getaffinity(0)))
        with lines.running(Path(name), own) as line:
            found = [rows.end_to_end(line, WIDE, JPEG, limit, "network alone")]
    found += [*searches.rows(SMALL), *searches.rows(LARGE)]
    verdicts = [(row, _bound(row)) for row in found]
    cells = [[row.name, f"{row.ratio:.3f}", bound or ""] for row, bound in verdicts]
    terminal.table("ratios", ("measured : against", "ratio", "out of bounds"), cells)
    broken = [f"{row.name}: {row.ratio:.3f}, {bound}" for row, bound in verdicts if bound]
    if broken:
        raise SlowerError("; ".join(broken))


def _bound(row: Row) -> str | None:
    for name, least in _AT_LEAST.items():
        if name in row.name and row.ratio < least:
            return f"wants {least} at least"
    for name, most in _AT_MOST.items():
        if row.name.startswith(f"{name} :") and row.ratio > most:
            return f"wants {most} at most"
    return None
