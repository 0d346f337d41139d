"""How bright the images of a camera are, as a worker sees them, against good parts of the memory bank."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from patchline.config import BitDepth, Images
from patchline.inspection import decode
from patchline.protocol import image_files
from patchline.protocol.errors import Unusable

_INTERVAL_S = 1.0  # decoding each image again would take as long as encoding it


class ExposureMeter:
    """Looks at an image once a second.

    Args:
        limits: on bytes and pixels of images.
        depth: of the recipe of the category.
        show: called with the mean brightness, 0 to 1, and the share of pixels with the greatest value.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        limits: Images,
        depth: BitDepth,
        show: Callable[[float, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._depth, self._show, self._clock = limits, depth, show, clock
        self._due_at = float("-inf")

    def look(self, image: bytes, content_type: str) -> None:
        """Look at an encoded image, if it is time. One that cannot be decoded is for the worker to answer."""
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + _INTERVAL_S
        try:
            rgb = decode.decode(image, content_type, self._limits, self._depth)
        except Unusable:
            return
        self._show(float(rgb.mean()) / 255, float((rgb.max(axis=2) == 255).mean()))


def of_bank(folder: Path, limits: Images, depth: BitDepth) -> float | None:
    """Return the mean brightness of the golden images of a memory bank, 0 to 1. They are a few of its good parts.

    None: there is no such bank here, or it has none that can be decoded.
    """
    found: list[float] = []
    for path in sorted(folder.glob("golden-*")):
        if image_files.has_image_suffix(path.name):
            try:
                image = path.read_bytes()
                rgb = decode.decode(image, image_files.detect_content_type(image), limits, depth)
            except (OSError, Unusable):
                continue
            found.append(float(rgb.mean()) / 255)
    return sum(found) / len(found) if found else None
