"""The two evaluations of the reference application, precision and performance, over several categories.

The published figures are those of `precision.txt` and `performance.txt` in Ascend/mindxsdk-referenceapps,
PatchCoreAnomalyDetection. The times are for one Ascend 310, without decoding, resizing and normalising.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import NamedTuple, TypeVar

import pydantic

from patchline.banks import serving, store
from patchline.evaluation import datasets, evaluate
from patchline.evaluation.ran_on import RanOn
from patchline.evaluation.report import Report
from patchline.inspection.memory_bank import MemoryBank
from patchline.inspection.search import exact_search
from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal
from patchline.runtime.stopwatch import Stopwatch

REQUIRED_AUROC = 0.995
REQUIRED_FPS = 20.0
_TIMED_IMAGES = 50
_INFERENCE_STAGES = ("extract", "search", "score")  # those that the published times include
_AUROCS = ("instance_auroc", "instance_auroc_topk10")


class Published(NamedTuple):
    """The published figures of a category; None if there is none."""

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
    """The time of one image of a category in one thread; medians."""

    category: str
    memory_bank: str
    ran_on: RanOn
    images: int
    whole_ms: float
    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    fps: float


class Precision(messages.Frozen):
    """`precision.json`."""

    device: str
    categories: dict[str, Report]
    skipped: dict[str, str]
    mean_instance_auroc: float
    mean_instance_auroc_topk10: float
    required: float = REQUIRED_AUROC
    met: bool


class Performance(messages.Frozen):
    """`performance.json`."""

    device: str
    categories: dict[str, Timing]
    skipped: dict[str, str]
    mean_whole_ms: float
    fps: float
    required: float = REQUIRED_FPS
    met: bool


_Result = TypeVar("_Result", Report, Timing)


def precision(loader: serving.Loader, names: list[str], dataset: Path, out: Path) -> Precision:
    """Evaluate categories of a dataset in the layout of MVTec AD. An earlier report of the same is used again.

    Args:
        loader: of inspectors, for the device that serves.
        names: of the categories.
        dataset: with a folder for each category.
        out: the folder for a report of each category and for `precision.json`.

    Raises:
        SetupError: a folder has another layout, which is checked before the first image, or no category is ready.
    """
    ready, skipped = _split_by_readiness(loader, names, dataset)
    reports = {
        name: _read_earlier(loader, name, out / f"{name}.json", Report)
        or evaluate.evaluate(loader, name, dataset / name, out)
        for name in ready
    }
    means = [statistics.fmean(getattr(report, key) for report in reports.values()) for key in _AUROCS]
    result = Precision(
        device=str(loader.device),
        categories=reports,
        skipped=skipped,
        mean_instance_auroc=means[0],
        mean_instance_auroc_topk10=means[1],
        met=means[1] >= REQUIRED_AUROC,
    )
    _write(out / "precision.json", result)
    rows = [[name, *_auroc_cells(name, report), *_model_cells(report)] for name, report in reports.items()]
    columns = ("category", "AUROC max", "published", "AUROC topk10", "published", "model", "precision")
    title = f"{loader.device}, {len(reports)} categories, {len(skipped)} skipped"
    terminal.table(title, columns, [*rows, ["mean", means[0], "", means[1], "", "", ""]])
    print(f"mean instance_auroc_topk10 {means[1]:.4f}: {REQUIRED_AUROC:.1%} is {'met' if result.met else 'not met'}")
    return result


def performance(loader: serving.Loader, names: list[str], dataset: Path, out: Path) -> Performance:
    """Time categories in one thread, with decoding and resizing. An earlier timing of the same is used again.

    Args:
        loader: of inspectors, for the device that serves.
        names: of the categories.
        dataset: with a folder for each category.
        out: the folder for a timing of each category and for `performance.json`.

    Raises:
        SetupError: a folder has another layout, or no category is ready.
    """
    ready, skipped = _split_by_readiness(loader, names, dataset)
    timings = {}
    for name in ready:
        path = out / f"{name}-time.json"
        timings[name] = _read_earlier(loader, name, path, Timing) or _time(loader, name, dataset / name)
        _write(path, timings[name])
    mean_ms = statistics.fmean(timing.whole_ms for timing in timings.values())
    fps = 1000 / mean_ms
    result = Performance(
        device=str(loader.device),
        categories=timings,
        skipped=skipped,
        mean_whole_ms=mean_ms,
        fps=fps,
        met=fps >= REQUIRED_FPS,
    )
    _write(out / "performance.json", result)
    columns = (
        "category",
        "total ms",
        "decode",
        "preprocess",
        "network + search",
        "published",
        "images/s",
        "model",
        "precision",
    )
    rows = [
        [name, t.whole_ms, t.decode_ms, t.preprocess_ms, t.inference_ms, _published_ms(name), t.fps, *_model_cells(t)]
        for name, t in timings.items()
    ]
    terminal.table(f"{loader.device}, one thread, {len(timings)} categories, {len(skipped)} skipped", columns, rows)
    print(f"mean {mean_ms:.2f} ms, {fps:.1f} images/s: {REQUIRED_FPS:g} is {'met' if result.met else 'not met'}")
    return result


def _split_by_readiness(loader: serving.Loader, names: list[str], dataset: Path) -> tuple[list[str], dict[str, str]]:
    """The categories that can be evaluated, and the reasons why the others are skipped."""
    skipped: dict[str, str] = {}
    settings, device = loader.settings, loader.device
    for name in names:
        settings.category(name)
        if not (dataset / name).is_dir():
            skipped[name] = f"{dataset / name} does not exist"
        elif not (settings.paths.memory_banks / name).is_dir():
            good = dataset / name / "train" / "good"
            skipped[name] = f"no memory bank; patchline fit --category {name} --device {device} {good}"
        else:
            datasets.read(dataset / name)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    ready = [name for name in names if name not in skipped]
    if not ready:
        raise SetupError(f"none of {', '.join(names)} is ready: each needs a memory bank and a folder in {dataset}")
    return ready, skipped


def _read_earlier(loader: serving.Loader, name: str, path: Path, model: type[_Result]) -> _Result | None:
    """The result of an earlier run; None if there is none, or if it is of another bank, device, model or precision."""
    try:
        result = model.model_validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    bank = store.load(loader.settings.paths.memory_banks / name)
    return result if is_of(result, bank, RanOn.of(loader.network(name), loader.device)) else None


def is_of(result: Report | Timing, bank: MemoryBank, ran_on: RanOn) -> bool:
    """Return True if a result is that of a bank, device, model and precision. Times do not depend on thresholds."""
    if isinstance(result, Report) and result.thresholds != bank.manifest.thresholds:
        return False
    return (result.memory_bank, result.ran_on) == (bank.name, ran_on)


def _time(loader: serving.Loader, name: str, folder: Path) -> Timing:
    inspector = loader.load(name)
    durations_ms: dict[str, list[float]] = {}
    paths = image_files.find([folder / "test"])[:_TIMED_IMAGES]
    exact_search.set_threads(1)
    with terminal.progress() as progress:
        for path in progress.track([paths[0], *paths], description=name):  # the first image is a warm-up
            stopwatch = Stopwatch(lambda _, __: None)
            inspector.inspect(path.read_bytes(), image_files.content_type(path), stopwatch.stage)
            for stage, duration_ms in stopwatch.durations_ms.items():
                durations_ms.setdefault(stage, []).append(duration_ms)
            durations_ms.setdefault("whole", []).append(sum(stopwatch.durations_ms.values()))
    medians = {stage: statistics.median(values[1:] or values) for stage, values in durations_ms.items()}
    return Timing(
        category=name,
        memory_bank=inspector.bank.name,
        ran_on=RanOn.of(inspector.backbone, loader.device),
        images=len(paths),
        whole_ms=medians["whole"],
        decode_ms=medians["decode"],
        preprocess_ms=medians["preprocess"],
        inference_ms=sum(medians[stage] for stage in _INFERENCE_STAGES),
        fps=1000 / medians["whole"],
    )


def _auroc_cells(name: str, report: Report) -> list[object]:
    """Each AUROC of a category, followed by the published one."""
    auroc, auroc_topk10 = report.instance_auroc, report.instance_auroc_topk10
    if name not in PUBLISHED:
        return [auroc, "", auroc_topk10, ""]
    return [auroc, PUBLISHED[name].auroc, auroc_topk10, PUBLISHED[name].auroc_topk10]


def _model_cells(result: Report | Timing) -> list[object]:
    return [result.ran_on.model_sha256[:12], result.ran_on.precision]


def _published_ms(name: str) -> object:
    seconds = PUBLISHED[name].seconds if name in PUBLISHED else None
    return "" if seconds is None else seconds * 1000


def _write(path: Path, document: pydantic.BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")
