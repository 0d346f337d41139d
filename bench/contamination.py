"""`python -m bench.contamination`: what defective solar cells among the good ones do, and what helps against it.

`python -m bench.contamination bound`: how many defects a rule could name, from the splits of `bench.thresholds`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import thresholds
from patchline import config
from patchline.banks import calibration, fit, good_images, outliers
from patchline.banks.choices import NO_CHOICES
from patchline.banks.recipe import Features, Recipe
from patchline.demo import cells
from patchline.devices import backbone, loading
from patchline.evaluation import metrics
from patchline.inspection import score
from patchline.inspection.search import exact_search
from patchline.runtime import terminal

_DRAWS, _SEEDS = 20, 3
_IMAGES = 100  # of a fit
_TESTED = 150  # good cells, and as many defects
_RATE = 0.01
_CLEAN_SHARE = 0.15
_HARM = 0.1  # a defect does harm if so many more of the other defects pass
_FALSE_ALARMS = 0.05  # of sets of good cells
# Labelled good, but broken, scratched, dark, and twice overexposed.
_STRIKING = {"cell0410", "cell2178", "cell0011", "cell0649", "cell0716"}

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class InMemory(Recipe):
    """A recipe whose features were extracted before: float32 [patches, dim] by path."""

    memory: dict[Path, Features] = field(default_factory=dict)

    def features(self, progress: terminal.Progress, title: str) -> Iterator[Features]:
        """The features of each image in order."""
        return (self.memory[path] for path in self.paths)

    def of(self, paths: list[Path], clean_share: float = 0.0) -> InMemory:
        """The recipe of a fit on some of the images."""
        good = good_images.GoodImages(paths, np.arange(len(paths)), [])
        return replace(self, category=self.category.model_copy(update={"clean_share": clean_share}), good=good)


@dataclass(frozen=True)
class Draw:
    """Shuffled cells of one kind.

    Attributes:
        good: to fit.
        defects: to mix in.
        tested_good: in no fit.
        tested_defects: in no fit.
    """

    good: list[Path]
    defects: list[Path]
    tested_good: list[Path]
    tested_defects: list[Path]

    @classmethod
    def of(cls, seed: int, good: list[Path], defects: list[Path]) -> Draw:
        """Draw cells."""
        rng = np.random.default_rng(seed)
        good, defects = ([paths[row] for row in rng.permutation(len(paths))] for paths in (good, defects))
        end = _IMAGES + _TESTED
        return cls(good[:_IMAGES], defects[:10], good[_IMAGES:end], defects[10 : 10 + _TESTED])


def main() -> None:
    """Measure and print the tables."""
    if sys.argv[1:] == ["bound"]:
        _print_bounds()
    else:
        _print_draws()


def _print_bounds() -> None:
    shares = ("above all good cells", "at 1 in 20 false alarms", "named", "do harm", "of them named")
    columns = ("cells", "sets", *shares, "good sets refused")
    rows = [row for kind in cells.CATEGORIES.values() for row in _bounds(kind)]
    terminal.table(f"one defect beside {_IMAGES - 1} held-out good cells", columns, rows)


def _print_draws() -> None:
    with terminal.progress() as progress:
        kinds = {kind: _read(name, kind, progress) for name, kind in cells.CATEGORIES.items()}
        draws = [_one_defect(kind, *kinds[kind], progress) for kind in kinds]
        mixtures = [row for kind in kinds for row in _mixtures(kind, *kinds[kind], progress)]
    columns = ("cells", "defects that do harm", "named", "other defects", "named", "clean sets", "refused")
    terminal.table(f"one defect among 99 good cells, {_DRAWS} draws", columns, draws)
    names = ("cells", "defects", "bank", "AUROC", "missed at 1 %", "left out", "of them defects")
    terminal.table(f"defects among {_IMAGES} cells, means of {_SEEDS} draws", names, mixtures)


def _read(name: str, kind: str, progress: terminal.Progress) -> tuple[InMemory, list[Path], list[Path]]:
    """The recipe of a category with the features of all its cells, the good cells and the defects."""
    data, settings = cells.data_folder(), config.load(Path("config.yaml"))
    good, defects = (_paths(kind, label) for label in (0.0, 1.0))
    category = settings.category(name)
    model = loading.load(
        settings.paths.models, category.backbone, category.imagesize, backbone.CPU, streams=1, precision=None
    )
    images = good_images.GoodImages([*good, *defects], np.arange(len(good) + len(defects)), [])
    target = calibration.Target.of(category)
    recipe = InMemory(
        settings, name, category, model, backbone.CPU, data, images, NO_CHOICES, target, category.reduced_jpeg
    )
    memory = dict(zip(recipe.paths, Recipe.features(recipe, progress, name), strict=True))
    return replace(recipe, memory=memory), good, defects


def _paths(kind: str, label: float) -> list[Path]:
    """The cells of a kind with a defect probability."""
    data = cells.data_folder()
    rows = (line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines())
    return [data / path for path, probability, cell in rows if cell == kind and float(probability) == label]


def _bounds(kind: str) -> Iterator[tuple[object, ...]]:
    """Yield a row for all sets of good cells, and one for those without the striking cells."""
    names, images = [path.stem for path in _paths(kind, 0.0)], _IMAGES - 1
    splits = thresholds.read_splits(kind, images)
    plain = [
        split
        for seed, split in splits.items()
        if not {names[number] for number in thresholds.shuffle(seed, images, len(names))[:images]} & _STRIKING
    ]
    for text, chosen in ((kind, [*splits.values()]), (f"{kind}, no striking cells", plain)):
        yield text, len(chosen), *_bound([(split["refilled"][:, 0], split["defects"][:, 0]) for split in chosen])


def _bound(sets: list[tuple[Scores, Scores]]) -> tuple[str, ...]:
    """What a rule could name of the defects, and what the rule in use does.

    A rule on the score names the defect only if it scores above the good cells. If it knew the distribution of the
    highest good score, it would name what is above the quantile that 1 of 20 good sets exceeds.

    Args:
        sets: the held-out scores of good cells, and the scores of defects against the bank of these cells.
    """
    limit = np.quantile([good.max() for good, _ in sets], 1 - _FALSE_ALARMS)
    above_all = np.concatenate([defects > good.max() for good, defects in sets])
    above_limit = np.concatenate([defects > limit for _, defects in sets])
    named = np.concatenate([_named(good, defects) for good, defects in sets])
    harmful = np.concatenate([_harm(good, defects) >= _HARM for good, defects in sets])
    refused = sum(outliers.suspects(good).size > 0 for good, _ in sets)
    shares = (above_all, above_limit, named, harmful, named[harmful])
    return *(f"{share.mean():.0%}" for share in shares), str(refused)


def _named(good: Scores, defects: Scores) -> NDArray[np.bool_]:
    """True for each defect that stands out from the good cells if it is one among them."""
    return np.array([good.size in outliers.suspects(np.append(good, defect)) for defect in defects])


def _harm(good: Scores, defects: Scores) -> NDArray[np.float64]:
    """How many more of the defects pass at the highest held-out score if each of them is taken for a good cell."""
    highest = np.maximum(defects, good.max())
    return np.array([((defects >= good.max()) & (defects < limit)).mean() for limit in highest])


def _one_defect(
    kind: str, recipe: InMemory, good: list[Path], defects: list[Path], progress: terminal.Progress
) -> tuple[object, ...]:
    """Count the draws in which a defect does harm and is named, and those in which good cells alone are refused."""
    named, harm, refused = [], [], []
    for seed in progress.track(range(_DRAWS), description=f"{kind}: one defect"):
        draw = Draw.of(seed, good, defects)
        clean = draw.good[: _IMAGES - 1]
        without, with_defect = (
            fit.make_draft(recipe.of(paths), seed, progress) for paths in (clean, [*clean, draw.defects[0]])
        )
        missed = [_missed(recipe, draft, draw.tested_defects) for draft in (without, with_defect)]
        named.append(_IMAGES - 1 in outliers.suspects(_held_out_scores(recipe, with_defect)))
        harm.append(missed[1] - missed[0])
        refused.append([clean[row].name for row in outliers.suspects(_held_out_scores(recipe, without))])
        progress.console.print(f"{kind} {seed}: missed {missed[0]:.2f}, with {draw.defects[0].name} {missed[1]:.2f}")
        progress.console.print(f"  named: {named[-1]}; refused without it: {', '.join(refused[-1]) or 'none'}")
    harmful, found = np.array(harm) >= _HARM, np.array(named)
    counts = (harmful.sum(), found[harmful].sum(), (~harmful).sum(), found[~harmful].sum())
    return kind, *(int(count) for count in counts), _DRAWS, sum(bool(names) for names in refused)


def _mixtures(
    kind: str, recipe: InMemory, good: list[Path], defects: list[Path], progress: terminal.Progress
) -> Iterator[tuple[object, ...]]:
    """Yield a row for each share of defects, as they are and cleaned."""
    for count in (0, 1, 5, 10):
        for text, clean_share in (("as it is", 0.0), ("cleaned", _CLEAN_SHARE)):
            figures = []
            for seed in progress.track(range(_SEEDS), description=f"{kind}: {count} defects, {text}"):
                draw = Draw.of(1000 + seed, good, defects)
                mixed = [*draw.good[count:], *draw.defects[:count]]
                used, draft = fit.make_clean_draft(recipe.of(mixed, clean_share), seed, progress)
                left_out = set(mixed) - set(used.paths)
                auroc = metrics.auroc(
                    *(_scores(recipe, draft, paths) for paths in (draw.tested_good, draw.tested_defects))
                )
                missed = _missed(recipe, draft, draw.tested_defects)
                figures.append((auroc, missed, len(left_out), len(left_out & set(draw.defects))))
            yield kind, count, text, *(float(mean) for mean in np.mean(figures, axis=0))


def _missed(recipe: InMemory, draft: fit.Draft, defects: list[Path]) -> float:
    """The share of the defects that pass at the threshold of a bank."""
    held_out = _held_out_scores(recipe, draft)
    # Without the outliers, there may be too few for the rate: then the threshold is the highest.
    threshold = calibration.threshold(held_out, max(_RATE, 1 / (held_out.size + 1)))
    return float((_scores(recipe, draft, defects) < threshold).mean())


def _held_out_scores(recipe: InMemory, draft: fit.Draft) -> Scores:
    return draft.held_out.image_scores(recipe.category.score)


def _scores(recipe: InMemory, draft: fit.Draft, paths: list[Path]) -> Scores:
    search = exact_search.brute_force(draft.bank)
    scores = (score.image_scores(search.nearest(recipe.memory[path])[0]) for path in paths)
    return np.fromiter((score.decisive_score(each, recipe.category.score) for each in scores), np.float32, len(paths))


if __name__ == "__main__":
    main()
