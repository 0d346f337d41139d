"""`python -m bench.tails`: thresholds by extreme values or by order statistics, on the splits of `bench.thresholds`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bench import thresholds
from patchline.banks import calibration
from patchline.demo import cells
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

_RATES = {40: (0.1, 0.025, 0.01), 99: (0.05, 0.01)}
_TAIL_SHARE = 0.25  # of the held-out scores, the highest

Scores = NDArray[np.float32]


def main() -> None:
    """Print how both rules do on the same splits."""
    columns = ("cells", "n", "asked", "rule", "flagged", "95 of 100 below", "within the bound", "defects missed")
    terminal.table("thresholds by order statistics and by extreme values", columns, list(_rows()))


def pareto_threshold(held_out: Scores, rate: float) -> float:
    """The score that a share `rate` of good images reaches, if the upper scores have a generalized Pareto tail.

    The excesses over the upper quartile are fitted by probability-weighted moments (Hosking and Wallis, 1987), which
    are better than maximum likelihood for few excesses.

    Args:
        held_out: float32 [images], scores.
        rate: below the share of the scores that is fitted.
    """
    ordered = np.sort(held_out.astype(np.float64))
    count = math.ceil(ordered.size * _TAIL_SHARE)
    start = ordered[-count - 1]
    excess = ordered[-count:] - start
    mean = excess.mean()
    weighted = ((1 - (np.arange(1, count + 1) - 0.35) / count) * excess).mean()
    shape = 2 - mean / (mean - 2 * weighted)  # positive for a heavy tail
    scale = 2 * mean * weighted / (mean - 2 * weighted)
    beyond = rate * ordered.size / count
    factor = -math.log(beyond) if abs(shape) < 1e-9 else (beyond**-shape - 1) / shape
    return float(start + scale * factor)


def _rows() -> Iterator[tuple[str, ...]]:
    rules: dict[str, Callable[[Scores, float], float]] = {
        "order statistic": calibration.threshold,
        "generalized Pareto": pareto_threshold,
    }
    for kind in cells.CATEGORIES.values():
        for images, rates in _RATES.items():
            splits = list(thresholds.read_splits(kind, images).values())
            for rate in rates:
                for name, rule in rules.items():
                    yield kind, str(images), f"{rate:.1%}", name, *_summary(splits, rule, images, rate)


def _summary(
    splits: list[dict[str, Scores]], rule: Callable[[Scores, float], float], images: int, rate: float
) -> tuple[str, ...]:
    try:
        limits = [rule(split["refilled"][:, 0], rate) for split in splits]
    except SetupError:
        return "too few images", "", "", ""
    flagged, caught = (
        np.array([(split[part][:, 0] >= limit).mean() for split, limit in zip(splits, limits, strict=True)])
        for part in ("good", "defects")
    )
    within = "no bound" if rate * (images + 1) < 1 else _within(flagged, images, rate)
    return f"{flagged.mean():.2%}", f"{np.quantile(flagged, 0.95):.1%}", within, f"{1 - caught.mean():.1%}"


def _within(flagged: NDArray[np.float64], images: int, rate: float) -> str:
    return f"{(flagged <= calibration.flagged_share(images, rate).upper).sum()} of {flagged.size}"


if __name__ == "__main__":
    main()
