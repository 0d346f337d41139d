"""How the drive of a belt is used: steadily, or with stops, changes of speed and reversals."""

from __future__ import annotations

import random
from collections.abc import Iterator


def steady(speed_mm_s: float) -> Iterator[float]:
    """Yield the same target speed for every cycle."""
    while True:
        yield speed_mm_s


def varied(speed_mm_s: float, rng: random.Random, cycle_s: float) -> Iterator[float]:
    """Yield a target speed for every cycle: full speed for some seconds, then a disturbance, and so on.

    Args:
        speed_mm_s: the full speed.
        rng: chooses times and disturbances.
        cycle_s: duration of a cycle.
    """
    while True:
        yield from [speed_mm_s] * round(rng.uniform(2.0, 8.0) / cycle_s)
        share = rng.choice((0.0, 0.5, 0.8, -0.3))  # a stop, slower, a little slower, backwards
        seconds = rng.uniform(0.3, 0.6) if share < 0 else rng.uniform(0.5, 1.5)
        yield from [share * speed_mm_s] * round(seconds / cycle_s)
