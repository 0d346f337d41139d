"""How much of a figure is luck: the same good images, other random choices of the memory bank, the same test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import calibration, fit
from patchline.banks.choices import NO_CHOICES
from patchline.banks.good_images import GoodImages
from patchline.banks.recipe import Recipe
from patchline.banks.row_origins import RowOrigins
from patchline.devices import backbone
from patchline.evaluation import metrics
from patchline.evaluation.datasets import GOOD, LabelledImage
from patchline.inspection import score
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.inspection.search.exact_search import Search
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Frozen
from patchline.runtime import terminal

_TOLERANCE = 1e-2  # between the rows of a bank and those that are made again, relative; devices differ by less


class Spread(Frozen):
    """A figure over several banks: its mean, standard deviation, and the value of each bank."""

    mean: float
    deviation: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of two values or more."""
        return cls(mean=float(np.mean(values)), deviation=float(np.std(values, ddof=1)), values=tuple(values))


COLUMNS = ("measure", "mean", "deviation", "lowest", "highest")


class SeedsReport(Frozen):
    """The figures of a category over seeds. The first seed is that of its memory bank."""

    seeds: tuple[int, ...]
    asked_rate: float
    auroc: Spread
    average_precision: Spread
    missed_at_asked_rate: Spread

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """For each figure its name, mean, standard deviation, lowest and highest value."""
        figures = {
            "AUROC": self.auroc,
            "average precision": self.average_precision,
            f"defects missed if {self.asked_rate:.1%} of these good images are rejected": self.missed_at_asked_rate,
        }
        return [
            (name, spread.mean, spread.deviation, min(spread.values), max(spread.values))
            for name, spread in figures.items()
        ]


def evaluate(
    settings: config.Config, inspector: Inspector, images: list[LabelledImage], count: int, progress: terminal.Progress
) -> SeedsReport:
    """Make memory banks with other seeds from the good images of a category, and score the test images with each.

    Args:
        settings: the configuration.
        inspector: of the category.
        images: labelled.
        count: the number of seeds, at least 2. The first is that of the served bank, the next ones follow it.
        progress: shows what is done.

    Raises:
        SetupError: the good images are not known, or not as they were when the bank was made.
    """
    recipe, first = recipe_of(settings, inspector), inspector.bank.manifest.seed
    seeds = tuple(range(first, first + count))
    banks = [fit.make_bank(recipe, seed, progress) for seed in seeds]
    _require_the_same(banks[0], inspector)
    searches = [exact_search.brute_force(bank) for bank in banks]
    tracked = progress.track(images, description=f"{recipe.name}: {count} seeds")
    scores = np.array([_scores(inspector, image.path, searches) for image in tracked])
    is_good = np.array([image.kind == GOOD for image in images])
    return _report(seeds, scores[is_good].T, scores[~is_good].T, inspector.bank.manifest.calibration.false_reject_rate)


def recipe_of(settings: config.Config, inspector: Inspector) -> Recipe:
    """The recipe that made a bank, with the same good images.

    Raises:
        SetupError: the good images are not known, or not there any more.
    """
    name = inspector.bank.manifest.category
    folder = settings.paths.memory_banks / name
    origins = RowOrigins.load(folder)
    if origins is None:
        raise SetupError(f"{folder}: does not say which images it was made of, so --seeds cannot be used; fit it again")
    if any(change.added or change.removed for change in inspector.bank.manifest.changes):
        raise SetupError(
            f"{folder}: images were added or removed one by one, so no seed of a fit gives this bank; fit it again"
        )
    missing = [path for path in origins.paths if not path.is_file()]
    if missing:
        raise SetupError(f"--seeds needs the good images of the memory bank, but {missing[0]} is not there any more")
    good = GoodImages(list(origins.paths), np.arange(len(origins.paths)), [])
    category, first_folder = inspector.category, origins.paths[0].parent
    target = calibration.Target.of(category)
    model, reduced_jpeg = inspector.backbone, inspector.bank.manifest.reduced_jpeg
    device = backbone.CPU
    return Recipe(settings, name, category, model, device, first_folder, good, NO_CHOICES, target, reduced_jpeg)


def _require_the_same(bank: NDArray[np.float32], inspector: Inspector) -> None:
    """Check that the good images still give the bank that is served."""
    served = inspector.bank.search.features
    if bank.shape != served.shape or np.abs(bank - served).max() > _TOLERANCE * np.abs(served).max():
        name = inspector.bank.manifest.category
        raise SetupError(
            f"--seeds: the good images or the recipe of {name} have changed since its memory bank was made; "
            "fit it again"
        )


def _scores(inspector: Inspector, path: Path, searches: list[Search]) -> list[float]:
    """The score of an image with each bank."""
    category = inspector.category
    try:
        patches = inspector.features(image_files.read(path), image_files.content_type(path))
    except Unusable as error:
        raise SetupError(f"{path}: {error.detail}") from error
    distances = (search.nearest(patches)[0] for search in searches)
    return [score.decisive_score(score.image_scores(each), category.score) for each in distances]


def _report(
    seeds: tuple[int, ...], good: NDArray[np.float64], defects: NDArray[np.float64], asked_rate: float
) -> SeedsReport:
    """The figures of the scores of each bank, float64 [seeds, images]."""
    pairs = list(zip(good, defects, strict=True))
    points = [metrics.OperatingPoints.of(*pair) for pair in pairs]
    return SeedsReport(
        seeds=seeds,
        asked_rate=asked_rate,
        auroc=Spread.of([metrics.auroc(*pair) for pair in pairs]),
        average_precision=Spread.of([float(metrics.average_precision(each)) for each in points]),
        missed_at_asked_rate=Spread.of([float(metrics.missed_at_rate(each, asked_rate)) for each in points]),
    )
