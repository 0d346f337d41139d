"""The directories of a TIFF file (TIFF 6.0 and BigTIFF), without its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

Tags = dict[int, tuple[int, ...]]
SIGNATURES = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BIG = (b"II+\0", b"MM\0+")
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of values: byte, short, long, long8, offsets
_MAX_DIRECTORIES = 100


class _Layout(NamedTuple):
    """How a directory is written: the formats of its counter, its entries without the value, and an offset."""

    counter: str
    entry: str
    offset: str


_CLASSIC, _LONG = _Layout("H", "HHI", "I"), _Layout("Q", "HHQ", "Q")


def directories(image: bytes) -> Iterator[Tags]:
    """Yield the tags of each page in order. Only tags with whole numbers are read.

    Raises:
        struct.error: the file ends before a directory or a value does, or a tag is there twice: readers differ in which
            one they take, so the size that is checked would not be the size that is decoded.
    """
    order = SIGNATURES[image[:4]]
    layout, start = (_LONG, 8) if image[:4] in _BIG else (_CLASSIC, 4)
    (position,) = struct.unpack_from(order + layout.offset, image, start)
    seen: set[int] = set()
    while position and position not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(position)
        tags, position = _directory(image, order, layout, position)
        yield tags


def _directory(image: bytes, order: str, layout: _Layout, position: int) -> tuple[Tags, int]:
    """Return the tags of the directory at a position, and the position of the next directory."""
    _require_inside(position, image)
    (count,) = struct.unpack_from(order + layout.counter, image, position)
    position += struct.calcsize(order + layout.counter)
    head, room = struct.calcsize(order + layout.entry), struct.calcsize(order + layout.offset)
    if position + count * (head + room) > len(image):
        raise struct.error("the directory is not complete")
    tags: Tags = {}
    seen: set[int] = set()
    for entry in range(position, position + count * (head + room), head + room):
        tag, type_, length = struct.unpack_from(order + layout.entry, image, entry)
        if tag in seen:
            raise struct.error(f"tag {tag} is there twice")
        seen.add(tag)
        if type_ not in _FORMATS or length > len(image):
            continue
        format_ = f"{order}{length}{_FORMATS[type_]}"
        value = entry + head
        if struct.calcsize(format_) > room:
            (value,) = struct.unpack_from(order + layout.offset, image, value)
            _require_inside(value, image)
        tags[tag] = struct.unpack_from(format_, image, value)
    end = position + count * (head + room)
    return tags, struct.unpack_from(order + layout.offset, image, end)[0] if end + room <= len(image) else 0


def _require_inside(position: int, image: bytes) -> None:
    if position >= len(image):
        raise struct.error(f"offset {position} is behind the end of the file")
