"""The images of the demo: electroluminescence pictures of solar cells, in MVTec layout.

elpv-dataset (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0: 2,624 pictures of 300 x 300 pixels with
a defect probability of 0, 1/3, 2/3 or 1. `make demo` installs it; it is not part of this project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from patchline.protocol.errors import SetupError

CATEGORIES = {"solar_cell_mono": "mono", "solar_cell_poly": "poly"}
# Labelled good, but a corner is broken, and `fit` finds it. It is used all the same, as every other labelled image is.
ACCEPTED = {"solar_cell_mono": ("cell0410.png",), "solar_cell_poly": ()}


def link_images(folder: Path) -> None:
    """Link the pictures into `<folder>/<category>/train/good`, `test/good` and `test/defect`.

    Every second good cell (probability 0) is used to fit the memory bank. The other good cells and the certain defects
    (probability 1) are the test images. Cells with a probability of 1/3 or 2/3 have no certain label and are left out.

    Raises:
        SetupError: elpv-dataset is not installed.
    """
    data = data_folder()
    for category, kind in CATEGORIES.items():
        good = 0
        for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines():
            name, probability, cell_kind = line.split()
            if cell_kind != kind or float(probability) not in (0.0, 1.0):
                continue
            if float(probability) == 1.0:
                subset = "test/defect"
            else:
                subset = "test/good" if good % 2 else "train/good"
                good += 1
            target = folder / category / subset / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(data / name)


def data_folder() -> Path:
    """Return the folder of the installed images. Raises SetupError if they are not installed."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SetupError("the solar-cell images are not installed; install Patchline with its extra `demo`")
    return Path(spec.origin).parent / "data"
