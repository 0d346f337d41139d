"""Evaluate a category on labelled images, in any layout of `patchline.evaluation.datasets`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from patchline.banks import golden, serving
from patchline.evaluation import datasets, masks, page, report, seeds, train_copies
from patchline.evaluation.datasets import Dataset, LabelledImage
from patchline.evaluation.pixel_counts import Defect, PixelCounts, PixelStatistics
from patchline.evaluation.ran_on import RanOn
from patchline.evaluation.report import JudgedImage, Report
from patchline.inspection import image_header, picture, score
from patchline.inspection.inspector import Inspection, Inspector, untimed
from patchline.protocol import image_files
from patchline.protocol.errors import Retry, SetupError, Unusable
from patchline.runtime import terminal

_SHOWN_MISTAKES = 12
_TILE_SIDE = 512  # pixels


def evaluate(loader: serving.Loader, name: str, folder: Path, out: Path, seed_count: int = 1) -> Report:
    """Inspect every labelled image of a folder, and compare the decisions with the labels.

    Args:
        loader: of inspectors, for the device that serves.
        name: of the category, which must have a memory bank.
        folder: of the category, in one of the layouts of `datasets`.
        out: the folder for `<category>.json`, `<category>.html` and the contact sheet `<category>-mistakes.png`.
        seed_count: of memory banks that are compared. If 1, only the served one is judged.

    Raises:
        SetupError: the folder has an unknown layout, an image or a mask cannot be used, the category is not served, or
            its good images cannot be used for other seeds.
    """
    dataset = datasets.read(folder)
    inspector = loader.load(name)
    ran_on = RanOn.of(inspector.backbone, loader.device)
    bank_folder = loader.settings.paths.memory_banks / name
    train_copies.note_copies(dataset, folder, bank_folder)
    print(golden.compare(inspector, golden.read(bank_folder)), file=sys.stderr)
    images, pixels = [], PixelStatistics()
    with terminal.progress() as progress:
        spread = (
            seeds.evaluate(loader.settings, inspector, dataset.images, seed_count, progress) if seed_count > 1 else None
        )
        for labelled in progress.track(dataset.images, description=name):
            judged, counts = _judge(inspector, dataset, labelled)
            images.append(judged)
            if counts is not None:
                pixels.add(labelled.kind, counts)
    result = report.make(inspector, ran_on, dataset, images, pixels, spread)
    mistakes = worst_mistakes(images)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    tiles = [heat_map_tile(inspector, image.kind, image.path) for image in mistakes]
    (out / f"{name}-mistakes.png").write_bytes(picture.encode_png(picture.contact_sheet(tiles)))
    (out / f"{name}.html").write_text(page.make(inspector, bank_folder, result, images, mistakes), encoding="utf-8")
    return result


def worst_mistakes(images: list[JudgedImage]) -> list[JudgedImage]:
    """The good images with the highest scores, and as many defects with the lowest scores."""
    good = sorted((image for image in images if image.is_good), key=lambda image: -image.score)
    defects = sorted((image for image in images if not image.is_good), key=lambda image: image.score)
    return good[: _SHOWN_MISTAKES // 2] + defects[: _SHOWN_MISTAKES // 2]


def heat_map_tile(inspector: Inspector, kind: str, path: Path) -> picture.Tile:
    """A tile of a contact sheet: an image with its heat map, its label and its score."""
    inspection, heat_map, rgb = inspect_file(inspector, path)
    subtitle = f"{inspection.decision} {report.of_threshold(inspection.score, inspector.thresholds)}"
    overlay = picture.overlay(rgb, heat_map, inspection.regions, _TILE_SIDE)
    return picture.Tile(overlay, f"{kind}/{path.name}", subtitle)


def _judge(inspector: Inspector, dataset: Dataset, image: LabelledImage) -> tuple[JudgedImage, PixelCounts | None]:
    """Judge an image. Its pixels are counted if it is good or has masks."""
    inspection, heat_map, _ = inspect_file(inspector, image.path)
    judged = JudgedImage(image.path, image.kind, inspection.decision, inspection.score, inspection.scores)
    if not judged.is_good and not image.masks:
        return judged, None
    side = inspector.category.imagesize
    values = heat_map.interpolate((side, side))
    defects = _defects(dataset, image, heat_map, side)
    if not judged.is_good and not any(item.mask.any() for item in defects):
        dataset.notes.append(f"{image.masks[0]}: marks nothing inside the inspected window")
    return judged, PixelCounts.of_image(values, defects)


def _defects(dataset: Dataset, image: LabelledImage, heat_map: score.HeatMap, side: int) -> list[Defect]:
    """The defects of an image at the size of the input of the backbone."""
    orientation = image_header.orientation(image.path.read_bytes()) if image.masks else 1
    defects = []
    for path in image.masks:
        values = masks.read(path, heat_map.image_shape, orientation)
        small = masks.shrink(values[heat_map.window] > 0, (side, side))
        area = int(np.count_nonzero(values))
        defects.append(Defect(small, _saturation(dataset, path, int(values.max()), area) * int(small.sum())))
    return defects


def _saturation(dataset: Dataset, path: Path, value: int, area: int) -> float:
    """The share of its pixels that a defect has to be found with, for sPRO."""
    if not dataset.saturations or not area:
        return 1.0
    if value not in dataset.saturations:
        raise SetupError(f"{path}: has pixels of {value}, which defects_config.json does not know")
    saturation = dataset.saturations[value]
    # As in MVTec's evaluation: at least one pixel, at most the defect.
    pixels = int(saturation.threshold * area) if saturation.relative else saturation.threshold
    return min(max(pixels, 1), area) / area


def inspect_file(inspector: Inspector, path: Path) -> tuple[Inspection, score.HeatMap, picture.Picture]:
    """Inspect a file, again if the device fails: the inspection without its pixels, its heat map, and its pixels.

    Raises:
        SetupError: the file cannot be inspected, or the device failed three times in a row.
    """
    inspection = _inspect(inspector, path, attempts=3)
    if inspection.heat_map is None or inspection.image is None:
        raise SetupError(f"{path}: has no heat map")
    return (
        dataclasses.replace(inspection, heat_map=None, image=None, patches=None),
        inspection.heat_map,
        inspection.image,
    )


def _inspect(inspector: Inspector, path: Path, attempts: int) -> Inspection:
    try:
        content_type = image_files.content_type(path)
        return inspector.inspect(image_files.read(path), content_type, untimed, with_heat_map=True)
    except Unusable as error:
        raise SetupError(f"{path}: {error.detail}") from error
    except Retry as error:
        if attempts == 1:
            raise SetupError(f"{path}: {error.detail}") from error
        return _inspect(inspector, path, attempts - 1)
