"""Evaluate a category on a labelled folder in the layout of MVTec AD."""

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
from patchline.inspection import picture, score
from patchline.inspection.inspector import Inspection, Inspector, untimed
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Decision, Frozen, Thresholds
from patchline.runtime import terminal

GOOD = "good"
_SHOWN_MISTAKES = 12
_TILE_SIDE = 512  # pixels


class Report(Frozen):
    """`<category>.json`; `decisions` counts images by kind and decision."""

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
class EvaluatedImage:
    """A test image, its label and its inspection.

    Attributes:
        path: of the file.
        kind: the label, `good` or the kind of defect.
        inspection: without the heat map.
        heat_map: float32 [side, side], of the inspected crop.
        mask: bool [side, side], true on defects; None if there is no ground truth.
    """

    path: Path
    kind: str
    inspection: Inspection
    heat_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


def evaluate(settings: config.Config, name: str, folder: Path, out: Path) -> Report:
    """Inspect every image below `folder/test`, and compare the decisions with the labels.

    Args:
        settings: the configuration.
        name: of the category, which must have a memory bank.
        folder: with `test/good`, `test/<kind>` and, if there are masks, `ground_truth/<kind>`.
        out: the folder for `<category>.json` and the contact sheet `<category>-mistakes.png`.

    Raises:
        SetupError: the folder has another layout, or the category cannot be served.
    """
    kinds = check_layout(folder)
    inspector = serving.load(settings, [name], backbone.CPU, streams=1)[name]
    print(golden.compare(inspector, golden.read(settings.paths.memory_banks / name)), file=sys.stderr)
    with terminal.progress() as progress:
        paths = [(kind, path) for kind in kinds for path in image_files.find([folder / "test" / kind])]
        images = [
            _evaluate_image(inspector, folder, kind, path) for kind, path in progress.track(paths, description=name)
        ]
    report = _report(inspector, name, images)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    mistakes = [heat_map_tile(inspector, image.kind, image.path) for image in worst_mistakes(images)]
    (out / f"{name}-mistakes.png").write_bytes(picture.encode_png(picture.contact_sheet(mistakes)))
    return report


def print_report(report: Report) -> None:
    """Print a report as tables."""
    figures = [(key, value) for key, value in report if isinstance(value, (int, float))]
    terminal.table(f"{report.category}: {report.images} images", ("measure", "value"), figures)
    rows = [(kind, *(counts[decision] for decision in Decision)) for kind, counts in report.decisions.items()]
    terminal.table("decisions at the thresholds", ("kind", *Decision), rows)


def worst_mistakes(images: list[EvaluatedImage]) -> list[EvaluatedImage]:
    """The good images with the highest scores, and as many defects with the lowest scores."""
    good = sorted((image for image in images if image.kind == GOOD), key=lambda image: -image.inspection.score)
    defects = sorted((image for image in images if image.kind != GOOD), key=lambda image: image.inspection.score)
    return good[: _SHOWN_MISTAKES // 2] + defects[: _SHOWN_MISTAKES // 2]


def check_layout(folder: Path) -> list[str]:
    """Check that a folder has the layout of MVTec AD.

    Returns:
        The kinds of images below `folder/test`, `good` among them.

    Raises:
        SetupError: a folder is missing or empty, or a kind of defect has masks for some of its images only.
    """
    if not folder.is_dir():
        raise SetupError(f"no such folder: {folder}")
    test = folder / "test"
    kinds = sorted(path.name for path in test.iterdir() if path.is_dir()) if test.is_dir() else []
    if GOOD not in kinds or len(kinds) < 2:
        raise SetupError(f"{folder}: needs test/good and at least one folder of defects, such as test/scratch")
    for kind in kinds:
        paths = image_files.find([test / kind])
        without_mask = [path.name for path in paths if _mask_path(folder, kind, path) is None]
        if kind != GOOD and 0 < len(without_mask) < len(paths):
            truth = folder / "ground_truth" / kind
            raise SetupError(f"{truth}: {len(without_mask)} masks are missing, such as for {without_mask[0]}")
    return kinds


def _evaluate_image(inspector: Inspector, folder: Path, kind: str, path: Path) -> EvaluatedImage:
    inspection, heat_map = _inspect_file(inspector, path)
    mask = _read_mask(folder, kind, path, heat_map.image_shape)
    side = (inspector.category.imagesize, inspector.category.imagesize)
    resized = heat_map.interpolate(side)
    if mask is None:
        return EvaluatedImage(path, kind, inspection, resized, None)
    resized_mask = cv2.resize(mask[heat_map.window].astype(np.uint8), side, interpolation=cv2.INTER_NEAREST)
    return EvaluatedImage(path, kind, inspection, resized, resized_mask.astype(np.bool_))


def _inspect_file(inspector: Inspector, path: Path) -> tuple[Inspection, score.HeatMap]:
    """The inspection of a file without its pixels, and its heat map."""
    try:
        content_type = image_files.content_type(path)
        inspection = inspector.inspect(path.read_bytes(), content_type, untimed, with_heat_map=True)
    except Unusable as error:
        raise SetupError(f"{path}: {error.detail}") from error
    if inspection.heat_map is None:
        raise SetupError(f"{path}: has no heat map")
    return dataclasses.replace(inspection, heat_map=None, image=None), inspection.heat_map


def _read_mask(folder: Path, kind: str, path: Path, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The ground truth of an image, true on defects; None if there is no mask."""
    if kind == GOOD:
        return np.zeros(shape, np.bool_)
    mask_path = _mask_path(folder, kind, path)
    if mask_path is None:
        return None
    content = np.frombuffer(mask_path.read_bytes(), np.uint8)  # cv2 opens no file whose name is not UTF-8
    mask = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if content.size else None
    if mask is None or mask.shape != shape:
        raise SetupError(f"{mask_path}: is no mask of {shape[1]} x {shape[0]} pixels, the size of {path.name}")
    return np.asarray(mask > 0)


def _mask_path(folder: Path, kind: str, path: Path) -> Path | None:
    """`ground_truth/<kind>/<stem>_mask.png`, as MVTec names it, or `<stem>.png`."""
    truth = folder / "ground_truth" / kind
    mask_paths = (truth / f"{path.stem}_mask.png", truth / f"{path.stem}.png")
    return next((mask_path for mask_path in mask_paths if mask_path.is_file()), None)


def _report(inspector: Inspector, name: str, images: list[EvaluatedImage]) -> Report:
    good = [image for image in images if image.kind == GOOD]
    defects = [image for image in images if image.kind != GOOD]
    pixel_auroc, aupro = _localisation(images)
    return Report(
        category=name,
        memory_bank=inspector.bank.version,
        images=len(images),
        instance_auroc=metrics.auroc(_scores(good, "max"), _scores(defects, "max")),
        instance_auroc_topk10=metrics.auroc(_scores(good, "topk10"), _scores(defects, "topk10")),
        pixel_auroc=pixel_auroc,
        aupro=aupro,
        thresholds=inspector.thresholds,
        decisions=_count_decisions(images),
        false_reject_rate=_share(good, Decision.FAIL),
        missed_rate=_share(defects, Decision.PASS),
    )


def _count_decisions(images: list[EvaluatedImage]) -> dict[str, dict[str, int]]:
    return {
        kind: {
            str(decision): sum(image.kind == kind and image.inspection.decision is decision for image in images)
            for decision in Decision
        }
        for kind in dict.fromkeys(image.kind for image in images)
    }


def _scores(images: list[EvaluatedImage], kind: str) -> NDArray[np.float32]:
    return np.array([getattr(image.inspection.scores, kind) for image in images], np.float32)


def _share(images: list[EvaluatedImage], decision: Decision) -> float:
    return sum(image.inspection.decision is decision for image in images) / len(images)


def _localisation(images: list[EvaluatedImage]) -> tuple[float | None, float | None]:
    """Pixel AUROC and AUPRO at the resolution of the crop; None unless every defect has a mask."""
    masked = [(image.heat_map, image.mask) for image in images if image.mask is not None]
    if len(masked) < len(images) or not any(mask.any() for _, mask in masked):
        return None, None
    heat_maps, masks = [heat_map for heat_map, _ in masked], [mask for _, mask in masked]
    pixels = np.concatenate([heat_map.ravel() for heat_map in heat_maps])
    is_defect = np.concatenate([mask.ravel() for mask in masks])
    return metrics.auroc(pixels[~is_defect], pixels[is_defect]), metrics.aupro(heat_maps, masks)


def heat_map_tile(inspector: Inspector, kind: str, path: Path) -> picture.Tile:
    """A tile of a contact sheet: an image with its heat map, its label and its score."""
    inspection, heat_map = _inspect_file(inspector, path)
    rgb = inspector.decode(path.read_bytes(), image_files.content_type(path))
    subtitle = f"{inspection.decision} {inspection.score / inspector.thresholds.fail:.2f} of the threshold"
    return picture.Tile(picture.overlay(rgb, heat_map, inspection.regions, _TILE_SIDE), f"{kind}/{path.name}", subtitle)
