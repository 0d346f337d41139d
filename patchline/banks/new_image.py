"""A picture that shall be added to a memory bank: the rules of `good_images`, against the pictures of the bank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import folder_rules, good_images, looks, near_duplicates
from patchline.banks.folds import Folds
from patchline.banks.growth import NewImage
from patchline.banks.looks import Decode, Look
from patchline.protocol.errors import SetupError


def look_at(path: Path, rgb: NDArray[np.uint8], folds: Folds, category: config.Category, decode: Decode) -> NewImage:
    """Look at a picture: what is it called in the bank, and which group does it join?

    Args:
        path: of the picture.
        rgb: uint8 [height, width, 3].
        folds: of the bank.
        category: with `group_by`, `group_table` and `near_duplicates`.
        decode: returns the pixels of a picture of the bank.

    Raises:
        SetupError: it is a copy, a thumbnail or a mask, its name says that it is no good part, a picture of that name
            is in the bank, it has no group, or it belongs to several groups of the bank.
    """
    folder = fitted_folder(folds)
    below = path.is_relative_to(folder)
    name = good_images.relative_name(path, folder) if below else path.name
    folder_rules.require_good_only(folder if below else path.parent, [path])
    look = Look.of(path, rgb)
    for number, other in enumerate(folds.looks):
        if other.sha256 == look.sha256:
            raise SetupError(f"{path}: shows the same pixels as {folds.names[number]}, which is in the memory bank")
    if name in folds.names:
        raise SetupError(f"{path}: another picture of the name {name} is in the memory bank; rename it")
    everything = [*folds.looks, look]
    folder_rules.require_no_masks([each.path for each in everything], [each.is_mask for each in everything])

    def read(number: int) -> NDArray[np.uint8]:
        return decode(folds.looks[number].path) if number < len(folds.looks) else rgb

    return NewImage(name, look, _group(name, folder, everything, folds, category, read))


def fitted_folder(folds: Folds) -> Path:
    """The folder that the first image was fitted from."""
    path, name = folds.looks[0].path, Path(folds.names[0])
    return path.parents[len(name.parts) - 1]


def _group(
    name: str,
    folder: Path,
    everything: list[Look],
    folds: Folds,
    category: config.Category,
    read: Callable[[int], NDArray[np.uint8]],
) -> int | None:
    """The number of the group of the last picture; None for a group of its own."""
    path, last = everything[-1].path, len(everything) - 1
    details = [look.detail for look in everything]
    pairs = near_duplicates.find(details, read, of=last)
    small = looks.small_images(everything, pairs).get(last)
    if small is not None:
        raise SetupError(f"{path}: is one of those that a fit leaves out as {small}; leave it out")
    keys = good_images.group_keys(folder, [*folds.names, name], category)
    members = {number for number in range(last) if keys[number] == keys[last]}
    if category.near_duplicates == "group":
        members |= {first for first, _ in pairs}
    groups = {int(folds.groups[number]) for number in members}
    if len(groups) > 1:
        alike = ", ".join(folds.names[number] for number in sorted(members)[:3])
        raise SetupError(
            f"{path}: belongs to several images or groups of the memory bank ({alike}), which would become one; "
            "leave it out, or fit again"
        )
    return groups.pop() if groups else None
