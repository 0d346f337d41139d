"""A labelled folder in MVTec layout -> how good a category's judgement is, and its worst mistakes."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import golden, serving
from patchline.devices import backbone
from patchline.evaluation import metrics
from patchline.inspection import decode, picture, preprocess
from patchline.inspection.inspector import Inspection, Inspector, untimed
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Decision, Frozen, Thresholds
from patchline.runtime import terminal

GOOD = "good"
_MISTAKES = 12


class Report(Frozen):
    """What an evaluation found; `decisions` counts by kind of image and decision."""

    category: str
    memory_bank: str
    images: int
    instance_auroc: float
    instance_auroc_topk10: float
    pixel_auroc: float | None
    aupro: float | None
    thresholds: Thresholds
    decisions: dict[str, dict[str, int]]
    false_reject_rate: float
    missed_rate: float


@dataclass(frozen=True)
class Judged:
    """An image of the test folder, what it is, and what the inspector made of it."""

    path: Path
    kind: str
    found: Inspection
    heat: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


def evaluate(settings: config.Config, name: str, folder: Path, out: Path) -> Report:
    """Judge every image below `folder/test` and compare with its label.

    Args:
        settings: the configuration.
        name: of the category; its memory bank must be there.
        folder: with `test/good`, `test/<kind>` and, where there are masks, `ground_truth/<kind>`.
        out: folder for `<category>.json` and the sheet `<category>-mistakes.png`.

    Raises:
        SetupError: the layout is another, or the category cannot be used.
    """
    inspect = serving.load(settings, [name], backbone.CPU, streams=1)[name]
    kinds = check_layout(folder)
    print(golden.compare(inspect, golden.read(settings.paths.memory_banks / name)), file=sys.stderr)
    with terminal.progress() as bars:
        paths = [(kind, path) for kind in kinds for path in image_files.find([folder / "test" / kind])]
        judged = [_judge(inspect, folder, kind, path) for kind, path in bars.track(paths, description=name)]
    report = _report(inspect, name, judged)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    mistakes = [heat_map_tile(inspect, each.kind, each.path) for each in worst(judged)]
    (out / f"{name}-mistakes.png").write_bytes(picture.encode_png(picture.contact_sheet(mistakes)))
    return report


def print_report(report: Report) -> None:
    """Print a report as tables."""
    figures = [(key, value) for key, value in report if isinstance(value, (int, float))]
    terminal.table(f"{report.category}: {report.images} images", ("measure", "value"), figures)
    rows = [(kind, *(counts[decision] for decision in Decision)) for kind, counts in report.decisions.items()]
    terminal.table("decisions at the thresholds", ("kind", *Decision), rows)


def worst(judged: list[Judged]) -> list[Judged]:
    """The good images that scored highest and the defects that scored lowest, half of the sheet each."""
    good = sorted((each for each in judged if each.kind == GOOD), key=lambda each: -each.found.score)
    defects = sorted((each for each in judged if each.kind != GOOD), key=lambda each: each.found.score)
    return good[: _MISTAKES // 2] + defects[: _MISTAKES // 2]


def check_layout(folder: Path) -> list[str]:
    """The kinds of images below `folder/test`, `good` among them.

    Raises:
        SetupError: the layout is not MVTec's: a folder is missing or empty, or only some defects of a kind have masks.
    """
    test = folder / "test"
    kinds = sorted(each.name for each in test.iterdir() if each.is_dir()) if test.is_dir() else []
    if GOOD not in kinds or len(kinds) < 2:
        raise SetupError(
            f"{folder}: needs test/good and at least one folder of defects beside it, such as test/scratch"
        )
    for kind in kinds:
        paths = image_files.find([test / kind])
        bare = [path.name for path in paths if _mask_file(folder, kind, path) is None]
        if kind != GOOD and 0 < len(bare) < len(paths):
            raise SetupError(f"{folder / 'ground_truth' / kind}: {len(bare)} masks are missing, such as for {bare[0]}")
    return kinds


def _judge(inspect: Inspector, folder: Path, kind: str, path: Path) -> Judged:
    found, heat = _look(inspect, path)
    seen = preprocess.crop_window(heat.shape, inspect.category.resize, inspect.category.imagesize).slices()
    mask = _mask(folder, kind, path, heat.shape)
    side = (inspect.category.imagesize, inspect.category.imagesize)
    small = cv2.resize(heat[seen], side, interpolation=cv2.INTER_AREA)
    if mask is None:
        return Judged(path, kind, found, small, None)
    covered = cv2.resize(mask[seen].astype(np.uint8), side, interpolation=cv2.INTER_NEAREST)
    return Judged(path, kind, found, small, covered.astype(np.bool_))


def _look(inspect: Inspector, path: Path) -> tuple[Inspection, NDArray[np.float32]]:
    """The inspection of a file, and its heat map apart: hundreds of them at full size would fill the memory."""
    try:
        found = inspect.inspect(path.read_bytes(), image_files.content_type(path), untimed, with_heat_map=True)
    except Unusable as error:
        raise SetupError(f"{path}: {error.detail}") from error
    if found.heat_map is None:
        raise SetupError(f"{path}: has no heat map")
    return dataclasses.replace(found, heat_map=None), found.heat_map


def _mask(folder: Path, kind: str, path: Path, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Ground truth as MVTec names it, `ground_truth/<kind>/<stem>_mask.png`; all normal for good images."""
    if kind == GOOD:
        return np.zeros(shape, np.bool_)
    file = _mask_file(folder, kind, path)
    if file is None:
        return None
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if mask is None or mask.shape != shape:
        raise SetupError(f"{file}: is no mask of {shape[1]} x {shape[0]} pixels, the size of {path.name}")
    return np.asarray(mask > 0)


def _mask_file(folder: Path, kind: str, path: Path) -> Path | None:
    truth = folder / "ground_truth" / kind
    names = (truth / f"{path.stem}_mask.png", truth / f"{path.stem}.png")
    return next((each for each in names if each.is_file()), None)


def _report(inspect: Inspector, name: str, judged: list[Judged]) -> Report:
    good = [each for each in judged if each.kind == GOOD]
    defects = [each for each in judged if each.kind != GOOD]
    counts = {
        kind: {str(d): sum(each.kind == kind and each.found.decision is d for each in judged) for d in Decision}
        for kind in dict.fromkeys(each.kind for each in judged)
    }
    pixel_auroc, aupro = _localisation(judged)
    return Report(
        category=name,
        memory_bank=inspect.bank.version,
        images=len(judged),
        instance_auroc=metrics.auroc(_scores(good, "max"), _scores(defects, "max")),
        instance_auroc_topk10=metrics.auroc(_scores(good, "topk10"), _scores(defects, "topk10")),
        pixel_auroc=pixel_auroc,
        aupro=aupro,
        thresholds=inspect.thresholds,
        decisions=counts,
        false_reject_rate=_share(good, Decision.FAIL),
        missed_rate=_share(defects, Decision.PASS),
    )


def _scores(judged: list[Judged], kind: str) -> NDArray[np.float32]:
    return np.array([getattr(each.found.scores, kind) for each in judged], np.float32)


def _share(judged: list[Judged], decision: Decision) -> float:
    return sum(each.found.decision is decision for each in judged) / len(judged)


def _localisation(judged: list[Judged]) -> tuple[float | None, float | None]:
    """Pixel AUROC and AUPRO, at the resolution of the crop, where every defect has a mask."""
    masked = [(each.heat, each.mask) for each in judged if each.mask is not None]
    if len(masked) < len(judged) or not any(mask.any() for _, mask in masked):
        return None, None
    heats, masks = [heat for heat, _ in masked], [mask for _, mask in masked]
    all_heat, all_mask = np.concatenate([h.ravel() for h in heats]), np.concatenate([m.ravel() for m in masks])
    return metrics.auroc(all_heat[~all_mask], all_heat[all_mask]), metrics.aupro(heats, masks)


def heat_map_tile(inspect: Inspector, kind: str, path: Path) -> picture.Tile:
    """One image with its heat map, for a sheet."""
    found, heat = _look(inspect, path)
    rgb = decode.decode(path.read_bytes(), image_files.content_type(path), inspect.limits)
    note = f"{found.decision} {found.score / inspect.thresholds.fail:.2f} of the threshold"
    return picture.Tile(picture.overlay(rgb, heat, found.regions), f"{kind}/{path.name}", note)
