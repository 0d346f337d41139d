"""The images of the demo: electroluminescence pictures of solar cells, in MVTec layout.

elpv-dataset (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0: 2,624 pictures of 300 x 300 pixels with a
defect probability of 0, 1/3, 2/3 or 1. It is installed by `make demo` and is no part of this project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from patchline.protocol.errors import SetupError

CATEGORIES = {"solar_cell_mono": "mono", "solar_cell_poly": "poly"}


def lay_out(folder: Path) -> None:
    """Link the pictures into `<folder>/<category>/train/good`, `test/good` and `test/defect`.

    Of the good cells (probability 0) every second one is for fitting, the others are tested with the sure defects
    (probability 1). The cells in between are left out: nobody knows what they are.

    Raises:
        SetupError: elpv-dataset is not installed.
    """
    data = _installed()
    for category, kind in CATEGORIES.items():
        good = 0
        for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines():
            name, probability, its_kind = line.split()
            if its_kind != kind or float(probability) not in (0.0, 1.0):
                continue
            if float(probability) == 1.0:
                place = "test/defect"
            else:
                place = "test/good" if good % 2 else "train/good"
                good += 1
            target = folder / category / place / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(data / name)


def _installed() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SetupError("the solar-cell images are not installed; run `make demo`, or pip install elpv-dataset")
    return Path(spec.origin).parent / "data"
