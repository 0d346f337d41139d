"""What an encoded image says about itself. Pillow reads the headers of PNG, JPEG, BMP and WebP, and no pixels."""

from __future__ import annotations

import io
import struct
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from patchline.protocol import pnm, tiff
from patchline.protocol.errors import Reason, Unusable

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WebP",
    "image/x-portable-graymap": "PGM",
    "image/x-portable-pixmap": "PPM",
}
_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I"}
_GREY_MODES = {"1", "L"}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a frame header; the others are tables
_BMP_HEADER = struct.Struct("<14xI10xHI20x3I")  # its size, bits of a pixel, compression, masks of red, green and blue
_BMP_BITFIELDS = (3, 6)
# Tags of TIFF 6.0, and their values
_NEW_SUBFILE, _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_CHANNELS, _PLANAR, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 277, 284, 338, 339
_MIN_IS_WHITE, _RGB, _PALETTE = 0, 2, 3
_ORIENTATION = 274
_PHOTOMETRICS = {_MIN_IS_WHITE: 1, 1: 1, _RGB: 3, _PALETTE: 1, 5: 4, 6: 3}  # and their channels; 5 CMYK, 6 YCbCr
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_UNSIGNED, _UNDEFINED, _UNASSOCIATED_ALPHA = 1, 4, 2
_DEEP = (10, 12, 14, 16)
Image.MAX_IMAGE_PIXELS = None  # images.max_pixels is stricter, and checked before any pixel is decoded


class Header(NamedTuple):
    """What decides how an image is decoded.

    Attributes:
        width: in pixels.
        height: in pixels.
        bits: of a channel. 10, 12 and 14 are declared by the file; 16 may be the container of fewer.
        alignment: of declared bits below 16 in the decoded 16-bit values.
        page: of a TIFF.
        inverted: 0 is white, and OpenCV does not turn it round.
        planar: a 16-bit TIFF whose channels lie one after the other.
        alpha: of a TIFF, by which OpenCV multiplies the pixels.
        all_bits: OpenCV gives the right pixels only if they are not made 8 bits while they are decoded.
        grey: its 8 bits are one channel, and no palette or alpha belongs to them.
        reducible: a JPEG, which can be decoded at a half, a quarter or an eighth of its sides.
    """

    width: int
    height: int
    bits: int = 8
    alignment: Literal["low", "high"] = "high"
    page: int = 0
    inverted: bool = False
    planar: bool = False
    alpha: bool = False
    all_bits: bool = False
    grey: bool = False
    reducible: bool = False


def read(image: bytes, content_type: str) -> Header:
    """Read the header of an image of the format that its first bytes say.

    Raises:
        Unusable: the header is broken, or the pixels are of a kind that cannot be decoded right.
    """
    if content_type == "image/tiff":
        return _read_tiff(image)
    if content_type in ("image/x-portable-graymap", "image/x-portable-pixmap"):
        return _read_pnm(image)
    width, height, frames, mode = _read_with_pillow(image, FORMATS[content_type])
    if content_type == "image/bmp":
        _check_bmp(image)
    if frames != 1 and content_type != "image/jpeg":  # the first picture of a multi-picture JPEG is the full one
        raise unreadable(f"it has {frames} frames; send one image per part")
    if mode not in _MODES:
        raise unreadable(f"its pixel mode is {mode!r}; send 8 or 16 bits per channel")
    bits = 16 if content_type == "image/png" and image[24] == 16 else 8
    return Header(width, height, bits, grey=mode in _GREY_MODES, reducible=content_type == "image/jpeg")


def decode_without_alpha(image: bytes, page: int) -> NDArray[np.uint8]:
    """Decode a page of an 8-bit TIFF with alpha, whose colours are not to be multiplied by it.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Unusable: Pillow cannot decode it.
    """
    try:
        with Image.open(io.BytesIO(image), formats=("TIFF",)) as file:
            file.seek(page)
            mode = {"LA": "L", "RGBA": "RGB", "RGBX": "RGB"}.get(file.mode)
            if mode is None:
                raise ValueError(f"mode {file.mode}")
            colours = file.getchannel(0) if mode == "L" else Image.merge("RGB", file.split()[:3])
            return np.asarray(colours.convert("RGB"))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        detail = "it is truncated or corrupt, or its alpha cannot be left out; write it without alpha"
        raise unreadable(f"{detail} ({error})") from error


def orientation(image: bytes) -> int:
    """Return the tag that says how a PNG, JPEG or WebP is to be turned when it is shown (EXIF 2.3); 1 is upright.

    Decoding does not turn images by it. It follows the order of the rows of a TIFF, so a TIFF is upright.
    """
    try:
        with Image.open(io.BytesIO(image), formats=("PNG", "JPEG", "WEBP")) as header:
            tag = header.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError):  # it has no tag that can be read
        return 1
    return tag if tag in range(1, 9) else 1


def unreadable(detail: str) -> Unusable:
    """Return the error of an image that cannot be decoded."""
    return Unusable(Reason.UNREADABLE_IMAGE, detail)


def _read_with_pillow(image: bytes, image_format: str) -> tuple[int, int, int, str]:
    """Return width, height, number of frames and pixel mode, by the names of Pillow."""
    try:
        with Image.open(io.BytesIO(image), formats=(image_format.upper(),)) as header:
            return *header.size, getattr(header, "n_frames", 1), header.mode
    except UnidentifiedImageError as error:
        raise unreadable_pixels(image) from error
    # The parsers of Pillow can raise any of these for a broken header.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise unreadable(f"its header is broken: {error}") from error


def unreadable_pixels(image: bytes) -> Unusable:
    """Return the error of an image that OpenCV or Pillow does not read. Some kinds of JPEG get a better reason."""
    position = 2 if image.startswith(b"\xff\xd8") else len(image)
    while position + 5 <= len(image) and image[position] == 0xFF:
        marker = image[position + 1]
        if marker in _JPEG_FRAMES and image[position + 4] != 8:
            return unreadable(f"a JPEG with {image[position + 4]} bits per channel; write 8, or a PNG or TIFF of 16")
        if marker in (0xC3, 0xF7):
            return unreadable("a lossless JPEG; write a baseline JPEG, or a PNG")
        if marker in _JPEG_FRAMES or marker == 0xDA:
            break
        position += 1 if marker == 0xFF else 2 + int.from_bytes(image[position + 2 : position + 4])
    return unreadable("it is truncated, corrupt or of an unsupported variant")


def _check_bmp(image: bytes) -> None:
    """Refuse channels in another order than blue, green, red: OpenCV ignores the masks of a header below 56 bytes."""
    if len(image) < _BMP_HEADER.size:
        return  # OpenCV refuses it
    size, bits, compression, *masks = _BMP_HEADER.unpack_from(image)
    if size >= 40 and bits == 32 and compression in _BMP_BITFIELDS and masks != [0xFF0000, 0xFF00, 0xFF]:
        raise unreadable("a BMP whose 32-bit pixels are not in the order blue, green, red; write 24 bits a pixel")


def _read_pnm(image: bytes) -> Header:
    header = pnm.header(image)
    if header is None:
        raise unreadable("its header is broken")
    bits = {255: 8, 1023: 10, 4095: 12, 16_383: 14, 65_535: 16}.get(header.max_value)
    if bits is None:
        raise unreadable(f"its greatest value is {header.max_value}; write 255, 1023, 4095, 16383 or 65535")
    return Header(header.width, header.height, bits, "low", all_bits=8 < bits < 16, grey=bits == 8 and header.kind == 5)


def _read_tiff(image: bytes) -> Header:
    try:
        pages = list(tiff.directories(image))
    except struct.error as error:
        raise unreadable(f"its header is broken: {error}") from error
    full = [number for number, tags in enumerate(pages) if not _is_auxiliary(tags)]
    if len(full) != 1:
        raise unreadable(
            f"it has {len(full)} frames; send one image per part, and mark a thumbnail as such (NewSubfileType 1)"
        )
    page = full[0]
    tags = pages[page]
    try:
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        return _tiff_header(tags, width, height, page)
    except (KeyError, IndexError) as error:
        raise unreadable("its header is broken: it does not say its size") from error


def _is_auxiliary(tags: tiff.Tags) -> bool:
    """Return True for a page that is a reduced picture or a mask of another page."""
    return bool(_value(tags, _NEW_SUBFILE, 0) & 0b101) or _value(tags, _SUBFILE, 1) == 2


def _tiff_header(tags: tiff.Tags, width: int, height: int, page: int) -> Header:
    photometric, channels = _value(tags, _PHOTOMETRIC, -1), _value(tags, _CHANNELS, 1)
    bits = set(tags.get(_BITS, (1,)))
    formats = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    if not formats <= {_UNSIGNED, _UNDEFINED}:
        raise unreadable("a TIFF with signed or floating-point pixels; write unsigned 8 or 16 bits per channel")
    if photometric not in _PHOTOMETRICS:
        raise unreadable(f"a TIFF with the colours {photometric} (PhotometricInterpretation); write grey or RGB")
    if _value(tags, _COMPRESSION, 1) not in _COMPRESSIONS:
        raise unreadable(f"a TIFF with the compression {tags[_COMPRESSION][0]}; write none, LZW or Deflate")
    depth = bits.pop()
    grey_or_colour = photometric in (_MIN_IS_WHITE, 1, _RGB)
    allowed = {1, 8} if photometric in (_MIN_IS_WHITE, 1) else {4, 8} if photometric == _PALETTE else {8}
    if bits or not (depth in allowed or (depth in _DEEP and grey_or_colour)):
        raise unreadable(f"a TIFF with {depth} bits per channel; write 8, 10, 12, 14 or 16, the same for all")
    colours = _PHOTOMETRICS[photometric]
    deep, planar = depth in _DEEP, _value(tags, _PLANAR, 1) == 2 and channels > 1
    if channels not in (colours, colours + 1) or (deep and channels == 2):
        raise unreadable(f"a TIFF with {channels} channels of {depth} bits; write grey or RGB without further channels")
    if planar and deep and depth < 16:
        raise unreadable("a packed TIFF whose channels lie one after the other; write them interleaved")
    alpha = channels > colours and _value(tags, _EXTRA_SAMPLES, 0) == _UNASSOCIATED_ALPHA
    inverted = photometric == _MIN_IS_WHITE and deep
    all_bits = deep and (depth < 16 or alpha or colours == 1)
    grey = channels == 1 and photometric != _PALETTE and not deep
    return Header(width, height, depth if deep else 8, "high", page, inverted, planar and deep, alpha, all_bits, grey)


def _value(tags: tiff.Tags, tag: int, default: int) -> int:
    values = tags.get(tag) or (default,)
    return values[0]
