"""Good images whose depth is not clear are refused: a 12-bit camera uses a sixteenth of the range of a 16-bit file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.inspection import decode
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, UnreadableError, Unusable

_DEPTHS = (8, 10, 12, 14)


def decode_good(
    path: Path, paths: Sequence[Path], limits: config.Images, category: config.Category
) -> NDArray[np.uint8]:
    """Decode a good image, to be shown or compared: uint8 [height, width, 3], RGB. See `good_pixels`."""
    return decode.to_rgb(good_pixels(path, paths, limits, category, reduced_jpeg=False))


def good_pixels(
    path: Path, paths: Sequence[Path], limits: config.Images, category: config.Category, reduced_jpeg: bool
) -> NDArray[np.uint8]:
    """Decode a good image for the backbone.

    Args:
        path: of the image.
        paths: of all good images; they are read if the depth of this one is not clear.
        limits: on bytes and pixels.
        category: with the depth of the images.
        reduced_jpeg: of the memory bank.

    Returns:
        uint8 [height, width] of a grey image, or [height, width, 3], RGB, see `decode.for_backbone`.

    Raises:
        UnreadableError: the image cannot be decoded.
        SetupError: the file cannot be read, or the image has 16 bits, never uses its upper ones, and `bit_depth` is not
            set.
    """
    image, content_type = image_files.read(path), image_files.content_type(path)
    try:
        if category.bit_depth is None and _has_unused_bits(decode.brightest(image, content_type, limits)):
            raise SetupError(_advice(path, paths, limits))
        resize = category.resize if reduced_jpeg else None
        return decode.for_backbone(image, content_type, limits, category.depth, resize).pixels
    except Unusable as error:
        raise UnreadableError(f"{path}: {error.detail}") from error


def _has_unused_bits(brightest: int | None) -> bool:
    return brightest is not None and brightest < 2 ** _DEPTHS[-1]


def _advice(path: Path, paths: Sequence[Path], limits: config.Images) -> str:
    """What is unclear, and the depth to set: the smallest that has room for every 16-bit image."""
    values = {other: _brightest(other, limits) for other in paths}
    deep = {other: value for other, value in values.items() if value is not None}
    bright = [other for other, value in deep.items() if not _has_unused_bits(value)]
    text = f"{path}: has 16 bits per channel, but its greatest value is {deep[path]}"
    if bright:
        return (
            f"{text}, while {bright[0]} has {deep[bright[0]]}; if both are of one camera and this one is dark, set "
            "bit_depth: 16 for the category, otherwise separate them"
        )
    depth = next(bits for bits in _DEPTHS if max(deep.values()) < 2**bits)
    return (
        f"{text} (of all {len(deep)} such images: {max(deep.values())}); set bit_depth for the category to that of the "
        f"camera, as it seems {depth}, or to 16 if the images are only dark"
    )


def _brightest(path: Path, limits: config.Images) -> int | None:
    try:
        return decode.brightest(image_files.read(path), image_files.content_type(path), limits)
    except Unusable:  # fit names it when it is its turn
        return None
