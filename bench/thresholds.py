"""`python -m bench.thresholds`: does a threshold keep its word? Fits on random good solar cells, scores all the others.

The features of all cells are extracted once, to `out/thresholds/`. Each split is kept there too, so an interrupted run
goes on where it was. `python -m bench.thresholds 20` makes 20 splits of each kind and number instead of 100.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import calibration, coreset
from patchline.demo import cells
from patchline.devices import backbone, loading
from patchline.inspection import decode, preprocess, score
from patchline.inspection.memory_bank import FlaggedShare
from patchline.inspection.search import exact_search
from patchline.protocol import image_files
from patchline.runtime import terminal

_OUT = Path("out/thresholds")
_RATES: dict[int, tuple[float, ...]] = {40: (0.1,), 99: (0.05,), 200: (0.01, 0.05)}
_METHODS = ("shared", "refilled")
_DEFECTS = 150

Features = NDArray[np.float32]  # [images, patches, dim]
Scores = NDArray[np.float32]  # [images, 2]: topk10 and max


def main() -> None:
    """Make the splits, and print and write what they say."""
    splits = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    exact_search.set_threads(1)
    settings = config.load(Path("config.yaml"))
    loaded = {kind: _load(settings, category) for category, kind in cells.CATEGORIES.items()}
    for seed in range(splits):
        for images in _RATES:
            for kind, data in loaded.items():
                path = _OUT / f"{kind}-{images}-{seed}.npz"
                if not path.is_file():
                    _save_split(path, *data, images, seed, settings.categories[f"solar_cell_{kind}"])
    promises, rules = list(_promises(splits)), list(_patch_rules(splits))
    text = json.dumps({"promises": promises, "patch rules": rules}, indent=2)
    (_OUT / "thresholds.json").write_text(text + "\n", encoding="utf-8")
    for title, rows in (("good cells flagged", promises), ("with and without a patch rule", rules)):
        terminal.table(title, tuple(rows[0]), [list(row.values()) for row in rows])


def _save_split(
    path: Path, good: Features, defects: Features, images: int, seed: int, category: config.Category
) -> None:
    """Fit on random good cells; score them held out in two ways, all the other good cells, and the defects."""
    order = shuffle(seed, images, len(good))
    fitted, others = order[:images], order[images:]
    candidates = good[fitted].reshape(-1, good.shape[2])
    groups = np.repeat(np.arange(images), good.shape[1])
    points = coreset.project(candidates, 0)
    rows = np.sort(coreset.select(points, int(len(points) * category.coreset_ratio), 0))
    held_out: dict[str, list[Scores]] = {method: [] for method in _METHODS}
    for group, replacement in enumerate(coreset.replacements(points, rows, groups)):
        refilled = np.concatenate([rows[~replacement.removed], replacement.added])
        for method, remaining in (("shared", rows[groups[rows] != group]), ("refilled", refilled)):
            held_out[method].append(_scores(good[fitted[group]][None], candidates[remaining]))
    bank = candidates[rows]
    unfinished = path.with_name(".unfinished.npz")
    np.savez(
        unfinished,
        shared=np.concatenate(held_out["shared"]),
        refilled=np.concatenate(held_out["refilled"]),
        good=_scores(good[others], bank),
        defects=_scores(defects, bank),
    )
    unfinished.replace(path)


def read_splits(kind: str, images: int, splits: int = 100) -> dict[int, dict[str, Scores]]:
    """The splits that were made of a kind of cells and a number of images, by seed.

    Returns:
        For each split, "refilled" and "shared": the held-out cells; "good": the other good cells; "defects".
    """
    paths = {seed: _OUT / f"{kind}-{images}-{seed}.npz" for seed in range(splits)}
    return {seed: dict(np.load(path)) for seed, path in paths.items() if path.is_file()}


def shuffle(seed: int, images: int, good: int) -> NDArray[np.int64]:
    """The numbers of the good cells in random order: the first ones are fitted."""
    return np.random.default_rng([seed, images]).permutation(good)


def _results(splits: int) -> Iterator[tuple[dict[str, str], float, list[dict[str, Scores]]]]:
    """The splits of each kind, number of images and rate."""
    for kind in cells.CATEGORIES.values():
        for images, rates in _RATES.items():
            results = list(read_splits(kind, images, splits).values())
            for rate in rates:
                yield {"cells": kind, "n": str(images), "asked": f"{rate:.0%}"}, rate, results


def _promises(splits: int) -> Iterator[dict[str, str]]:
    for case, rate, results in _results(splits):
        for method, with_patches in (("shared", False), ("refilled", False), ("refilled", True)):
            flagged = np.array([_flagged(result, method, rate, with_patches)[0] for result in results])
            rule = " and patch rule" if with_patches else ""
            stated, others = calibration.flagged_share(int(case["n"]), rate), len(results[0]["good"])
            exact = exactly_within(int(case["n"]), rate, others)
            yield case | {"method": method + rule} | _summary(flagged, stated) | {"exact rule": f"{exact:.0%}"}


def _patch_rules(splits: int) -> Iterator[dict[str, str]]:
    """Flagged good cells and missed defects, at the same rate with and without a threshold of the hottest patch.

    A small defect is a good cell whose hottest patch has the distance of a defect's hottest patch.
    """
    for case, rate, results in _results(splits):
        for rule in ("none", "review"):
            shares = [_flagged(result, "refilled", rate, rule == "review") for result in results]
            flagged, defects, small = np.mean(shares, axis=0).tolist()
            names = ("good flagged", "defects missed", "small defects missed")
            values = (flagged, 1 - defects, 1 - small)
            yield case | {"rule": rule} | {name: f"{value:.1%}" for name, value in zip(names, values, strict=True)}


def _flagged(result: dict[str, Scores], method: str, rate: float, with_patches: bool) -> list[float]:
    """The flagged shares of the other good cells, of the defects, and of small defects."""
    held_out, good, defects = result[method], result["good"], result["defects"]
    small = np.resize(good, defects.shape)
    hotter = np.maximum(defects[:, 1] - small[:, 1], 0)
    small = small + np.column_stack([hotter / score.TOP_PATCHES, hotter])
    factor = calibration.hot_patch_factor(held_out[:, 0], held_out[:, 1])

    def combined(scores: Scores) -> NDArray[np.float32]:
        return calibration.combine(scores[:, 0], scores[:, 1], factor) if with_patches else scores[:, 0]

    limit = calibration.threshold(combined(held_out), rate)
    return [float((combined(scores) >= limit).mean()) for scores in (good, defects, small)]


def _summary(flagged: NDArray[np.float64], stated: FlaggedShare) -> dict[str, str]:
    """How often the flagged share of the other good cells was within the stated bound."""
    return {
        "expected": f"{stated.expected:.2%}",
        "flagged": f"{flagged.mean():.2%}",
        "95 % bound": f"{stated.upper:.2%}",
        "held": f"{(flagged <= stated.upper).sum()} of {flagged.size}",
    }


def exactly_within(images: int, rate: float, others: int) -> float:
    """How often an exact threshold flags no more of some other cells than the stated bound, which is for 1,000 cells.

    If held-out and new scores have the same distribution, the number of flagged cells is beta-binomial.
    """
    stated = calibration.flagged_share(images, rate)
    rank = round(stated.expected * (images + 1))
    flagged = range(math.floor(stated.upper * others) + 1)
    return sum(_beta_binomial(count, others, rank, images + 1 - rank) for count in flagged)


def _beta_binomial(count: int, trials: int, a: float, b: float) -> float:
    choices = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(choices + _log_beta(count + a, trials - count + b) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _load(settings: config.Config, category: str) -> tuple[Features, Features]:
    """Read the features of the good cells and of some defects, or extract them the first time."""
    path = _OUT / f"{cells.CATEGORIES[category]}.npz"
    if not path.is_file():
        _OUT.mkdir(parents=True, exist_ok=True)
        good, defects = (_extract(settings, category, label) for label in (0.0, 1.0))
        np.savez(path, good=good, defects=np.random.default_rng(0).permutation(defects)[:_DEFECTS])
    with np.load(path) as file:
        return file["good"], file["defects"]


def _extract(settings: config.Config, name: str, label: float) -> NDArray[np.float32]:
    """The features of all cells with a defect probability, float32 [cells, patches, dim]."""
    category, folder = settings.category(name), cells.data_folder()
    lines = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    paths = [folder / path for path, probability, kind in lines if (float(probability), kind) == (label, name[-4:])]
    model = loading.load(
        settings.paths.models, category.backbone, category.imagesize, backbone.CPU, 1, category.precision
    )
    features = []
    for path in paths:
        rgb = decode.decode(path.read_bytes(), image_files.content_type(path), settings.images, category.depth)
        features.append(model.extract(preprocess.prepare(rgb, category.resize, category.imagesize)[None])[0])
    model.close()
    return np.array(features)


def _scores(images: NDArray[np.float32], bank: NDArray[np.float32]) -> Scores:
    search = exact_search.brute_force(bank)
    found = (score.image_scores(search.nearest(patches)[0]) for patches in images)
    return np.array([(scores.topk10, scores.max) for scores in found], np.float32)


if __name__ == "__main__":
    main()
