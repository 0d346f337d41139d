"""Does an encoded image have its end? A cheap check, without decoding, for images that may still be written."""

from __future__ import annotations

import itertools
import struct

from patchline.protocol import pnm, tiff

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SCAN, _JPEG_FILL = 0xDA, 0xFF
_TIFF_DATA = {273: 279, 324: 325}  # tags: offsets of strips and tiles, and their sizes


def is_whole(image: bytes) -> bool:
    """Return True if the end of the image is there.

    PNG and JPEG have an end marker, BMP and WebP say their size, that of PGM and PPM follows from their header, and
    TIFF says where its pixels are. The format is that of the content. False for an unknown format.
    """
    if image.startswith(_PNG):
        return _PNG_END in image
    if image.startswith(_JPEG):
        return _has_jpeg_end(image)
    if image[:4] in tiff.SIGNATURES:
        return _has_tiff_data(image)
    if image.startswith(b"BM") and len(image) >= 6:
        return len(image) >= int.from_bytes(image[2:6], "little")
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return len(image) >= int.from_bytes(image[4:8], "little") + 8
    header = pnm.header(image)
    return header is not None and len(image) >= header.file_bytes


def _has_jpeg_end(image: bytes) -> bool:
    """Look for the end marker after the header of the first scan: thumbnails in earlier segments have one too."""
    position = len(_JPEG)
    while position + 4 <= len(image):
        marker, size = image[position + 1], int.from_bytes(image[position + 2 : position + 4])
        if marker == _JPEG_FILL:
            position += 1
            continue
        position += 2 + size
        if marker == _JPEG_SCAN:
            return _JPEG_END in image[position:]
    return False


def _has_tiff_data(image: bytes) -> bool:
    """Compare the size of the file with the end of the pixels of its pages."""
    try:
        ends = [end for tags in tiff.directories(image) for end in _ends_of_pixels(tags)]
    except struct.error:
        return False
    return bool(ends) and len(image) >= max(ends)


def _ends_of_pixels(tags: tiff.Tags) -> list[int]:
    data = [zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False) for offsets, sizes in _TIFF_DATA.items()]
    return [offset + size for offset, size in itertools.chain(*data)]
