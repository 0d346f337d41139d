"""Ground-truth masks: files of every usual kind, and masks of another size that keep all that they mark."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.protocol import image_files
from patchline.protocol.errors import SetupError

Mask = NDArray[np.bool_]
Values = NDArray[np.integer]

_UPRIGHT = 1  # orientations of EXIF 2.3, tag 0x0112
_TURNS = {6: cv2.ROTATE_90_COUNTERCLOCKWISE, 8: cv2.ROTATE_90_CLOCKWISE}  # from upright back to the stored pixels
_LOSSY_MIDDLE = 128  # in a JPEG file the marks have a rim of grey pixels


def read(path: Path, shape: tuple[int, int], orientation: int) -> Values:
    """Read a mask.

    Args:
        path: of the mask, of 1 to 16 bits, grey, coloured or with a palette.
        shape: height and width of the image that it belongs to, as its pixels are stored.
        orientation: the tag of that image. A mask that was drawn on the turned picture is turned back.

    Returns:
        Integers [height, width], 0 where nothing is marked.

    Raises:
        SetupError: the file cannot be decoded, has another size, or may be turned or not.
    """
    values = _decode(path)
    if orientation == _UPRIGHT:
        _check_size(path, values, shape)
        return values
    if orientation in _TURNS and shape[0] != shape[1]:
        if values.shape == shape[::-1]:
            values = np.asarray(cv2.rotate(values, _TURNS[orientation]))
        _check_size(path, values, shape)
        return values
    raise SetupError(
        f"{path}: its image has the orientation tag {orientation}, so it is unclear which way up the mask is; "
        "save the image without the tag, and the mask as the image is then"
    )


def shrink(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Scale a mask to another size. A pixel is marked if any pixel that it stands for is marked.

    Each pixel of the mask belongs to one pixel of the result, that of its centre, so no mark vanishes. Where the result
    has more pixels, each is that of the nearest one.

    Args:
        mask: bool [height, width].
        shape: height and width of the result.
    """
    rows, columns = (_spans(side, new_side) for side, new_side in zip(mask.shape, shape, strict=True))
    padded = np.pad(mask, ((0, 1), (0, 1)))  # reduceat takes no end behind the last pixel
    by_row = np.logical_or.reduceat(padded, rows, axis=0)[::2]
    return np.asarray(np.logical_or.reduceat(by_row, columns, axis=1)[:, ::2])


def _spans(side: int, new_side: int) -> NDArray[np.int64]:
    """The first pixel and the one after the last of each new pixel, one after the other: int64 [2 * new_side]."""
    scale = side / new_side
    edges = np.ceil(np.arange(new_side + 1) * scale - 0.5).astype(np.int64)
    first, end = edges[:-1], edges[1:]
    nearest = np.minimum(((np.arange(new_side) + 0.5) * scale).astype(np.int64), side - 1)
    empty = first >= end
    return np.stack([np.where(empty, nearest, first), np.where(empty, nearest + 1, end)], axis=1).ravel()


def _decode(path: Path) -> Values:
    content = np.frombuffer(path.read_bytes(), np.uint8)  # cv2 opens no file whose name is not UTF-8
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise SetupError(f"{path}: is no mask that can be read; save it as a PNG of 8 bits")
    values = np.asarray(pixels if pixels.ndim == 2 else pixels[:, :, :3].max(axis=2))
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not values.any() and np.ptp(pixels[:, :, 3]):
        raise SetupError(f"{path}: its marks are in its transparency; save it without an alpha channel")
    if image_files.content_type(path) == "image/jpeg":
        values = np.where(values >= _LOSSY_MIDDLE, values, 0)
    return values


def _check_size(path: Path, values: Values, shape: tuple[int, int]) -> None:
    if values.shape != shape:
        size = f"{values.shape[1]} x {values.shape[0]}"
        raise SetupError(f"{path}: has {size} pixels, but its image has {shape[1]} x {shape[0]}")
