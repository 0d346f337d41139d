"""Does an encoded image have its end? A cheap check, without decoding, for images that may still be written."""

from __future__ import annotations

import itertools
import struct

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SCAN, _JPEG_FILL = 0xDA, 0xFF
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_FORMATS = {3: "H", 4: "I"}  # types of values: short, long
_TIFF_DATA = {273: 279, 324: 325}  # tags: offsets of strips and tiles, and their sizes


def is_whole(image: bytes) -> bool:
    """Return True if the end of the image is there.

    PNG and JPEG have an end marker, BMP and WebP say their size, and TIFF says where its pixels are (TIFF 6.0). The
    format is that of the content. False for an unknown format.
    """
    if image.startswith(_PNG):
        return _PNG_END in image
    if image.startswith(_JPEG):
        return _has_jpeg_end(image)
    if image[:4] in _TIFF:
        return _has_tiff_data(image, _TIFF[image[:4]])
    if image.startswith(b"BM") and len(image) >= 6:
        return len(image) >= int.from_bytes(image[2:6], "little")
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return len(image) >= int.from_bytes(image[4:8], "little") + 8
    return False


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


def _has_tiff_data(image: bytes, order: str) -> bool:
    """Compare the size of the file with the end of the pixels of the first image."""
    try:
        (directory,) = struct.unpack_from(f"{order}I", image, 4)
        tags = dict(_tiff_tags(image, order, directory))
    except struct.error:
        return False
    data = [
        zip(tags[offsets], tags[sizes], strict=False)
        for offsets, sizes in _TIFF_DATA.items()
        if offsets in tags and sizes in tags
    ]
    ends = [offset + size for offset, size in itertools.chain(*data)]
    return bool(ends) and len(image) >= max(ends)


def _tiff_tags(image: bytes, order: str, directory: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the tags of a directory that have integer values. Raise struct.error if one is not in the file."""
    (count,) = struct.unpack_from(f"{order}H", image, directory)
    tags = []
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, type_, length = struct.unpack_from(f"{order}HHI", image, entry)
        if type_ not in _TIFF_FORMATS:
            continue
        format_ = f"{order}{length}{_TIFF_FORMATS[type_]}"
        inline = struct.calcsize(format_) <= 4
        position = entry + 8 if inline else struct.unpack_from(f"{order}I", image, entry + 8)[0]
        tags.append((tag, struct.unpack_from(format_, image, position)))
    return tags
