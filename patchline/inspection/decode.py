"""Encoded bytes -> uint8 RGB pixels. Limits are checked before any pixel is decoded.

All formats follow the same rules. The content decides the format, not its name. Grey becomes three equal channels. More
than 8 bits become the 8 highest of the depth of the recipe, whatever the range of the image. Alpha is ignored, and so
is the orientation of EXIF; that of a TIFF is the order of its rows, which is followed. CMYK becomes RGB. Floating-point
pixels and several frames are refused; thumbnails are not frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.config import BitDepth, Images
from patchline.inspection import image_header
from patchline.inspection.image_header import FORMATS, Header, unreadable
from patchline.protocol import image_files
from patchline.protocol.errors import Reason, Unusable

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors report broken images
AS_STORED = BitDepth()
_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {  # by the divisor of the sides, the largest first; bits of their own, that go with colour, too
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
_LEAST_SIDE = 4  # of a reduced image, in sides of the square that it is resized to: decision 218


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured image for the backbone.

    Attributes:
        pixels: uint8 [height, width] of a grey image, or [height, width, 3], RGB. Their sides may be smaller than those
            of the captured image.
        shape: height and width of the captured image in pixels.
    """

    pixels: NDArray[np.uint8]
    shape: tuple[int, int]


def decode(image: bytes, content_type: str, limits: Images, depth: BitDepth = AS_STORED) -> NDArray[np.uint8]:
    """Decode one captured image, to be shown or compared.

    Args:
        image: the encoded file, as captured.
        content_type: one of `FORMATS`; the bytes may be of another one.
        limits: on bytes and pixels.
        depth: of the recipe.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Unusable: the image is of no known type, exceeds a limit, is truncated or corrupt, has several frames, or
            contradicts the depth of the recipe.
    """
    return to_rgb(for_backbone(image, content_type, limits, depth).pixels)


def for_backbone(
    image: bytes, content_type: str, limits: Images, depth: BitDepth = AS_STORED, resize: int | None = None
) -> Captured:
    """Decode one captured image as `decode`, but not more of it than the backbone needs. Grey stays one channel.

    Args:
        image: see `decode`, as the next three.
        content_type: see there.
        limits: see there.
        depth: see there.
        resize: side of the square that the pixels will be resized to. A JPEG is decoded at a half, a quarter or an
            eighth of its sides, if both stay at least four times as long as that. None: all images are decoded in full.

    Raises:
        Unusable: as `decode`.
    """
    header = _check_header(image, content_type, limits)
    _check_depth(header, depth)
    divisor = 1 if resize is None else _divisor(header, resize)
    if divisor == 1:
        pixels = _in_full(image, header, depth)
        return Captured(pixels, (pixels.shape[0], pixels.shape[1]))
    pixels = _pixels(image, header, _REDUCED[divisor] | (_GREY if header.grey else _RGB))
    reduced = header._replace(width=-(-header.width // divisor), height=-(-header.height // divisor))
    return Captured(_check_shape(pixels, reduced, np.uint8), (header.height, header.width))


def _divisor(header: Header, resize: int) -> int:
    """What the sides of an image may be divided by while it is decoded."""
    shorter = min(header.width, header.height) if header.reducible else 0
    return next((divisor for divisor in _REDUCED if shorter >= divisor * _LEAST_SIDE * resize), 1)


def _in_full(image: bytes, header: Header, depth: BitDepth) -> NDArray[np.uint8]:
    if header.alpha and header.bits == 8:
        return _check_shape(image_header.decode_without_alpha(image, header.page), header, np.uint8)
    if header.all_bits or (header.bits > 8 and depth.bits is not None):
        return _to_8_bits(_all_bits(image, header), header, depth)
    return _check_shape(_pixels(image, header, _GREY if header.grey else _RGB), header, np.uint8)


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give a grey image, uint8 [height, width], three equal channels. One with three is returned as it is."""
    return pixels if pixels.ndim == 3 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)


def brightest(image: bytes, content_type: str, limits: Images) -> int | None:
    """Return the greatest value of an image whose file has 16 bits per channel; None for another depth.

    Raises:
        Unusable: as `decode`.
    """
    header = _check_header(image, content_type, limits)
    return int(_all_bits(image, header).max()) if header.bits == 16 else None


def _all_bits(image: bytes, header: Header) -> NDArray[np.uint16]:
    """uint16 [height, width] or [height, width, 3], BGR, as OpenCV stores it."""
    if header.planar:
        raise unreadable("a 16-bit TIFF whose channels lie one after the other; write them interleaved")
    values = _check_shape(_pixels(image, header, cv2.IMREAD_UNCHANGED), header, np.uint16)
    return values if values.ndim == 2 else values[..., :3]  # without alpha, which may use more bits


def _to_8_bits(values: NDArray[np.uint16], header: Header, depth: BitDepth) -> NDArray[np.uint8]:
    """The 8 highest bits of the depth, as grey or RGB."""
    bits, alignment = (header.bits, header.alignment) if header.bits < 16 else (depth.bits or 16, depth.alignment)
    if alignment == "low":
        _check_high_bits(values, bits)
        values >>= bits - 8
    else:
        _check_low_bits(values, bits)
        values >>= 8
    pixels = values.astype(np.uint8)
    del values  # twice the size of the pixels, which may be copied once more
    if header.inverted:
        pixels = 255 - pixels
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _check_high_bits(values: NDArray[np.uint16], bits: int) -> None:
    highest = int(values.max())
    if highest >> bits:
        raise unreadable(
            f"it has the value {highest}, but {bits} bits end at {2**bits - 1}: "
            "bit_depth of the category is too small, or its values need bit_alignment: high"
        )


def _check_low_bits(values: NDArray[np.uint16], bits: int) -> None:
    unused = 16 - bits
    if int(np.bitwise_or.reduce(values, axis=None)) & ((1 << unused) - 1):
        raise unreadable(
            f"its lowest {unused} bits are in use, but {bits} bits with bit_alignment: high leave them 0: "
            "bit_depth of the category is too small, or its values need bit_alignment: low"
        )


def _check_header(image: bytes, content_type: str, limits: Images) -> Header:
    """Return the header, once everything but the pixels and their depth is checked."""
    if content_type not in FORMATS:
        supported = ", ".join(FORMATS)
        raise Unusable(Reason.UNSUPPORTED_CONTENT_TYPE, f"content type {content_type!r} is not one of {supported}")
    if not image:
        raise unreadable("the body is empty")
    if len(image) > limits.max_bytes:
        raise Unusable(Reason.IMAGE_OVER_LIMIT, f"{len(image)} bytes; images.max_bytes is {limits.max_bytes}")
    detected = image_files.detect_content_type(image)
    if detected not in FORMATS:
        raise unreadable(image_files.describe_foreign(image) + f"; write {', '.join(FORMATS.values())}")
    header = image_header.read(image, detected)
    width, height = header.width, header.height
    if width * height > limits.max_pixels:
        detail = f"{width} x {height} pixels; images.max_pixels is {limits.max_pixels}"
        raise Unusable(Reason.IMAGE_OVER_LIMIT, detail)
    if width < limits.min_side_pixels or height < limits.min_side_pixels:
        detail = f"{width} x {height} pixels; images.min_side_pixels is {limits.min_side_pixels}"
        raise Unusable(Reason.IMAGE_OVER_LIMIT, detail)
    return header


def _check_depth(header: Header, depth: BitDepth) -> None:
    if depth.bits is not None and header.bits not in (depth.bits, 16):
        raise unreadable(
            f"it has {header.bits} bits per channel, but bit_depth of the category is {depth.bits}: "
            "set the camera to that depth, or fit the category again with the depth of the camera"
        )


def _pixels(image: bytes, header: Header, flags: int) -> NDArray[Any]:
    data = np.frombuffer(image, np.uint8)
    pixels: NDArray[Any] | None = None
    try:
        if header.page == 0:
            pixels = cv2.imdecode(data, flags)
        else:
            is_decoded, pages = cv2.imdecodemulti(data, flags, range=(header.page, header.page + 1))
            pixels = pages[0] if is_decoded and pages else None
    except cv2.error as error:
        raise unreadable(f"OpenCV cannot decode it: {error.err}") from error
    if pixels is None:
        raise image_header.unreadable_pixels(image)
    return cast("NDArray[Any]", pixels)


def _check_shape(pixels: NDArray[Any], header: Header, dtype: type[_Pixel]) -> NDArray[_Pixel]:
    height, width = pixels.shape[:2]
    is_turned = (width, height) == (header.height, header.width)  # a TIFF may store columns as rows
    if pixels.dtype != dtype or ((width, height) != (header.width, header.height) and not is_turned):
        size = f"{header.width} x {header.height}"
        raise unreadable(f"decoded to {pixels.shape} {pixels.dtype}, but its header says {size}")
    return pixels
