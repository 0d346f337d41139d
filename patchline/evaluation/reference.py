"""The reference application's two evaluations, over one category, a list or all: precision and performance.

Published figures: `precision.txt` and `performance.txt` of Ascend/mindxsdk-referenceapps, PatchCoreAnomalyDetection.
Its times are of one Ascend 310, and leave out decoding, resizing and normalising.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import NamedTuple, TypeVar

import pydantic

from patchline import config
from patchline.banks import serving, store
from patchline.devices import backbone
from patchline.evaluation import evaluate
from patchline.inspection.search import exact_search
from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal
from patchline.runtime.stopwatch import Stopwatch

REQUIRED_AUROC = 0.995
REQUIRED_FPS = 20.0
_TIMED_IMAGES = 50
_OWN_STAGES = ("extract", "search", "score")  # what the reference's times contain


class Published(NamedTuple):
    """What the reference application reports of a category; None where it does not."""

    auroc: float
    auroc_topk10: float
    seconds: float | None


PUBLISHED = {
    "bottle": Published(1.0, 1.0, 0.01887),
    "cable": Published(0.9942, 0.9974, 0.03445),
    "capsule": Published(0.9920, 0.9896, 0.03582),
    "carpet": Published(1.0, 0.9996, 0.03452),
    "grid": Published(1.0, 0.9983, 0.03786),
    "hazelnut": Published(1.0, 1.0, 0.01869),
    "leather": Published(0.9959, 0.9986, 0.01842),
    "metal_nut": Published(0.9971, 0.9980, 0.01820),
    "pill": Published(0.9801, 0.9872, 0.03053),
    "screw": Published(0.9779, 0.9906, 0.04022),
    "tile": Published(0.9982, 1.0, 0.03727),
    "toothbrush": Published(1.0, 1.0, 0.02121),
    "transistor": Published(0.9996, 0.9996, None),
    "wood": Published(0.9939, 0.9956, None),
    "zipper": Published(0.9982, 0.9984, None),
}


class Timing(messages.Frozen):
    """How long an image of a category takes in one thread, in milliseconds (medians)."""

    category: str
    memory_bank: str
    images: int
    whole_ms: float
    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    fps: float


class Precision(messages.Frozen):
    """`precision.json`."""

    categories: dict[str, evaluate.Report]
    skipped: dict[str, str]
    mean_instance_auroc: float
    mean_instance_auroc_topk10: float
    required: float = REQUIRED_AUROC
    met: bool


class Performance(messages.Frozen):
    """`performance.json`."""

    categories: dict[str, Timing]
    skipped: dict[str, str]
    mean_whole_ms: float
    fps: float
    required: float = REQUIRED_FPS
    met: bool


_Result = TypeVar("_Result", evaluate.Report, Timing)


def precision(settings: config.Config, names: list[str], dataset: Path, out: Path) -> Precision:
    """Evaluate categories of a dataset in MVTec layout; those that are done with the same bank are not done again.

    Args:
        settings: the configuration.
        names: of the categories.
        dataset: with a folder for each.
        out: gets a report for each and `precision.json`.

    Raises:
        SetupError: a folder is in another layout (all are looked at before the first image), or nothing can be done.
    """
    ready, skipped = _ready(settings, names, dataset)
    done = {
        name: _resumed(settings, name, out / f"{name}.json", evaluate.Report)
        or evaluate.evaluate(settings, name, dataset / name, out)
        for name in ready
    }
    means = [statistics.fmean(getattr(each, key) for each in done.values()) for key in _AUROCS]
    made = Precision(
        categories=done,
        skipped=skipped,
        mean_instance_auroc=means[0],
        mean_instance_auroc_topk10=means[1],
        met=means[1] >= REQUIRED_AUROC,
    )
    _write(out / "precision.json", made)
    rows = [[name, *_beside(name, report)] for name, report in done.items()]
    columns = ("category", "AUROC max", "published", "AUROC topk10", "published")
    terminal.table(
        f"{len(done)} categories, {len(skipped)} skipped", columns, [*rows, ["mean", means[0], "", means[1], ""]]
    )
    print(f"mean instance_auroc_topk10 {means[1]:.4f}: {REQUIRED_AUROC:.1%} is {'met' if made.met else 'not met'}")
    return made


def performance(settings: config.Config, names: list[str], dataset: Path, out: Path) -> Performance:
    """Time categories in one thread, decoding and resizing included and listed apart. As `precision` otherwise."""
    ready, skipped = _ready(settings, names, dataset)
    done = {}
    for name in ready:
        path = out / f"{name}-time.json"
        done[name] = _resumed(settings, name, path, Timing) or _timed(settings, name, dataset / name)
        _write(path, done[name])
    whole = statistics.fmean(each.whole_ms for each in done.values())
    made = Performance(
        categories=done, skipped=skipped, mean_whole_ms=whole, fps=1000 / whole, met=1000 / whole >= REQUIRED_FPS
    )
    _write(out / "performance.json", made)
    columns = ("category", "whole ms", "decode", "preprocess", "network + search", "published", "images/s")
    rows = [
        [name, each.whole_ms, each.decode_ms, each.preprocess_ms, each.inference_ms, _published_ms(name), each.fps]
        for name, each in done.items()
    ]
    terminal.table(f"one thread, {len(done)} categories, {len(skipped)} skipped", columns, rows)
    print(f"mean {whole:.2f} ms, {made.fps:.1f} images/s: {REQUIRED_FPS:g} is {'met' if made.met else 'not met'}")
    return made


_AUROCS = ("instance_auroc", "instance_auroc_topk10")


def _ready(settings: config.Config, names: list[str], dataset: Path) -> tuple[list[str], dict[str, str]]:
    """The categories that can be done, and why the others cannot."""
    skipped: dict[str, str] = {}
    for name in names:
        settings.category(name)
        if not (dataset / name).is_dir():
            skipped[name] = f"{dataset / name} is not there"
        elif not (settings.paths.memory_banks / name).is_dir():
            skipped[name] = f"no memory bank; patchline fit --category {name} {dataset / name / 'train' / 'good'}"
        else:
            evaluate.check_layout(dataset / name)
    for name, why in skipped.items():
        print(f"skipped {name}: {why}", file=sys.stderr)
    ready = [name for name in names if name not in skipped]
    if not ready:
        raise SetupError(f"none of {', '.join(names)} can be done: a memory bank and a folder in {dataset} are needed")
    return ready, skipped


def _resumed(settings: config.Config, name: str, path: Path, kind: type[_Result]) -> _Result | None:
    """The result of an earlier run with the same memory bank."""
    try:
        found = kind.model_validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    current = store.load(settings.paths.memory_banks / name).version
    return found if found.memory_bank == current else None


def _timed(settings: config.Config, name: str, folder: Path) -> Timing:
    inspect = serving.load(settings, [name], backbone.CPU, streams=1)[name]
    took: dict[str, list[float]] = {}
    paths = image_files.find([folder / "test"])[:_TIMED_IMAGES]
    exact_search.set_threads(1)
    with terminal.progress() as bars:
        for path in bars.track([paths[0], *paths], description=name):  # the first one warms up and does not count
            watch = Stopwatch(lambda _, __: None)
            inspect.inspect(path.read_bytes(), image_files.content_type(path), watch.stage)
            for stage in (*watch.durations_ms, "whole"):
                value = sum(watch.durations_ms.values()) if stage == "whole" else watch.durations_ms[stage]
                took.setdefault(stage, []).append(value)
    medians = {stage: statistics.median(values[1:] or values) for stage, values in took.items()}
    return Timing(
        category=name,
        memory_bank=inspect.bank.version,
        images=len(paths),
        whole_ms=medians["whole"],
        decode_ms=medians["decode"],
        preprocess_ms=medians["preprocess"],
        inference_ms=sum(medians[stage] for stage in _OWN_STAGES),
        fps=1000 / medians["whole"],
    )


def _beside(name: str, report: evaluate.Report) -> list[object]:
    published = PUBLISHED.get(name)
    own = [report.instance_auroc, report.instance_auroc_topk10]
    return [own[0], published.auroc if published else "", own[1], published.auroc_topk10 if published else ""]


def _published_ms(name: str) -> object:
    seconds = PUBLISHED[name].seconds if name in PUBLISHED else None
    return "" if seconds is None else seconds * 1000


def _write(path: Path, document: pydantic.BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")
