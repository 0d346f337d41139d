"""Finds test images that are copies of training images: they make the figures of an evaluation too good."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from patchline.protocol import image_files
from patchline.protocol.errors import SetupError


def notes(folder: Path, tests: Sequence[Path]) -> list[str]:
    """Return a sentence about the test images whose bytes are those of an image in `train`; none if there are none."""
    try:
        training = {_digest(path): path for path in image_files.find([folder / "train"])}
    except SetupError:  # there is no such folder, or no image in it
        return []
    copies = [(path, training[digest]) for path in tests if (digest := _digest(path)) in training]
    if not copies:
        return []
    path, original = copies[0]
    return [
        f"{len(copies)} of {len(tests)} test images are copies of training images, such as {path} of {original}: the "
        "figures are too good; remove them"
    ]


def _digest(path: Path) -> bytes:
    return hashlib.sha256(image_files.read(path)).digest()
