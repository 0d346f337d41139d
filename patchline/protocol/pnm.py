"""The header of a PGM or PPM file (Netpbm): its kind, its size and its greatest value."""

from __future__ import annotations

import re
from typing import NamedTuple

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([1-6])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})(?:" + _SPACE + rb"(\d{1,5}))?\s")
_MAX_BYTES = 4096  # of a header with comments


class Header(NamedTuple):
    """`kind` is the digit of the signature: 5 is PGM, 6 is PPM, the others are texts or one bit a pixel."""

    kind: int
    width: int
    height: int
    max_value: int
    size: int

    @property
    def file_bytes(self) -> int:
        """The size of the whole file, for the kinds 5 and 6."""
        channels = 3 if self.kind == 6 else 1
        return self.size + self.width * self.height * channels * (2 if self.max_value > 255 else 1)


def header(image: bytes) -> Header | None:
    """Return the header; None if there is none."""
    match = _HEADER.match(image[:_MAX_BYTES])
    if match is None:
        return None
    kind, width, height, max_value = (int(group or 1) for group in match.groups())
    return Header(kind, width, height, max_value, match.end())
