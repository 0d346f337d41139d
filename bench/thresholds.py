"""`python -m bench.thresholds`: does a threshold keep its word? Fits on random good solar cells, scores all the others.

The features of all cells are extracted once, to `out/thresholds/`. Each split is kept there too, so an interrupted run
goes on where it was. `python -m bench.thresholds 20` makes 20 splits of each kind and number instead of 100.
"""

from __future__ import annotations

import json
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
    rows = list(_rows(splits))
    (_OUT / "thresholds.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    terminal.table("good cells flagged", tuple(rows[0]), [list(row.values()) for row in rows])


def _save_split(
    path: Path, good: Features, defects: Features, images: int, seed: int, category: config.Category
) -> None:
    """Fit on random good cells; score them held out in two ways, all the other good cells, and the defects."""
    order = np.random.default_rng([seed, images]).permutation(len(good))
    fitted, others = order[:images], order[images:]
    candidates = good[fitted].reshape(-1, good.shape[2])
    groups = np.repeat(np.arange(images), good.shape[1])
    points = coreset.project(candidates, 0)
    rows = np.sort(coreset.select(points, int(len(points) * category.coreset_ratio), 0))
    held_out: dict[str, list[Scores]] = {method: [] for method in _METHODS}
    for group, added in enumerate(coreset.replacements(points, rows, groups)):
        kept = rows[groups[rows] != group]
        for method, remaining in (("shared", kept), ("refilled", np.concatenate([kept, added]))):
            held_out[method].append(_scores(good[fitted[group]][None], candidates[remaining]))
    bank = candidates[rows]
    np.savez(
        path,
        shared=np.concatenate(held_out["shared"]),
        refilled=np.concatenate(held_out["refilled"]),
        good=_scores(good[others], bank),
        defects=_scores(defects, bank),
    )


def _rows(splits: int) -> Iterator[dict[str, object]]:
    for kind in cells.CATEGORIES.values():
        for images, rates in _RATES.items():
            paths = (_OUT / f"{kind}-{images}-{seed}.npz" for seed in range(splits))
            results = [np.load(path) for path in paths if path.is_file()]
            for rate in rates:
                for method in _METHODS:
                    yield {"cells": kind, "n": images, "asked": f"{rate:.0%}", "method": method} | _summary(
                        [result[method][:, 0] for result in results], [result["good"][:, 0] for result in results], rate
                    )


def _summary(held_out: list[Scores], good: list[Scores], rate: float) -> dict[str, str]:
    """How often the flagged share of the other good cells was within the stated bound."""
    pairs = zip(held_out, good, strict=True)
    flagged = np.array([(others >= calibration.threshold(scores, rate)).mean() for scores, others in pairs])
    stated = calibration.flagged_share(held_out[0].size, rate)
    return {
        "expected": f"{stated.expected:.2%}",
        "flagged": f"{flagged.mean():.2%}",
        "95 % bound": f"{stated.upper:.2%}",
        "held": f"{(flagged <= stated.upper).sum()} of {flagged.size}",
    }


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
        rgb = decode.decode(path.read_bytes(), image_files.content_type(path), settings.images)
        features.append(model.extract(preprocess.prepare(rgb, category.resize, category.imagesize)[None])[0])
    model.close()
    return np.array(features)


def _scores(images: NDArray[np.float32], bank: NDArray[np.float32]) -> Scores:
    search = exact_search.brute_force(bank)
    found = (score.image_scores(search.nearest(patches)[0]) for patches in images)
    return np.array([(scores.topk10, scores.max) for scores in found], np.float32)


if __name__ == "__main__":
    main()
