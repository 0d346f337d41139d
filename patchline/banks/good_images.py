"""The images that a memory bank is made from: what is left out, and which images are held out together."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError

EXACT_COPIES = "exact copies"
CHOSEN = "chosen"
OUTLIERS = "outliers"


@dataclass(frozen=True)
class LeftOut:
    """An image that is not used, and the kind of images that it belongs to, such as `exact copies`."""

    path: Path
    reason: str


@dataclass(frozen=True)
class GoodImages:
    """The images of good parts that are used.

    Attributes:
        paths: of the images.
        groups: int64 [images], the number of the group of each image, from 0 without gaps. The images of a group show
            one part, so they are held out together.
        left_out: the other images of the folder.
    """

    paths: list[Path]
    groups: NDArray[np.int64]
    left_out: list[LeftOut]

    @property
    def group_count(self) -> int:
        """The number of groups."""
        return int(self.groups.max()) + 1

    def subset(self, numbers: Sequence[int]) -> GoodImages:
        """Return some of the images by their numbers, with their groups."""
        _, groups = np.unique(self.groups[list(numbers)], return_inverse=True)
        return GoodImages([self.paths[number] for number in numbers], groups.astype(np.int64), self.left_out)

    def without(self, numbers: Collection[int], reason: str) -> GoodImages:
        """Leave out some of the images by their numbers."""
        rest = self.subset([number for number in range(len(self.paths)) if number not in numbers])
        left_out = [LeftOut(self.paths[number], reason) for number in sorted(numbers)]
        return replace(rest, left_out=self.left_out + left_out)

    def describe(self) -> str:
        """One line: how many images are used, in how many groups, and how many are left out for which reason."""
        text = f"{len(self.paths)} good images"
        if self.group_count < len(self.paths):
            text += f" in {self.group_count} groups"
        by_reason: dict[str, list[Path]] = {}
        for left_out in self.left_out:
            by_reason.setdefault(left_out.reason, []).append(left_out.path)
        reasons = [f"{reason} ({len(paths)}, such as {paths[0]})" for reason, paths in by_reason.items()]
        return f"{text}; left out: {', '.join(reasons)}" if reasons else text


def collect(folder: Path, category: config.Category) -> GoodImages:
    """Find the good images of a folder, leave out exact copies, and group the others.

    Args:
        folder: of good images; subfolders are searched too.
        category: its `group_by` and `group_table` name the groups. Without them, each image is a group.

    Raises:
        SetupError: there is no image, or `group_by` or `group_table` does not fit all of them.
    """
    paths, copies = _without_copies(image_files.find([folder]))
    _, groups = np.unique(_keys(folder, paths, category), return_inverse=True)
    return GoodImages(paths, groups.astype(np.int64), copies)


def relative_name(path: Path, folder: Path) -> str:
    """The path of an image below its folder, or its name if the folder is the image itself."""
    return path.relative_to(folder).as_posix() if path != folder else path.name


def _without_copies(paths: list[Path]) -> tuple[list[Path], list[LeftOut]]:
    """The images, each content once, and the other files with the same content."""
    first: dict[bytes, Path] = {}
    copies = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
        if first.setdefault(hashlib.sha256(content).digest(), path) is not path:
            copies.append(LeftOut(path, EXACT_COPIES))
    return list(first.values()), copies


def _keys(folder: Path, paths: list[Path], category: config.Category) -> list[str]:
    """The name of the group of each image."""
    relative = [relative_name(path, folder) for path in paths]
    if category.group_table is not None:
        table = _read_table(category.group_table)
        keys, source = [table.get(name) for name in relative], str(category.group_table)
    elif category.group_by is not None:
        pattern = re.compile(category.group_by)
        matches = [pattern.search(name) for name in relative]
        keys, source = [match and match[1] for match in matches], f"group_by {category.group_by!r}"
    else:
        return relative
    missing = [name for name, key in zip(relative, keys, strict=True) if not key]
    if missing:
        raise SetupError(
            f"{source} names no group for {len(missing)} of {len(paths)} images, such as {missing[0]}; "
            f"the paths are relative to {folder}"
        )
    return [str(key) for key in keys]


def _read_table(path: Path) -> dict[str, str]:
    """The group of each path of a CSV file with the columns `path` and `group`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"group_table {path}: cannot be read ({error})") from error
    if not rows or not {"path", "group"} <= rows[0].keys():
        raise SetupError(f"group_table {path}: needs the first line path,group, then a line for each image")
    return {row["path"]: row["group"] for row in rows}
