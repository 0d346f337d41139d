"""The images of the demo: electroluminescence pictures of solar cells, in MVTec layout.

elpv-dataset (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0: 2,624 pictures of 300 x 300 pixels with
a defect probability of 0, 1/3, 2/3 or 1. `make demo` installs it; it is not part of this project.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from patchline.protocol.errors import SetupError

CATEGORIES = {"solar_cell_mono": "mono", "solar_cell_poly": "poly"}
# Labelled good, but a corner is broken, and `fit` finds it. It is used all the same, as every other labelled image is.
ACCEPTED = {"solar_cell_mono": ("cell0410.png",), "solar_cell_poly": ()}


@dataclass(frozen=True)
class Cells:
    """Pictures of one kind of cell.

    Attributes:
        fit: every second good cell (probability 0), for the memory bank.
        good: the other good cells.
        defect: the certain defects (probability 1). Cells with a probability of 1/3 or 2/3 have no certain label.
    """

    fit: list[Path]
    good: list[Path]
    defect: list[Path]


def read(category: str) -> Cells:
    """Return the pictures of a category.

    Raises:
        SetupError: elpv-dataset is not installed.
    """
    data = data_folder()
    lines = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    cells = [(data / name, float(probability)) for name, probability, kind in lines if kind == CATEGORIES[category]]
    good = [path for path, probability in cells if probability == 0.0]
    return Cells(good[::2], good[1::2], [path for path, probability in cells if probability == 1.0])


def link_images(folder: Path, category: str, fit: int | None = None) -> None:
    """Link the pictures of a category into `train/good`, `test/good` and `test/defect` of a folder.

    Args:
        folder: is made.
        category: one of CATEGORIES.
        fit: upper bound of the good cells that are for the memory bank, taken evenly; None: all.

    Raises:
        SetupError: elpv-dataset is not installed.
    """
    cells = read(category)
    count = len(cells.fit) if fit is None else min(fit, len(cells.fit))
    fitted = [cells.fit[number * len(cells.fit) // count] for number in range(count)]
    for subset, paths in (("train/good", fitted), ("test/good", cells.good), ("test/defect", cells.defect)):
        (folder / subset).mkdir(parents=True)
        for path in paths:
            (folder / subset / path.name).symlink_to(path)


def data_folder() -> Path:
    """Return the folder of the installed images. Raises SetupError if they are not installed."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SetupError("the solar-cell images are not installed; install Patchline with its extra `demo`")
    return Path(spec.origin).parent / "data"
