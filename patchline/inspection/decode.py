"""Encoded bytes -> uint8 RGB pixels. Limits are checked before any pixel is decoded.

All formats follow the same rules. Grey becomes three equal channels. 16 bits become 8 by dropping the low byte,
whatever the range of the image. Alpha and orientation tags are ignored. CMYK becomes RGB. Floating-point pixels and
several frames are refused.
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
Image.MAX_IMAGE_PIXELS = None  # Pillow only reads headers here, and images.max_pixels is stricter
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors report broken images
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode(image: bytes, content_type: str, limits: Images) -> NDArray[np.uint8]:
    """Decode one captured image.

    Args:
        image: the encoded file, as captured.
        content_type: one of `FORMATS`; the bytes must be of this type.
        limits: on bytes and pixels.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Unusable: the image has another type, exceeds a limit, is truncated or corrupt, or has several frames.
    """
    width, height = _check_header(image, content_type, limits)
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), _FLAGS)
    except cv2.error as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"OpenCV cannot decode it: {error.err}") from error
    if pixels is None:
        raise Unusable(
            Reason.UNREADABLE_IMAGE, f"the {content_type} data is truncated, corrupt or of an unsupported variant"
        )
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"decoded to {pixels.shape}, but its header says {width} x {height}")
    return np.asarray(pixels)


def _check_header(image: bytes, content_type: str, limits: Images) -> tuple[int, int]:
    """Return width and height."""
    expected_format = FORMATS.get(content_type)
    if expected_format is None:
        supported = ", ".join(FORMATS)
        raise Unusable(Reason.UNSUPPORTED_CONTENT_TYPE, f"content type {content_type!r} is not one of {supported}")
    if not image:
        raise Unusable(Reason.UNREADABLE_IMAGE, "the body is empty")
    if len(image) > limits.max_bytes:
        raise Unusable(Reason.IMAGE_OVER_LIMIT, f"{len(image)} bytes; images.max_bytes is {limits.max_bytes}")
    image_format, (width, height), frames, mode = _read_header(image)
    if image_format != expected_format:
        detail = f"content type is {content_type}, but the bytes are {image_format}"
        raise Unusable(Reason.UNSUPPORTED_CONTENT_TYPE, detail)
    if width * height > limits.max_pixels:
        detail = f"{width} x {height} pixels; images.max_pixels is {limits.max_pixels}"
        raise Unusable(Reason.IMAGE_OVER_LIMIT, detail)
    if min(width, height) < limits.min_side_pixels:
        detail = f"{width} x {height} pixels; images.min_side_pixels is {limits.min_side_pixels}"
        raise Unusable(Reason.IMAGE_OVER_LIMIT, detail)
    if frames != 1:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"it has {frames} frames; send one image per part")
    if mode not in MODES:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"its pixel mode is {mode!r}; send 8 or 16 bits per channel")
    return width, height


def _read_header(image: bytes) -> tuple[str, tuple[int, int], int, str]:
    """Return format, (width, height), number of frames and pixel mode, by the names of Pillow."""
    try:
        with Image.open(io.BytesIO(image), formats=tuple(FORMATS.values())) as header:
            return header.format or "", header.size, getattr(header, "n_frames", 1), header.mode
    except UnidentifiedImageError as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, "the bytes are no PNG, JPEG, BMP, TIFF or WebP file") from error
    # The parsers of Pillow can raise any of these for a broken header.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise Unusable(Reason.UNREADABLE_IMAGE, f"its header is broken: {error}") from error
