"""`python -m bench.add_image`: good solar cells are added to a bank one by one, against fits of all of them.

Times are those of the commands, from start to end. Seconds of CPU are those of their processes: on a machine that
others use, only they say much. It takes minutes, and writes `out/add-image/add-image.json`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import store
from patchline.banks.folds import FILE
from patchline.demo import cells
from patchline.devices import backbone, loading
from patchline.evaluation import metrics
from patchline.inspection import decode, preprocess, score
from patchline.inspection.memory_bank import MemoryBank
from patchline.protocol import image_files
from patchline.runtime import terminal

_CATEGORY = "solar_cell_mono"
_RECIPE = (
    "backbone: efficientnet_lite0, layer: blocks4+10, resize: 256, imagesize: 256, coreset_ratio: 0.01, "
    "false_reject_rate: 0.05"  # the smallest that all numbers of images carry
)
_OUT = Path("out/add-image")
_COMPARED, _ADDED = 99, 20
_ROUNDS = 3


@dataclass(frozen=True)
class _Cost:
    """Seconds of a command."""

    wall: float
    cpu: float


def main() -> None:
    """Measure the commands, then compare the banks, and print and write what they say."""
    shutil.rmtree(_OUT, ignore_errors=True)
    images = cells.read(_CATEGORY)
    found = {"times": _times(images), "banks": _banks(images)}
    (_OUT / "add-image.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def _times(images: cells.Cells) -> dict[str, object]:
    """A fit of all cells, and single cells that are added to its bank and removed from it."""
    settings = _plant("all")
    fit = _fit("all", images.fit)
    folder = settings.paths.memory_banks / _CATEGORY
    bank = store.load(folder).manifest
    adds = [_add("all", [path], _OUT.absolute() / f"added-{path.stem}") for path in images.good[:_ROUNDS]]
    remove = _run("all", "banks", "remove", _CATEGORY, images.fit[7].name, "--output", str(_OUT.absolute() / "removed"))
    add = _Cost(*(statistics.median(getattr(each, key) for each in adds) for key in ("wall", "cpu")))
    return {
        "images": bank.good_images,
        "fit": vars(fit),
        "add": vars(add),
        "remove": vars(remove),
        "fit : add, seconds of CPU": fit.cpu / add.cpu,
        "fit : add, seconds": fit.wall / add.wall,
        "bytes of folds.npz": (folder / FILE).stat().st_size,
        "bytes of the index": (folder / store.INDEX_FILE).stat().st_size,
        "bytes of the features of all images": 4 * bank.candidate_patches * bank.dim,
    }


def _banks(images: cells.Cells) -> dict[str, object]:
    """A bank of some cells to which others were added one by one, against a fit of all these cells."""
    settings = {name: _plant(name) for name in ("few", "many")}
    some = [images.fit[number] for number in np.random.default_rng(0).permutation(len(images.fit))[:_COMPARED]]
    few, late = some[:-_ADDED], some[-_ADDED:]
    folders = {name: each.paths.memory_banks / _CATEGORY for name, each in settings.items()}
    _fit("few", few)
    banks = {f"fit of {len(few)}": store.load(folders["few"])}
    _add("few", late)
    banks[f"{_ADDED} added to it one by one"] = store.load(folders["few"])
    _fit("many", some)
    banks[f"fit of {len(some)}"] = store.load(folders["many"])
    return _compare(settings["many"], banks, images)


def _plant(name: str) -> config.Config:
    folder = _OUT / name
    folder.mkdir(parents=True)
    (folder / "models").symlink_to(Path("models").resolve())
    (folder / "config.yaml").write_text(f"categories:\n  {_CATEGORY}: {{{_RECIPE}}}\n", encoding="utf-8")
    return config.load(folder / "config.yaml")


def _fit(name: str, paths: list[Path]) -> _Cost:
    good = _OUT / name / "good"
    good.mkdir()
    for path in paths:
        (good / path.name).symlink_to(path)
    accepted = [word for path in paths for word in ("--accept", path.name)]  # labelled good, as unusual as some are
    return _run(name, "fit", "--category", _CATEGORY, "good", *accepted)


def _add(name: str, paths: list[Path], output: Path | None = None) -> _Cost:
    options = [] if output is None else ["--output", str(output)]
    accepted = [word for path in paths for word in ("--accept", str(path))]
    return _run(name, "banks", "add", _CATEGORY, *map(str, paths), *accepted, *options)


def _run(name: str, *arguments: str) -> _Cost:
    """Run a command in a folder, and return what it took."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "patchline", *arguments]
    subprocess.run(command, cwd=_OUT / name, env=environment, check=True, stdout=sys.stderr)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = _Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    terminal.note(f"{arguments[:2]}: {cost}")
    return cost


def _compare(settings: config.Config, banks: dict[str, MemoryBank], images: cells.Cells) -> dict[str, object]:
    """The rows and thresholds of banks, and their AUROC on the cells that no bank has seen."""
    category = settings.category(_CATEGORY)
    paths = images.good[_ROUNDS:] + images.defect
    labels = np.array([False] * (len(images.good) - _ROUNDS) + [True] * len(images.defect))
    scores: dict[str, list[float]] = {name: [] for name in banks}
    with (
        closing(
            loading.load(
                settings.paths.models, category.backbone, category.imagesize, backbone.CPU, 1, category.precision
            )
        ) as model,
        terminal.progress() as progress,
    ):
        for path in progress.track(paths, description="unseen cells"):
            rgb = decode.decode(path.read_bytes(), image_files.content_type(path), settings.images, category.depth)
            patches = model.extract(preprocess.prepare(rgb, category.resize, category.imagesize)[None])[0]
            for name, bank in banks.items():
                scores[name].append(score.image_scores(bank.search.nearest(patches)[0]).topk10)
    return {name: _summary(bank, np.array(scores[name]), labels) for name, bank in banks.items()}


def _summary(bank: MemoryBank, scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> dict[str, float]:
    limits = bank.manifest.thresholds
    return {
        "rows": bank.manifest.patches,
        "review": limits.review,
        "fail": limits.fail,
        "auroc": metrics.auroc(scores[~labels], scores[labels]),
        "good failed": float((scores[~labels] >= limits.fail).mean()),
        "defects below fail": float((scores[labels] < limits.fail).mean()),
    }


if __name__ == "__main__":
    main()
