"""What is remembered of a good image, to tell a copy, a thumbnail or a near-duplicate of it from another part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchline.banks import folder_rules, near_duplicates
from patchline.inspection import image_header
from patchline.protocol import image_files

THUMBNAILS = "thumbnails of other images"
MUCH_SMALLER = "much smaller than the others"
_THUMBNAIL = 0.5  # of the sides of its picture, at most
_MUCH_SMALLER = 0.25  # of the median of the sides, at most
Decode = Callable[[Path], NDArray[np.uint8]]


@dataclass(frozen=True)
class Look:
    """The digest of the pixels of an image, its sides in pixels, and what it looks like.

    `orientation` is its EXIF tag; 1 is upright.
    """

    path: Path
    sha256: bytes
    sides: tuple[int, int]
    detail: near_duplicates.Detail
    is_mask: bool
    orientation: int

    @classmethod
    def of(cls, path: Path, rgb: NDArray[np.uint8]) -> Look:
        """Look at an image, uint8 [height, width, 3]."""
        sides = (rgb.shape[0], rgb.shape[1])
        orientation = image_header.orientation(image_files.read(path))
        return cls(path, digest(rgb), sides, near_duplicates.detail(rgb), folder_rules.is_mask(rgb), orientation)


def digest(rgb: NDArray[np.uint8]) -> bytes:
    """The SHA-256 of the pixels of an image, uint8 [height, width, 3], and of their shape."""
    return hashlib.sha256(str(rgb.shape).encode() + rgb.tobytes()).digest()


def turned(orientations: Iterable[int]) -> int:
    """How many images have another orientation than most."""
    counts = np.bincount(list(orientations))
    return int(counts.sum() - counts.max())


def small_images(looks: Sequence[Look], pairs: list[tuple[int, int]]) -> dict[int, str]:
    """The numbers of the images that are too small to be meant, each with its reason.

    Args:
        looks: of all images.
        pairs: of near-duplicates.
    """
    sides = np.array([look.sides for look in looks])
    small = {
        int(number): MUCH_SMALLER for number in np.flatnonzero(_is_within(sides, np.median(sides, 0), _MUCH_SMALLER))
    }
    for pair in pairs:
        for thumbnail, picture in (pair, pair[::-1]):
            if _is_within(sides[thumbnail], sides[picture], _THUMBNAIL):
                small[thumbnail] = THUMBNAILS
    return small


def _is_within(sides: NDArray[np.int64], others: NDArray[Any], share: float) -> NDArray[np.bool_]:
    return np.asarray((sides <= share * others).all(axis=-1))
