"""Single good images are added to a memory bank and removed from it, with the thresholds of the same folds and rows."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patchline import config
from patchline.banks import growth
from patchline.banks.folds import Folds
from patchline.banks.held_out import FILE as HELD_OUT_FILE
from patchline.banks.open_bank import Outlier, open_bank
from patchline.banks.recipe import printable
from patchline.devices import backbone
from patchline.inspection.memory_bank import BankManifest, Change
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError


@dataclass(frozen=True)
class Changed:
    """What a change did.

    Attributes:
        before: the manifest.
        after: the manifest.
        lines: what happened to each image, in words.
        judged_again: the number of other images whose pictures were read again.
    """

    before: BankManifest
    after: BankManifest
    lines: list[str]
    judged_again: int


def add(
    settings: config.Config,
    name: str,
    images: Sequence[Path],
    change: Change,
    device: backbone.Device = backbone.CPU,
    accepted: Collection[Path] = (),
    out: Path = Path("out"),
    output: Path | None = None,
) -> Changed:
    """Add good images to the bank of a category, all of them or none.

    Args:
        settings: the configuration.
        name: of the category.
        images: files, and folders of them, which are added in this order.
        change: who and why.
        device: the device that serves.
        accepted: images that are added although they stand out.
        out: the folder for the contact sheet of those that stand out.
        output: the folder of the new bank, which is made; None to replace the bank.

    Raises:
        OutliersError: images stand out from those of the bank, and nobody has accepted them.
        SetupError: the bank keeps nothing to add with, or does not fit the configuration; or an image breaks a rule of
            `fit`.
    """
    paths = [path.absolute() for path in image_files.find(images)]
    chosen = {path.absolute() for path in accepted}
    for path in chosen.difference(paths):
        raise SetupError(f"{path}: is accepted, but is none of the images to add")
    with open_bank(settings, name, device, output) as opened:
        opened.require_candidates()
        lines, outlying, judged_again = list[str](), list[Outlier](), 0
        for path in paths:
            larger, line, outlier, count = opened.with_image(path)
            if outlier is not None and path not in chosen:
                outlying.append(outlier)
                continue
            opened, judged_again = larger if outlier is None else larger.accepting(), judged_again + count
            lines.append(line)
        if outlying:
            opened.refuse(outlying, out)
        names = opened.folds.names[-len(paths) :]
        after = opened.save(change.model_copy(update={"added": tuple(map(printable, names))}), output)
        return Changed(opened.bank.manifest, after, lines, judged_again)


def remove(
    settings: config.Config,
    name: str,
    images: Sequence[str],
    change: Change,
    device: backbone.Device = backbone.CPU,
    output: Path | None = None,
) -> Changed:
    """Remove images from the bank of a category, all of them or none.

    Args:
        settings: the configuration.
        name: of the category.
        images: names of images in the bank.
        change: who and why.
        device: the device that serves.
        output: the folder of the new bank, which is made; None to replace the bank.

    Raises:
        SetupError: the bank keeps nothing to remove with, or does not fit the configuration; an image is not in it; or
            too few would be left.
    """
    with open_bank(settings, name, device, output) as opened:
        folds = opened.folds
        numbers = {image: _number(folds, image) for image in images}
        rows = {image: int((folds.rows.image[folds.rows.members[0]] == each).sum()) for image, each in numbers.items()}
        shrunk, stale = growth.remove(folds, numbers.values())
        opened = replace(opened, folds=shrunk).judging_again(stale)
        removed = tuple(printable(folds.names[number]) for number in numbers.values())
        after = opened.save(change.model_copy(update={"removed": removed}), output)
        lines = [f"removed {printable(image)}: {count} rows" for image, count in rows.items()]
        return Changed(opened.bank.manifest, after, lines, len(stale))


def now() -> str:
    """The time of a change."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _number(folds: Folds, image: str) -> int:
    if image in folds.names:
        return folds.names.index(image)
    near = difflib.get_close_matches(image, folds.names, 1) or [
        name for name in folds.names if Path(name).name == Path(image).name
    ]
    meant = f"; {near[0]} is" if near else ""
    raise SetupError(f"{image}: is not in the memory bank{meant}. {HELD_OUT_FILE} of the bank lists all names")
