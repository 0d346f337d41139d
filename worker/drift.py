"""Drift: do the parts of a line still score like the good images that its memory bank was calibrated on?

Each line and category has a control chart. It counts how many of a window of parts score above the median of the
held-out images: about half, if nothing has changed. The limits of that share hold for any distribution of the scores.
They allow for three things: the held-out images are few, windows are short and many, and some parts are different.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import lgamma
from pathlib import Path
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from patchline.banks.held_out import HeldOut
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.errors import SetupError

WINDOW_PARTS = 200
WINDOWS = 50_000  # the horizon of the promise: ten million parts
FALSE_ALARMS = 0.01  # the probability of one or more within the horizon
DIFFERENT = 0.2  # the share of parts that may score high (defects), or low (held-out images score a little too high)
_GRID = 4000  # points of the numerical integral; more change no limit
_SEED = 0

_log = structlog.get_logger(__name__)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What the parts of a category are compared with.

    Attributes:
        median: a score that about half of the good parts exceed.
        lower: the smallest share of a window above it that is no alarm.
        upper: the largest one.
        window: the number of images in a window.
    """

    median: float
    lower: float
    upper: float
    window: int

    @classmethod
    def read(cls, folder: Path, manifest: BankManifest) -> Reference | None:
        """The reference of a memory bank; None if its held-out scores were not kept or cannot be read."""
        if manifest.held_out_sha256 is None:
            return None
        try:
            return cls.of(HeldOut.read(folder, manifest.held_out_sha256), manifest.score)
        except SetupError as error:
            _log.warning("drift cannot be measured", category=manifest.category, reason=str(error))
            return None

    @classmethod
    def of(cls, held_out: HeldOut, kind: Literal["topk10", "max"]) -> Reference:
        """The reference of held-out images.

        One image of each group counts, because the images of a part are alike. For the same reason a window is as many
        times longer as groups have images on average. Its limits remain those of `WINDOW_PARTS` independent parts.
        """
        scores = _one_of_each_group(held_out.image_scores(kind), held_out.groups)
        lower, upper = limits(scores.size)
        images_of_part = round(held_out.groups.size / scores.size)
        return cls(float(np.sort(scores)[_rank(scores.size) - 1]), lower, upper, WINDOW_PARTS * images_of_part)


class Charts:
    """The control charts of a worker, one for each line and category. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, line: str, category: str, reference: Reference, score: float) -> float | None:
        """Add the score of a part. Return the share above the median if this completes a window."""
        with self._lock:
            images, above = self._counts.get((line, category), (0, 0))
            images, above = images + 1, above + (score > reference.median)
            is_complete = images >= reference.window
            self._counts[line, category] = (0, 0) if is_complete else (images, above)
        return above / images if is_complete else None

    def forget(self, category: str) -> None:
        """Begin all windows of a category anew."""
        with self._lock:
            self._counts = {key: counts for key, counts in self._counts.items() if key[1] != category}


def limits(images: int) -> tuple[float, float]:
    """The smallest and the largest share of a window above the median of some held-out images that is no alarm.

    A new good part scores above the r-th smallest of n independent scores with a probability that has the distribution
    Beta(n + 1 - r, r), whatever the distribution of the scores. Given that probability, windows are independent and
    their counts binomial. The limits are the closest ones that `WINDOWS` windows all keep with a probability of
    1 - `FALSE_ALARMS`, half of it on each side, although up to a share `DIFFERENT` of all parts scores high, or low.

    Args:
        images: the number n of held-out images, independent of each other.
    """
    share = (np.arange(_GRID) + 0.5) / _GRID
    weights = _beta(share, images + 1 - _rank(images), _rank(images))
    at_most = np.cumsum(_binomial((1 - DIFFERENT) * share), axis=0)
    at_least = np.cumsum(_binomial(DIFFERENT + (1 - DIFFERENT) * share)[::-1], axis=0)  # from the largest count down
    low_alarms, high_alarms = (
        np.count_nonzero(_false_alarms(alarm_in_window, weights) <= FALSE_ALARMS / 2)
        for alarm_in_window in (at_most, at_least)
    )
    return int(low_alarms) / WINDOW_PARTS, int(WINDOW_PARTS - high_alarms) / WINDOW_PARTS


def _false_alarms(alarm_in_window: Values, weights: Values) -> Values:
    """The probability of an alarm within all windows, for each limit.

    Args:
        alarm_in_window: float64 [limits, shares], the probability in one window if the true share is known.
        weights: float64 [shares], the probability of each share.
    """
    alarm_in_any = -np.expm1(WINDOWS * np.log1p(-np.minimum(alarm_in_window, 1 - 1e-12)))
    return np.asarray(alarm_in_any @ weights)


def _binomial(share: Values) -> Values:
    """The probabilities of all counts in a window, float64 [counts, shares]."""
    counts = np.arange(WINDOW_PARTS + 1)
    ways = [lgamma(WINDOW_PARTS + 1) - lgamma(count + 1) - lgamma(WINDOW_PARTS - count + 1) for count in counts]
    logarithms = np.array(ways)[:, None] + np.outer(counts, np.log(share))
    return np.asarray(np.exp(logarithms + np.outer(WINDOW_PARTS - counts, np.log1p(-share))))


def _beta(share: Values, above: int, below: int) -> Values:
    """The weights of a beta distribution at evenly spaced shares; their sum is 1."""
    logarithms = (above - 1) * np.log(share) + (below - 1) * np.log1p(-share)
    weights = np.exp(logarithms - logarithms.max())
    return np.asarray(weights / weights.sum())


def _rank(images: int) -> int:
    """The rank of the median, from 1."""
    return (images + 1) // 2


def _one_of_each_group(scores: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """The score of one random image of each group, the same ones each time."""
    order = np.random.default_rng(_SEED).permutation(groups.size)
    _, first = np.unique(groups[order], return_index=True)
    return scores[order[first]]
