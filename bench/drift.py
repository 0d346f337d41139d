"""`python -m bench.drift`: which changes of real solar cells the control charts of drift find, after `make demo`.

The good cells that the banks of the demo were not made of are changed as a line may change them, and scored. A row says
which share of them is above the median held-out cell. `docs/operations.md` explains the limits.

The fits of `python -m bench.thresholds`, if there are any, show how many false alarms unchanged cells raise.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.rows import load_inspector
from patchline import config
from patchline.demo import cells
from patchline.inspection.inspector import Inspector, untimed
from patchline.protocol import image_files
from patchline.runtime import terminal
from patchline.worker import drift

_DEMO = Path("out/demo")
_FITS = Path("out/thresholds")
_IMAGES = 150  # good cells of each kind
_IMAGE_NUMBERS = (10, 40, 99, 200, 1000)  # of held-out images

Picture = NDArray[np.uint8]
CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda picture: picture,
    "lamp 5 % darker": lambda picture: _scale(picture, 0.95),
    "lamp 10 % darker": lambda picture: _scale(picture, 0.9),
    "lamp 20 % darker": lambda picture: _scale(picture, 0.8),
    "lamp 10 % brighter": lambda picture: _scale(picture, 1.1),
    "lamp 20 % brighter": lambda picture: _scale(picture, 1.2),
    "out of focus by 1 pixel": lambda picture: _blur(picture, 1.0),
    "out of focus by 2 pixels": lambda picture: _blur(picture, 2.0),
    "turned by 1 degree": lambda picture: _turn(picture, 1.0),
    "turned by 3 degrees": lambda picture: _turn(picture, 3.0),
    "noise of 5 grey levels": lambda picture: _noise(picture, 5.0),
}


def main() -> None:
    """Measure and print the tables."""
    rows = [(images, *drift.limits(images)) for images in _IMAGE_NUMBERS]
    terminal.table(f"limits of a window of {drift.WINDOW_PARTS} parts", ("held-out images", "lower", "upper"), rows)
    charts, reference, times = drift.Charts(), drift.Reference(1.0, 0.2, 0.8, drift.WINDOW_PARTS), 100_000
    seconds = timeit.timeit(lambda: charts.add("line", "category", reference, 2.0), number=times)
    print(f"one verdict costs {seconds / times * 1e6:.2f} microseconds")
    columns = ("cells", "held-out images", "fits", "mean share", "lowest", "highest", "chance of a false alarm")
    terminal.table("unchanged cells: false alarms in ten million parts", columns, _false_alarms())
    settings = config.load(_DEMO / "config.yaml")
    for name in cells.CATEGORIES:
        inspector = load_inspector(settings, name)
        reference = drift.Reference.read(settings.paths.memory_banks / name, inspector.bank.manifest) or reference
        title = f"{name}: limits {reference.lower:.3f} and {reference.upper:.3f}"
        terminal.table(title, ("change", "share above the median", "chance of an alarm"), _rows(inspector, reference))


def _false_alarms() -> Iterator[tuple[object, ...]]:
    """Yield a row for each kind of cells and number of held-out images."""
    for kind in cells.CATEGORIES.values():
        for images in _IMAGE_NUMBERS:
            splits = [np.load(path) for path in sorted(_FITS.glob(f"{kind}-{images}-*.npz"))]
            if splits:
                medians = [np.sort(split["refilled"][:, 0])[(images - 1) // 2] for split in splits]
                pairs = zip(splits, medians, strict=True)
                shares = np.array([(split["good"][:, 0] > median).mean() for split, median in pairs])
                chance = float(np.mean([_chance(share, *drift.limits(images)) for share in shares]))
                yield kind, images, len(splits), float(shares.mean()), float(shares.min()), float(shares.max()), chance


def _chance(share: float, lower: float, upper: float) -> float:
    """The probability that any of many windows is outside the limits, if each part is above with a probability."""
    parts = drift.WINDOW_PARTS
    outside = (count for count in range(parts + 1) if not lower <= count / parts <= upper)
    in_one = sum(math.comb(parts, count) * share**count * (1 - share) ** (parts - count) for count in outside)
    return -math.expm1(drift.WINDOWS * math.log1p(-min(in_one, 1 - 1e-12)))


def _rows(inspector: Inspector, reference: drift.Reference) -> Iterator[tuple[str, float, float]]:
    good = image_files.find([_DEMO / "images" / inspector.bank.manifest.category / "test" / "good"])
    chosen = np.random.default_rng(0).permutation(len(good))[:_IMAGES]
    pictures = [cv2.imread(str(good[row]), cv2.IMREAD_GRAYSCALE) for row in chosen]
    for text, change in CHANGES.items():
        scores = np.array([_score(inspector, change(np.asarray(picture, np.uint8))) for picture in pictures])
        above = scores > reference.median
        windows = np.random.default_rng(0).choice(above, (10_000, drift.WINDOW_PARTS)).mean(axis=1)
        alarms = (windows < reference.lower) | (windows > reference.upper)
        yield text, float(above.mean()), float(alarms.mean())


def _score(inspector: Inspector, picture: Picture) -> float:
    return inspector.inspect(cv2.imencode(".png", picture)[1].tobytes(), "image/png", untimed).score


def _scale(picture: Picture, factor: float) -> Picture:
    return np.asarray(np.clip(picture * factor, 0, 255), np.uint8)


def _blur(picture: Picture, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def _turn(picture: Picture, degrees: float) -> Picture:
    height, width = picture.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _noise(picture: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


if __name__ == "__main__":
    main()
