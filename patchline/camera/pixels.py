"""Pixels of a camera -> the encoded image of a job, with the bits that the recipe of the category counts.

More than 8 bits are kept if the recipe has a bit depth, and it is that of the camera. Without one a worker judges the 8
highest bits, so these are sent. 12 bits in a file of 16 would otherwise become 4.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.camera.base import CameraError, Frame
from patchline.config import BitDepth
from patchline.protocol import image_files

_FORMAT = re.compile(r"(Mono|BayerRG|BayerGR|BayerGB|BayerBG|RGB|BGR)(8|10|12|14|16)")
# GigE Vision 1 calls RGB8 and RGB12 of PFNC RGB8Packed and RGB12Packed. In grey and Bayer formats the word says that
# pixels share bytes, as `p` does in PFNC.
_OLD_NAME = re.compile(r"((?:RGB|BGR)\d+)Packed")
_PACKED = re.compile(r"((?:Mono|Bayer..|RGB|BGR)\d+)(?:p|Packed)")
_BAYER = {  # to BGR; the names are those of the first two pixels of the first two rows
    "BayerRG": cv2.COLOR_BayerRGGB2BGR,
    "BayerGR": cv2.COLOR_BayerGRBG2BGR,
    "BayerGB": cv2.COLOR_BayerGBRG2BGR,
    "BayerBG": cv2.COLOR_BayerBGGR2BGR,
}
_PNG_LEVEL = 1  # of 9: the fastest


class UnfitFrameError(CameraError):
    """The camera's pixel format does not fit the recipe, or is not known here."""

    cause = "unfit"


def encode(frame: Frame, depth: BitDepth, encoding: str, jpeg_quality: int) -> tuple[bytes, str]:
    """Return the encoded image, and its content type. An encoded file stays as it is.

    Args:
        frame: of the camera.
        depth: of the recipe of the category.
        encoding: png, jpeg or raw (PGM or PPM).
        jpeg_quality: 1 to 100.

    Raises:
        UnfitFrameError: see the class.
    """
    if frame.pixel_format is None:
        return frame.data, image_files.detect_content_type(frame.data)
    pixels, bits = _pixels(frame)
    check_encoding(depth, encoding)
    pixels, bits = _of_depth(pixels, bits, depth)
    if encoding == "jpeg":
        return _encode_with_opencv(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]), "image/jpeg"
    if encoding == "png":
        return _encode_with_opencv(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]), "image/png"
    return _pnm(pixels, bits)


def check_encoding(depth: BitDepth, encoding: str) -> None:
    """Raise UnfitFrameError if images of this encoding cannot have the depth of the recipe."""
    if encoding == "jpeg" and depth.bits not in (None, 8):
        raise UnfitFrameError(
            f"bit_depth of the category is {depth.bits}, and a JPEG has 8; set camera.encoding: png or raw"
        )


def _pixels(frame: Frame) -> tuple[NDArray[Any], int]:
    """Return grey or BGR pixels, uint8 or uint16, and their bits."""
    name = _OLD_NAME.sub(r"\1", frame.pixel_format or "")
    match = _FORMAT.fullmatch(name)
    if match is None:
        packed = _PACKED.fullmatch(name)
        if packed is not None:
            raise UnfitFrameError(
                f"pixel format {name!r} packs pixels into shared bytes; set the camera to {packed[1]}"
            )
        advice = "set the camera to Mono, Bayer, RGB or BGR with 8, 10, 12, 14 or 16 bits, not packed"
        raise UnfitFrameError(f"pixel format {name!r} is not known; {advice}")
    kind, bits = match[1], int(match[2])
    channels = 3 if kind in ("RGB", "BGR") else 1
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    expected = frame.width * frame.height * channels * dtype.itemsize
    if len(frame.data) != expected or not expected:
        size = f"{frame.width} x {frame.height} {name}"
        raise UnfitFrameError(f"the frame has {len(frame.data)} bytes, and {size} has {expected}")
    values = np.frombuffer(frame.data, dtype).reshape(frame.height, frame.width, channels)
    if channels == 3:
        return (values[..., ::-1] if kind == "RGB" else values), bits
    grey = values[..., 0]
    return (np.asarray(cv2.cvtColor(grey, _BAYER[kind])) if kind in _BAYER else grey), bits


def _of_depth(pixels: NDArray[Any], bits: int, depth: BitDepth) -> tuple[NDArray[Any], int]:
    """Return the pixels with the bits that the recipe counts, where the recipe expects them, and how many they are."""
    if depth.bits in (None, 8):
        return (pixels if bits == 8 else (pixels >> (bits - 8)).astype(np.uint8)), 8
    if depth.bits != bits:
        raise UnfitFrameError(
            f"the camera sends {bits} bits, and bit_depth of the category is {depth.bits}: "
            "set the camera to that depth, or fit the category again with that of the camera"
        )
    return (pixels << (16 - bits), 16) if depth.alignment == "high" else (pixels, bits)


def _encode_with_opencv(suffix: str, pixels: NDArray[Any], options: list[int]) -> bytes:
    is_encoded, image = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not is_encoded:
        raise UnfitFrameError(f"OpenCV cannot write the frame as {suffix}")
    return image.tobytes()


def _pnm(pixels: NDArray[Any], bits: int) -> tuple[bytes, str]:
    """Return a PGM or PPM (Netpbm). Its greatest value says the bits, and 16-bit values are big-endian."""
    colour = pixels.ndim == 3
    height, width = pixels.shape[:2]
    header = f"P{6 if colour else 5}\n{width} {height}\n{2**bits - 1}\n".encode()
    values = pixels[..., ::-1] if colour else pixels
    body = np.ascontiguousarray(values, np.uint8 if bits == 8 else ">u2").tobytes()
    return header + body, "image/x-portable-pixmap" if colour else "image/x-portable-graymap"
