"""The images that a memory bank is made from: what is left out, and which images are held out together."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import folder_rules, looks, near_duplicates
from patchline.banks.looks import Decode, Look
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, UnreadableError
from patchline.runtime import terminal

HIDDEN = "hidden, partial, or in system folders"
EXACT_COPIES = "exact copies"
CHOSEN = "named by --leave-out"
OUTLIERS = "outliers"
_NAMED = 5  # unreadable images in an error


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
        near_duplicates: the number of images that look the same as another one.
        turned: the number of images with another EXIF orientation than most. Decoding ignores it.
        looks: what each image looks like, in the order of `paths`; empty if nobody has looked.
    """

    paths: list[Path]
    groups: NDArray[np.int64]
    left_out: list[LeftOut]
    near_duplicates: int = 0
    turned: int = 0
    looks: tuple[Look, ...] = ()

    @property
    def group_count(self) -> int:
        """The number of groups."""
        return int(self.groups.max()) + 1

    def subset(self, numbers: Sequence[int]) -> GoodImages:
        """Return some of the images by their numbers, with their groups."""
        _, groups = np.unique(self.groups[list(numbers)], return_inverse=True)
        kept = tuple(self.looks[number] for number in numbers if self.looks)
        paths = [self.paths[number] for number in numbers]
        return replace(self, paths=paths, groups=groups.astype(np.int64), looks=kept)

    def without(self, numbers: Collection[int], reason: str) -> GoodImages:
        """Leave out some of the images by their numbers."""
        rest = self.subset([number for number in range(len(self.paths)) if number not in numbers])
        left_out = [LeftOut(self.paths[number], reason) for number in sorted(numbers)]
        return replace(rest, left_out=self.left_out + left_out)

    def describe(self) -> str:
        """One line: how many images are used, in how many groups."""
        text = f"{len(self.paths)} good images"
        if self.group_count < len(self.paths):
            text += f" in {self.group_count} groups"
        if self.near_duplicates:
            text += f", with {self.near_duplicates} near-duplicates"
        return text

    def report(self) -> str:
        """Several lines: what is used, what is left out for which reason, and what a person should look at."""
        lines, by_reason = [self.describe()], dict[str, list[Path]]()
        for left_out in self.left_out:
            by_reason.setdefault(left_out.reason, []).append(left_out.path)
        lines += [f"left out: {len(paths)} {reason}, such as {paths[0]}" for reason, paths in by_reason.items()]
        if self.turned:
            lines.append(
                f"{self.turned} images have another EXIF orientation than most. It is ignored: see that all parts lie "
                "the same way in the pixels, as they will on the line"
            )
        return "\n".join(lines)


def collect(folder: Path, category: config.Category, decode: Decode, left_out: Collection[str] = ()) -> GoodImages:
    """Find the good images of a folder, leave out copies and thumbnails, and group those that belong together.

    Args:
        folder: of good images; subfolders are searched too.
        category: its `group_by` and `group_table` name the groups. Without them, each image is a group. Groups with
            near-duplicates become one, unless `near_duplicates` is `ignore`.
        decode: returns the pixels of an image, uint8 [height, width, 3].
        left_out: names of images that a person leaves out, relative to the folder. They need not be readable.

    Raises:
        SetupError: there is no image, some cannot be decoded, some are tests, defects or masks, or `group_by` or
            `group_table` does not fit all of them.
    """
    files = image_files.find([folder])
    folder_rules.require_good_only(folder, files)
    looked_at, unreadable = _look_at(folder, files, decode, left_out)
    images, copies = _without_copies(looked_at)
    folder_rules.require_no_masks([image.path for image in images], [image.is_mask for image in images])
    pairs = near_duplicates.find([image.detail for image in images], lambda number: decode(images[number].path))
    small = looks.small_images(images, pairs)
    groups = _name_groups(folder, [image.path for image in images], category)
    if category.near_duplicates == "group":
        groups = _join(groups, pairs)
    kept = [number for number in range(len(images)) if number not in small]
    others = copies + unreadable + [LeftOut(images[number].path, reason) for number, reason in small.items()]
    alike = {number for pair in pairs if not small.keys() & pair for number in pair}
    return GoodImages(
        [image.path for image in images],
        groups,
        others + _other_files(folder, category),
        near_duplicates=len(alike),
        turned=looks.turned(images[number].orientation for number in kept),
        looks=tuple(images),
    ).subset(kept)


def relative_name(path: Path, folder: Path) -> str:
    """The path of an image below its folder, or its name if the folder is the image itself."""
    return path.relative_to(folder).as_posix() if path != folder else path.name


def _look_at(
    folder: Path, files: list[Path], decode: Decode, left_out: Collection[str]
) -> tuple[list[Look], list[LeftOut]]:
    """Look at each image. Return those that can be decoded, and those that cannot and are left out by a person."""
    images, unreadable, errors = [], [], {}
    with terminal.progress() as progress:
        for path in progress.track(files, description="images"):
            try:
                images.append(Look.of(path, decode(path)))
            except UnreadableError as error:
                if relative_name(path, folder) in left_out:
                    unreadable.append(LeftOut(path, CHOSEN))
                else:
                    errors[relative_name(path, folder)] = error
    if errors:
        names = list(errors)[:_NAMED]
        raise SetupError(
            f"{len(errors)} of {len(files)} images cannot be read: {'; '.join(str(errors[name]) for name in names)}"
            f"{'; ...' if len(errors) > _NAMED else ''}. Repair each or remove it from the folder, or leave it out: "
            f"{' '.join(f'--leave-out {shlex.quote(name)}' for name in names)}"
        )
    return images, unreadable


def _other_files(folder: Path, category: config.Category) -> list[LeftOut]:
    """The files below a folder that are no images to be used: hidden ones, and those of other formats."""
    others = [path for path in image_files.not_read(folder) if path != category.group_table]
    kinds = [LeftOut(path, f"{path.suffix.lower() or 'nameless'} files, which are not read") for path in others]
    return [LeftOut(path, HIDDEN) for path in image_files.left_out(folder)] + kinds


def _without_copies(images: list[Look]) -> tuple[list[Look], list[LeftOut]]:
    """The images, each picture once, and the others with the same pixels, also in another file format."""
    first: dict[bytes, Look] = {}
    copies = [image for image in images if first.setdefault(image.sha256, image) is not image]
    return list(first.values()), [LeftOut(image.path, EXACT_COPIES) for image in copies]


def _name_groups(folder: Path, paths: list[Path], category: config.Category) -> NDArray[np.int64]:
    _, groups = np.unique(
        group_keys(folder, [relative_name(path, folder) for path in paths], category), return_inverse=True
    )
    return groups.astype(np.int64)


def _join(groups: NDArray[np.int64], pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """The groups, with one group for the groups of each pair."""
    joined = groups.copy()
    for first, second in pairs:
        joined[joined == joined[second]] = joined[first]
    return joined


def group_keys(folder: Path, relative: Sequence[str], category: config.Category) -> Sequence[str]:
    """The name of the group of each image.

    Args:
        folder: of the images, for the error.
        relative: the paths of the images below it.
        category: with `group_by` or `group_table`.

    Raises:
        SetupError: an image has no group.
    """
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
            f"{source} names no group for {len(missing)} of {len(relative)} images, such as {missing[0]}; "
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
