"""Finds test images that are copies of training images: they make the figures of an evaluation too good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from patchline.banks.row_origins import RowOrigins
from patchline.evaluation.datasets import Dataset
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError

_ADVICE = "the figures are too good; remove them"


def note_copies(dataset: Dataset, folder: Path, bank_folder: Path) -> None:
    """Note how many test images have the bytes of an image that the bank was fitted with, or of one in `train`.

    Sets `dataset.images_in_fit`: None if the images of the fit are not known, or not where `fit` read them.

    Args:
        dataset: the test images.
        folder: of the category.
        bank_folder: of the memory bank that is evaluated.
    """
    tests = {image.path: _digest(image.path) for image in dataset.images}
    good = {image.path for image in dataset.images if image.is_good}
    fitted = _digests(_fitted_with(bank_folder))
    in_fit = [path for path, digest in tests.items() if digest in fitted]
    dataset.images_in_fit = len(in_fit) if fitted else None
    if in_fit:
        dataset.notes.append(
            f"{len(in_fit)} of {len(tests)} test images were in the fit of this bank, {len(good.intersection(in_fit))} "
            f"of them as good ones, such as {in_fit[0]} of {fitted[tests[in_fit[0]]]}: {_ADVICE}"
        )
    training = _digests(_training_images(folder))
    copies = [path for path, digest in tests.items() if digest in training]
    if copies:
        dataset.notes.append(
            f"{len(copies)} of {len(tests)} test images are copies of training images, such as {copies[0]} of "
            f"{training[tests[copies[0]]]}: {_ADVICE}"
        )


def _fitted_with(bank_folder: Path) -> Sequence[Path]:
    origins = RowOrigins.load(bank_folder)
    return () if origins is None else [path for path in origins.paths if path.is_file()]


def _training_images(folder: Path) -> Sequence[Path]:
    try:
        return image_files.find([folder / "train"])
    except SetupError:  # there is no such folder, or no image in it
        return ()


def _digests(paths: Iterable[Path]) -> dict[bytes, Path]:
    return {_digest(path): path for path in paths}


def _digest(path: Path) -> bytes:
    return hashlib.sha256(image_files.read(path)).digest()
