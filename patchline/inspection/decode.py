"""Encoded bytes -> uint8 RGB pixels, within limits that are checked before any pixel is decoded.

The rule for every kind of picture: grey is repeated into three equal channels; 16 bits become 8 by dropping the low
byte, never by the picture's own range; alpha is ignored and the stored colours count; an orientation tag is ignored,
since a camera on a line does not turn. CMYK becomes RGB. Floating point and several frames are refused.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from patchline.config import Images
from patchline.protocol.errors import Reason, Unusable

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
}
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I;16L", "I"}
Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only here, and our own limit is the stricter one
cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # what it says of a broken image, our own error says too
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode(image: bytes, content_type: str, limits: Images) -> NDArray[np.uint8]:
    """Decode one captured image.

    Args:
        image: the encoded file, as captured.
        content_type: one of `FORMATS`, and it must be what the bytes are.
        limits: bytes and pixels that are accepted.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Unusable: it is of another type, over the limits, truncated, corrupt, or holds several frames.
    """
    width, height = _check_header(image, content_type, limits)
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), _FLAGS)
    except cv2.error as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"OpenCV cannot decode it: {error.err}") from error
    if pixels is None:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"the {content_type} data is truncated, corrupt or of an unusual kind")
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"decoded to {pixels.shape}, but its header says {width} x {height}")
    return np.asarray(pixels)


def _check_header(image: bytes, content_type: str, limits: Images) -> tuple[int, int]:
    expected = FORMATS.get(content_type)
    if expected is None:
        known = ", ".join(FORMATS)
        raise Unusable(Reason.UNSUPPORTED_CONTENT_TYPE, f"content type {content_type!r} is not one of {known}")
    if not image:
        raise Unusable(Reason.UNREADABLE_IMAGE, "the body is empty")
    if len(image) > limits.max_bytes:
        raise Unusable(Reason.IMAGE_OVER_LIMIT, f"{len(image)} bytes; images.max_bytes is {limits.max_bytes}")
    found, size, frames, mode = _read_header(image)
    if found != expected:
        raise Unusable(Reason.UNSUPPORTED_CONTENT_TYPE, f"content type is {content_type}, but the bytes are {found}")
    if size[0] * size[1] > limits.max_pixels:
        raise Unusable(
            Reason.IMAGE_OVER_LIMIT, f"{size[0]} x {size[1]} pixels; images.max_pixels is {limits.max_pixels}"
        )
    if min(size) < limits.min_side_pixels:
        least = limits.min_side_pixels
        raise Unusable(Reason.IMAGE_OVER_LIMIT, f"{size[0]} x {size[1]} pixels; images.min_side_pixels is {least}")
    if frames != 1:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"it holds {frames} frames; one image is one part")
    if mode not in MODES:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"its pixels are of kind {mode!r}; send 8 or 16 bits a channel")
    return size


def _read_header(image: bytes) -> tuple[str, tuple[int, int], int, str]:
    try:
        with Image.open(io.BytesIO(image), formats=tuple(FORMATS.values())) as header:
            return header.format or "", header.size, getattr(header, "n_frames", 1), header.mode
    except UnidentifiedImageError as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, "the bytes begin like no PNG, JPEG, BMP, TIFF or WebP file") from error
    # Pillow's parsers raise these for broken headers, and promise no smaller set.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"its header is broken: {error}") from error
