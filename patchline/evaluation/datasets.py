"""Labelled images: the layouts of public data sets, read into one list of images, labels and masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from patchline.evaluation.mask_files import MaskFolder
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError

GOOD = "good"
_GOOD_NAMES = ("good", "ok", "normal")  # in lower case
_KNOWN_FOLDERS = {"train", "validation", "val", "test", "ground_truth"}
ROOT_HELP = "test/good, test/<kind of defect> and, for masks, ground_truth/<kind of defect>"


@dataclass(frozen=True)
class Saturation:
    """How many pixels of a kind of defect have to be found, for sPRO: a number, or a share of its pixels."""

    threshold: float
    relative: bool


@dataclass(frozen=True)
class LabelledImage:
    """An image, its label and the files of its masks: one for each defect, or none if there is no ground truth."""

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the label says good."""
        return self.kind == GOOD


@dataclass
class Dataset:
    """The labelled images of one category.

    Attributes:
        layout: the name of the data set that has this layout.
        images: good ones first.
        notes: what is in the folder and is not used, one sentence each.
        images_in_fit: the number of images that the evaluated memory bank was fitted with; None if that is not known.
        saturations: by the value of the pixels in a mask; empty unless the layout has them.
    """

    layout: str
    images: list[LabelledImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images_in_fit: int | None = None
    saturations: dict[int, Saturation] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        """The labels in order, `good` first."""
        return list(dict.fromkeys(image.kind for image in self.images))


class Layout(NamedTuple):
    """A layout: its name, whether a folder has it, and how it is read."""

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Dataset], None]


def read(folder: Path) -> Dataset:
    """Find the labelled images of one category.

    Args:
        folder: of the category, in one of the `LAYOUTS`.

    Raises:
        SetupError: the folder has no known layout, lacks good images or defects, or some of its masks fit no image.
    """
    if not folder.is_dir():
        raise SetupError(f"no such folder: {folder}")
    layout = next((layout for layout in LAYOUTS if layout.fits(folder)), None)
    if layout is None:
        names = ", ".join(layout.name for layout in LAYOUTS)
        raise SetupError(f"{folder}: needs {ROOT_HELP}, or the layout of one of {names}")
    dataset = Dataset(layout.name)
    layout.read(folder, dataset)
    dataset.images.sort(key=lambda image: image.kind != GOOD)  # stable: the order of the kinds stays
    kinds = dataset.kinds
    if GOOD not in kinds or len(kinds) < 2:
        raise SetupError(f"{folder}: needs test/good and at least one folder of defects, such as test/scratch")
    without_masks = [kind for kind in kinds if kind != GOOD and not _has_masks(dataset, kind)]
    if without_masks and len(without_masks) < len(kinds) - 1:
        dataset.notes.append(f"no masks for {', '.join(without_masks)}: left out of the pixel figures")
    return dataset


def _has_masks(dataset: Dataset, kind: str) -> bool:
    return any(image.masks for image in dataset.images if image.kind == kind)


def _read_folders(test: Path, truth: Path, dataset: Dataset) -> None:
    """Read `test/<kind>` with masks in `ground_truth/<kind>`."""
    for kind_folder in _folders(test):
        if kind_folder == truth:
            continue
        images = image_files.find([kind_folder]) if _has_images(kind_folder) else []
        if not images:
            dataset.notes.append(f"{kind_folder}: has no image")
        is_good = kind_folder.name.lower() in _GOOD_NAMES
        kind = GOOD if is_good else kind_folder.name
        masks = {} if is_good else MaskFolder(truth / kind_folder.name, kind_folder).match(images, dataset.notes)
        dataset.images += [LabelledImage(path, kind, masks.get(path, ())) for path in images]
        _note_other_files(kind_folder, dataset)
    known = {folder.name for folder in _folders(test)}
    dataset.notes += [
        f"{folder}: not used, there is no {test / folder.name}"
        for folder in (_folders(truth) if truth.is_dir() else [])
        if folder.name not in known and folder.name.lower() not in _GOOD_NAMES
    ]


def _read_mvtec(folder: Path, dataset: Dataset) -> None:
    _read_folders(folder / "test", folder / "ground_truth", dataset)
    dataset.notes += [f"{extra}: not used" for extra in _folders(folder) if extra.name.lower() not in _KNOWN_FOLDERS]


def _read_mvtec_2(folder: Path, dataset: Dataset) -> None:
    test = folder / "test_public"
    _read_folders(test, test / "ground_truth", dataset)
    private = [path.name for path in _folders(folder) if path.name.startswith("test_private")]
    dataset.notes += [f"{folder / name}: not used, it has no labels" for name in private]


def _read_loco(folder: Path, dataset: Dataset) -> None:
    _read_mvtec(folder, dataset)
    path = folder / "defects_config.json"
    try:
        for entry in _read_json(path):
            saturation = Saturation(float(entry["saturation_threshold"]), bool(entry["relative_saturation"]))
            dataset.saturations[int(entry["pixel_value"])] = saturation
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{path}: is no list of defects with saturation thresholds: {error!r}") from error


def _read_visa(folder: Path, dataset: Dataset) -> None:
    """VisA: `split_csv/1cls.csv` beside the category names the test images; without it, all are test images."""
    kinds = _visa_kinds(folder)
    split = folder.parent / "split_csv" / "1cls.csv"
    if split.is_file():
        rows = [row for row in _read_csv(split) if row["object"] == folder.name and row["split"] == "test"]
        for row in rows:
            path, mask = folder.parent / row["image"], folder.parent / row["mask"]
            kind = GOOD if row["label"] == "normal" else kinds.get(path.name, row["label"])
            dataset.images.append(LabelledImage(path, kind, (mask,) if row["mask"] else ()))
        return
    dataset.notes.append(f"{split}: missing, so all images are test images; fit on others")
    images, masks = folder / "Data" / "Images", folder / "Data" / "Masks"
    good = image_files.find([images / "Normal"])
    defects = image_files.find([images / "Anomaly"])
    matched = MaskFolder(masks / "Anomaly", images / "Anomaly").match(defects, dataset.notes)
    dataset.images += [LabelledImage(path, GOOD) for path in good]
    dataset.images += [LabelledImage(path, kinds.get(path.name, "anomaly"), matched.get(path, ())) for path in defects]


def _visa_kinds(folder: Path) -> dict[str, str]:
    """The kinds of defect by the name of the image, from `image_anno.csv`; several of one image are `combined`."""
    path = folder / "image_anno.csv"
    rows = _read_csv(path) if path.is_file() else []
    kinds = {Path(row["image"]).name: row["label"] for row in rows if row["label"] != "normal"}
    return {name: "combined" if "," in kind else kind for name, kind in kinds.items()}


def _read_real_iad(folder: Path, dataset: Dataset) -> None:
    """Real-IAD: a JSON file of the category lists the test images and their masks."""
    path = _real_iad_list(folder)
    if path is None:
        raise SetupError(f"{folder}: has no list of images")
    try:
        document = _read_json(path)
        normal = document["meta"]["normal_class"]
        for entry in document["test"]:
            mask = entry.get("mask_path")
            kind = GOOD if entry["anomaly_class"] == normal else str(entry["anomaly_class"])
            dataset.images.append(
                LabelledImage(folder / entry["image_path"], kind, (folder / mask,) if mask and kind != GOOD else ())
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"{path}: is no list of Real-IAD: {error!r}") from error


def _real_iad_list(folder: Path) -> Path | None:
    """The list of a category: beside its images, or in the folder `realiad_jsons` of the data set."""
    name = f"{folder.name}.json"
    lists = folder.parent.parent / "realiad_jsons"
    candidates = (folder / name, folder.parent / name, lists / name, lists / "realiad_jsons" / name)
    return next((path for path in candidates if path.is_file()), None)


def _note_other_files(folder: Path, dataset: Dataset) -> None:
    others = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not image_files.has_image_suffix(path.name) and not image_files.is_left_out(path.name)
    ]
    if others:
        dataset.notes.append(f"{folder}: {len(others)} files are no images, such as {others[0].name}")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not image_files.is_left_out(path.name))


def _has_images(folder: Path) -> bool:
    return any(image_files.has_image_suffix(path.name) for path in folder.rglob("*"))


def _has_subfolder(folder: Path, names: Sequence[str]) -> bool:
    return folder.is_dir() and any(path.name.lower() in names for path in _folders(folder))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path}: is no JSON file: {error}") from error


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"{path}: is no CSV file: {error}") from error


LAYOUTS = (
    Layout("MVTec AD 2", lambda folder: (folder / "test_public").is_dir(), _read_mvtec_2),
    Layout("VisA", lambda folder: (folder / "Data" / "Images").is_dir(), _read_visa),
    Layout("MVTec LOCO AD", lambda folder: (folder / "defects_config.json").is_file(), _read_loco),
    Layout("BTAD", lambda folder: _has_subfolder(folder / "test", ("ok",)), _read_mvtec),
    Layout("MVTec AD", lambda folder: (folder / "test").is_dir(), _read_mvtec),
    Layout("Real-IAD", lambda folder: _real_iad_list(folder) is not None, _read_real_iad),
)
